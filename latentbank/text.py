"""Short pieces of text that messages share: first lines, reasons, lists, counts, layers, hub ids."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath, PureWindowsPath

from latentbank.errors import QueryError

_SECRETS = re.compile(r"\w+://\S+|\bhf_\w+")
# From the root, a drive or the home folder, with two parts or more, but not inside an address.
_PATH = re.compile(
    r"(?<![\w.:/\\~])(?:~|[A-Za-z]:)?[/\\]{1,2}(?:[^\s/\\'\"]+[/\\])+([^\s/\\'\"]*[^\s/\\'\".,;:!?)])"
)
_HUB_ID = re.compile(r"[a-zA-Z0-9][\w.-]*/[\w.-]+|[a-zA-Z0-9][\w-]*")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if the message is empty."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def public_reason(error: BaseException) -> str:
    """Return what an error of a library that talks to the hub says, without addresses and access tokens.

    The first two lines of it, at most 400 characters: `datasets` lists the configurations to choose from on the second.
    """
    lines = [line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip()]
    return _SECRETS.sub("...", ": ".join(lines[:2]))[:400] or type(error).__name__


def listed(items: Iterable[object]) -> str:
    """Return items separated by commas, such as "4, 8, 12"."""
    return ", ".join(map(str, items))


def count_text(number: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun: "1 node", "3 nodes"."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def in_layers(layers: Iterable[int]) -> str:
    """Return where as many contexts are: "in each of the layers 4, 8", or "in layer 4"."""
    numbers = list(layers)
    return f"in layer {numbers[0]}" if len(numbers) == 1 else f"in each of the layers {listed(numbers)}"


def layer_numbers(text: str) -> list[int]:
    """Return the layers in a text such as "4,8,12", sorted, each once.

    Raises:
        QueryError: a part is not a number, or empty.
    """
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise QueryError(
            f"'{text}' is not a list of layers; write numbers with commas, such as 4,8,12."
        ) from None


def is_unicode(text: str) -> bool:
    """Return whether a string can be written in UTF-8: half a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_unicode(text: str) -> str:
    r"""Return a text that can be written in UTF-8: half a surrogate pair becomes an escape, as in \udce9.

    Such halves stand for bytes of file names that are not UTF-8. Inside JSON the escape is JSON's own.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def check_text(text: object, what: str) -> None:
    """Check that something is text that a tokenizer can read.

    Args:
        text: what was given.
        what: its name, such as "sentence".

    Raises:
        QueryError: it is not a string, or holds half a surrogate pair.
    """
    if not isinstance(text, str):
        raise QueryError(f"The {what} is of type {type(text).__name__}; give text.")
    if not is_unicode(text):
        half = next(letter for letter in text if not is_unicode(letter))
        raise QueryError(
            f"The {what} holds {half!a}, half of a character in UTF-16 or a byte that is not UTF-8; remove it."
        )


def is_path(name: str) -> bool:
    """Return whether a model's name is the absolute path of a folder or file, on this system or another."""
    return PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()


def public_name(name: str) -> str:
    """Return a model's name for others: a hub id as it is, of a path only the last part, as the rest is private."""
    if not is_path(name):
        return name
    return PureWindowsPath(name).name or name


def without_paths(text: str) -> str:
    """Return a message for others: of each absolute path in it only the last part, as the rest is private."""
    return _PATH.sub(r"\1", text)


def is_hub_id(text: str, *, owner: bool = False) -> bool:
    """Return whether text has the form of a hub repository's id, such as "owner/name" or "name".

    Args:
        text: the text to check.
        owner: whether the owner is required.
    """
    return bool(_HUB_ID.fullmatch(text)) and (not owner or "/" in text)
