"""Copies of a server's banks on the nodes of its cluster."""

from __future__ import annotations

from collections.abc import Sequence

from latentbank.bank.settings import Settings
from latentbank.bank.store.backends import backend
from latentbank.bank.store.base import Replicated
from latentbank.bank.store.names import split_images
from latentbank.bank.versions import split_name, stored_name
from latentbank.errors import BankNotFound
from latentbank.progress import Progress, Silent
from latentbank.text import listed


def replicate_banks(
    names: Sequence[str],
    settings: Settings,
    copies: int | None = None,
    leaving: str | None = None,
    progress: Progress | None = None,
) -> list[Replicated]:
    """Make copies of banks' shards on the nodes of a cluster, until all nodes hold about the same number of them.

    Afterwards each shard of a layer has `copies` copies on different nodes, or as many as there are nodes, and each
    ledger has one on every node. Banks can be read and filled meanwhile. Killed and run again, it continues.

    Args:
        names: banks or versions; a plain name means the version in use. None of them: all versions of all banks.
        settings: they name the server. `write_consistency_factor` is raised, too, if `copies` is given.
        copies: least number of copies; None: as many as each bank was made with.
        leaving: a node that shall hold none, because it will be taken away: its number, or the name of its host.
        progress: is told how many copies are made or removed.

    Returns:
        What was done with each collection.

    Raises:
        BankNotFound: there is no such bank.
        BankUnavailable: the banks are embedded, the server is no cluster, or a shard cannot be copied.
        QueryError: the cluster has no such node.
    """
    progress = progress or Silent()
    place = backend(settings)
    there = place.bank_names()
    banks = []
    for name in names:
        bank, version = split_name(name)
        stored = place.names_in_use([bank])[bank] if version is None else stored_name(bank, version)
        if stored not in there:
            known = f"it has {listed(there)}" if there else "it has none"
            raise BankNotFound(f"There is no bank '{name}' in {place.location}; {known}.")
        banks += [stored, *(name for name in there if (split_images(name) or ("",))[0] == bank)]
    return place.replicate(banks or there, copies, leaving, progress.update)
