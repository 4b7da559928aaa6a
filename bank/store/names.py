"""Names in a store: of collections, ledgers and aliases, of images, and of records about an ingestion's shares."""

from __future__ import annotations

import re

_COLLECTION = re.compile(r"(?P<bank>.+)--L(?P<layer>\d\d+)")
_IMAGES = re.compile(r"(?P<bank>.+)--V(?P<vlm>[0-9a-f]{8})")


def collection_name(bank: str, layer: int) -> str:
    """Return the name of a layer's collection on a server."""
    return f"{bank}--L{layer:02d}"


def ledger_name(bank: str) -> str:
    """Return the name of the collection on a server that holds a version's ledger.

    Names of banks hold no double hyphen, so no bank's layer has such a name.
    """
    return f"{bank}--ledger"


def images_name(bank: str, fingerprint: str) -> str:
    """Return the name that the images of a VLM are stored under, by the first 8 hex digits of its fingerprint.

    Names of banks hold no double hyphen, so no bank and no version has such a name. All versions of a bank share it.
    """
    return f"{bank}--V{fingerprint[:8]}"


def split_images(stored: str) -> tuple[str, str] | None:
    """Return the bank and the 8 hex digits of the VLM of a name made by `images_name`; None for any other name."""
    match = _IMAGES.fullmatch(stored)
    return (match["bank"], match["vlm"]) if match else None


def in_use_name(bank: str) -> str:
    """Return the name of the record that says which version of a bank is in use.

    No bank and no version can have such a name.
    """
    return f"{bank}@in-use"


def alias_name(bank: str, layer: int) -> str:
    """Return the name of the alias on a server that points to a layer of the version in use."""
    return collection_name(in_use_name(bank), layer)


def split_collection(collection: str) -> tuple[str, int] | None:
    """Return bank and layer of a collection named by `collection_name`; None for any other collection."""
    match = _COLLECTION.fullmatch(collection)
    return (match["bank"], int(match["layer"])) if match else None


def split_ledger(collection: str) -> str | None:
    """Return the bank of a collection named by `ledger_name`; None for any other collection."""
    bank = collection.removesuffix(ledger_name(""))
    return bank if bank and bank != collection else None


def share_path(corpus: str, key: str) -> str:
    """Return the name of a record about a share of a corpus's ingestion.

    Corpus names hold no slash, so corpus and key can always be told apart.
    """
    return f"{key}/{corpus}"


def share_key(path: str, corpus: str) -> str | None:
    """Return the key of a name made by `share_path`; None if it belongs to another corpus."""
    key, _, owner = path.rpartition("/")
    return key if owner == corpus else None
