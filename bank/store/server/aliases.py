"""Which version a server bank's plain name means: Qdrant's collection aliases, switched for all layers in one request.

The alias `{bank}@in-use--L{layer:02d}` points to a layer collection of the version in use. Without aliases, a bank's
plain name means the collections of that name. Aliases need names of their own, because an alias cannot have the name of
an existing collection.

The server lists aliases collection by collection. If they are switched meanwhile, the answer mixes two moments: it has
aliases of two versions, or none. Such an answer is requested again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import partial

from qdrant_client import models

from latentbank.bank.store.names import alias_name, collection_name, in_use_name, split_collection
from latentbank.bank.store.server.client import Connection
from latentbank.bank.token import claims_of
from latentbank.bank.versions import listed_versions, stored_parts, version_of
from latentbank.errors import BankBusy, BankMismatch, BankUnavailable
from latentbank.text import listed

# Seconds before a listing that mixes two moments is requested again.
_PAUSES = (0.0, 0.05, 0.2, 0.5)


def version_in_use(server: Connection, bank: str) -> str:
    """Return the stored name of the version that a bank's plain name means.

    Raises:
        BankUnavailable: the API key is a token that does not open the version in use; or the bank's aliases point to
            several versions, which happens only if they were set by other means than `switch`.
    """
    by_token = claims_of(server.settings.key() or "") is not None
    targets: set[str] = set()
    for pause in _PAUSES:
        time.sleep(pause)
        targets = set(_aliases(server, bank).values())
        if len(targets) == 1:
            return targets.pop()
        if not targets:
            there = _layers_of(server, bank)
            if by_token and _has_hidden_aliases(server, bank, there.get(bank, [])):
                raise BankUnavailable(
                    f"The token does not open the version of the bank '{bank}' that is in use; ask for a token for "
                    "more versions, or name a version, as in name@2."
                )
            if there.keys() <= {bank}:
                break
    if not targets:
        return bank
    raise BankUnavailable(
        f"The aliases of the bank '{bank}' lead to several versions "
        f"({listed_versions(bank, map(version_of, targets))}); put one of them in use."
    )


def switch(server: Connection, bank: str, stored: str, layers: Iterable[int]) -> None:
    """Make a bank's plain name mean a version, for all layers in one step.

    Args:
        server: the server.
        bank: the plain name.
        stored: the name that the version is stored under.
        layers: the version's layers.

    Raises:
        BankMismatch: a layer has no collection.
        BankBusy: another process has switched the bank at the same moment.
    """
    own, there = set(layers), _layers_of(server, bank)
    # Checked first: if the server refuses an alias, it has already applied the changes before it.
    if missing := own.difference(there.get(stored, ())):
        raise BankMismatch(
            f"Layer {listed(sorted(missing))} of {bank}@{version_of(stored)} has no collection; ingest its corpora "
            "again, then put it in use."
        )
    # Also layers that another process may be giving an alias now; deleting a missing alias is not an error.
    others = {layer for found in there.values() for layer in found} | _aliases(server, bank).keys()
    actions: list[models.AliasOperations] = [
        models.CreateAliasOperation(
            create_alias=models.CreateAlias(
                collection_name=collection_name(stored, layer), alias_name=alias_name(bank, layer)
            )
        )
        for layer in sorted(own)
    ]
    actions += [
        models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias_name(bank, layer)))
        for layer in sorted(others - own)
    ]
    server.call(lambda: server.rest.update_collection_aliases(change_aliases_operations=actions))
    # The node that answers may not know yet what another one has done.
    if not any(_is_in_use(server, bank, stored, pause) for pause in _PAUSES):
        raise BankBusy(
            f"Another process has switched the bank '{bank}' to another version at the same moment; check which "
            "version is in use, then try again."
        )


def _is_in_use(server: Connection, bank: str, stored: str, pause: float) -> bool:
    time.sleep(pause)
    return version_in_use(server, bank) == stored


def _aliases(server: Connection, bank: str) -> Mapping[int, str]:
    """Return the stored name of the version that each layer's alias points to."""
    found: dict[int, str] = {}
    for alias in server.call(server.rest.get_aliases).aliases:
        source, target = split_collection(alias.alias_name), split_collection(alias.collection_name)
        if source and target and source[0] == in_use_name(bank) and _is_version(target[0], bank):
            found[source[1]] = target[0]
    return found


def _has_hidden_aliases(server: Connection, bank: str, layers: Iterable[int]) -> bool:
    """Return whether aliases exist although none is listed: the token opens them, but not what they point to."""
    exists = server.rest.collection_exists
    return any(server.call(partial(exists, alias_name(bank, layer))) for layer in layers)


def _layers_of(server: Connection, bank: str) -> Mapping[str, list[int]]:
    """Return the layers of each version of a bank, by its stored name."""
    found: dict[str, list[int]] = {}
    for collection in server.call(server.rest.get_collections).collections:
        parts = split_collection(collection.name)
        if parts and _is_version(parts[0], bank):
            found.setdefault(parts[0], []).append(parts[1])
    return found


def _is_version(stored: str, bank: str) -> bool:
    parts = stored_parts(stored)
    return parts is not None and parts[0] == bank
