"""Which version a server bank's plain name means: Qdrant's collection aliases, switched for all layers in one request.

`{bank}@in-use--L{layer:02d}` leads to a layer collection of the version in use; a bank without these aliases means the
collections of its plain name. An alias cannot have the name of a collection that is there, hence a name of their own.

The server lists aliases one collection after the other. If they are switched meanwhile, the answer is of two moments:
aliases of two versions, or none. Such an answer is asked for again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol, TypeVar

from qdrant_client import models
from qdrant_client.qdrant_remote import QdrantRemote

from latentbank.bank.store.base import alias_name, collection_name, in_use_name, split_collection
from latentbank.bank.versions import listed_versions, stored_parts, version_of
from latentbank.errors import BankBusy, BankMismatch, BankUnavailable

T = TypeVar("T")

# Seconds before a listing of two moments is asked for again.
_PAUSES = (0.0, 0.05, 0.2, 0.5)


class Call(Protocol):
    """Sends a request, with retries."""

    def __call__(self, request: Callable[[], T]) -> T:
        """Give its answer."""


def version_in_use(client: QdrantRemote, call: Call, bank: str, *, by_token: bool = False) -> str:
    """Give the name under which the version is stored that a bank's plain name means.

    Args:
        client: the server.
        call: sends a request, with retries.
        bank: the plain name.
        by_token: the key may be a token that opens some collections only.

    Raises:
        BankUnavailable: the token does not open the version in use; or the bank's aliases lead to several versions,
            as only those do that were made by other means than `switch`.
    """
    meant: set[str] = set()
    for pause in _PAUSES:
        time.sleep(pause)
        meant = set(_aliases(client, call, bank).values())
        if len(meant) == 1:
            return meant.pop()
        if not meant:
            there = _layers_of(client, call, bank)
            if by_token and _leads_elsewhere(client, call, bank, there.get(bank, [])):
                raise BankUnavailable(
                    f"The token does not open the version of the bank '{bank}' that is in use; ask for one of more "
                    "versions (`latentbank bank token --versions`), or name a version."
                )
            if there.keys() <= {bank}:
                break
    if not meant:
        return bank
    raise BankUnavailable(
        f"The aliases of the bank '{bank}' lead to several versions "
        f"({listed_versions(bank, map(version_of, meant))}); choose one with `latentbank bank use {bank}@N`."
    )


def switch(client: QdrantRemote, call: Call, bank: str, stored: str, layers: Iterable[int]) -> None:
    """Let a bank's plain name mean a version, for all layers in one step.

    Args:
        client: the server.
        call: sends a request, with retries.
        bank: the plain name.
        stored: the name that the version is stored under.
        layers: the version's layers.

    Raises:
        BankMismatch: a layer has no collection.
        BankBusy: another process has switched it at the same moment.
    """
    wanted, there = set(layers), _layers_of(client, call, bank)
    # Asked first: the server applies what comes before an alias that it refuses.
    if missing := wanted.difference(there.get(stored, ())):
        raise BankMismatch(
            f"Layer {', '.join(map(str, sorted(missing)))} of {bank}@{version_of(stored)} has no collection; ingest "
            "its corpora again (`latentbank ingest run`), then run the command again."
        )
    # Also layers that another process may just be giving an alias; one that is not there is no error.
    others = {layer for found in there.values() for layer in found} | _aliases(client, call, bank).keys()
    actions: list[models.AliasOperations] = [
        models.CreateAliasOperation(
            create_alias=models.CreateAlias(
                collection_name=collection_name(stored, layer), alias_name=alias_name(bank, layer)
            )
        )
        for layer in sorted(wanted)
    ]
    actions += [
        models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias_name(bank, layer)))
        for layer in sorted(others - wanted)
    ]
    call(lambda: client.update_collection_aliases(change_aliases_operations=actions))
    if version_in_use(client, call, bank) != stored:
        raise BankBusy(
            f"Another process has switched the bank '{bank}' to another version at the same moment; see "
            "`latentbank bank list`, then run the command again."
        )


def _aliases(client: QdrantRemote, call: Call, bank: str) -> Mapping[int, str]:
    """Give the version that each layer's alias leads to, by the name it is stored under."""
    answer = call(client.get_aliases)
    found: dict[int, str] = {}
    for one in answer.aliases:
        alias, of = split_collection(one.alias_name), split_collection(one.collection_name)
        if alias and of and alias[0] == in_use_name(bank) and _is_version(of[0], bank):
            found[alias[1]] = of[0]
    return found


def _leads_elsewhere(client: QdrantRemote, call: Call, bank: str, layers: Iterable[int]) -> bool:
    """Tell whether there are aliases although none is shown: a token opens them, but not what they lead to."""
    return any(call(partial(client.collection_exists, alias_name(bank, layer))) for layer in layers)


def _layers_of(client: QdrantRemote, call: Call, bank: str) -> Mapping[str, list[int]]:
    """Give the layers of each version of a bank, by the name it is stored under."""
    answer = call(client.get_collections)
    found: dict[str, list[int]] = {}
    for one in answer.collections:
        parts = split_collection(one.name)
        if parts and _is_version(parts[0], bank):
            found.setdefault(parts[0], []).append(parts[1])
    return found


def _is_version(stored: str, bank: str) -> bool:
    parts = stored_parts(stored)
    return parts is not None and parts[0] == bank
