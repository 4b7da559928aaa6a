"""Errors a user can fix: one class for each kind of thing to do about it."""

from __future__ import annotations


class LatentBankError(Exception):
    """Base class of all errors that latentbank raises on purpose.

    The message says what is wrong and what to do about it. It names no options of the command line.

    Attributes:
        argument: name of the Python argument to change, such as "dtype"; None: there is none. The command line adds the
            option of that name to the message.
        functions: names of functions that help, such as "drop_corpus". The command line adds their commands.

    Examples:
        >>> import latentbank as lb
        >>> try:
        ...     bank = lb.open_bank("no-such-bank")
        ... except lb.LatentBankError as error:
        ...     print(type(error).__name__)
        BankNotFound
    """

    def __init__(self, message: str, *, argument: str | None = None, functions: tuple[str, ...] = ()) -> None:
        """Keep the message, and the names of the argument to change and of the functions that help."""
        super().__init__(message)
        self.argument = argument
        self.functions = functions


class BankUnavailable(LatentBankError):
    """The store cannot be reached, refuses the key, is full, or does not answer in time.

    Examples:
        >>> import latentbank as lb
        >>> try:
        ...     bank = lb.open_bank("captions", url="http://localhost:1", retries=0)
        ... except lb.BankUnavailable:
        ...     bank = lb.open_bank("captions", url="")
        >>> bank.close()
    """


class BankBusy(LatentBankError):
    """Another process holds the embedded bank open.

    Examples:
        >>> import latentbank as lb
        >>> from latentbank.errors import BankBusy
        >>> with lb.open_bank("captions"):
        ...     try:
        ...         again = lb.open_bank("captions")
        ...     except BankBusy:
        ...         print("open already")
        open already
    """


class BankNotFound(LatentBankError):
    """There is no bank of that name.

    Examples:
        >>> import latentbank as lb
        >>> model = lb.load_language_model("HuggingFaceTB/SmolLM2-135M")
        >>> try:
        ...     bank = lb.open_bank("new")
        ... except lb.BankNotFound:
        ...     bank = lb.create_bank("new", model, layers=[8])
        >>> bank.close()
    """


class BankMismatch(LatentBankError):
    """The bank was made with another model, another schema or other settings."""


class LayerNotFound(LatentBankError):
    """The bank or the LLM does not have the requested layer."""


class QueryError(LatentBankError):
    """The query or the filter is invalid: wrong shape, zero, not finite, or an unknown field."""


class CorpusError(LatentBankError):
    """The corpus is missing, empty, unreadable or has changed, or its name is invalid."""


class ImageError(LatentBankError):
    """The image cannot be read; replace it or make it smaller."""


class SoundError(LatentBankError):
    """The sound cannot be read; replace it or cut it into parts."""


class ModelError(LatentBankError):
    """The model cannot be loaded, lacks something, or produced non-finite hidden states."""
