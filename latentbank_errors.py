"""The errors latentbank raises on purpose, one class for each thing a user can do about it."""


class LatentBankError(Exception):
    """Base class: its message is one clear sentence that says what to do."""


class BankUnavailable(LatentBankError):
    """The store cannot be reached, refuses the key, is full or does not answer in time."""


class BankBusy(LatentBankError):
    """Another process holds the embedded bank open."""


class BankNotFound(LatentBankError):
    """There is no bank of that name."""


class BankMismatch(LatentBankError):
    """The bank was made with another model, another schema or other settings."""


class LayerNotFound(LatentBankError):
    """The bank or the LLM does not have the layer asked for."""


class QueryError(LatentBankError):
    """A query or a filter that cannot be answered: wrong shape, zero, not finite, unknown field."""


class CorpusError(LatentBankError):
    """The corpus is missing, empty, unreadable, changed, or its name is no name."""


class ImageError(LatentBankError):
    """An image that cannot be read: replace it, or make it smaller."""


class ModelError(LatentBankError):
    """The model cannot be loaded, lacks something, or produced non-finite hidden states."""
