"""A reader's view of a bank: the version that is read, and its manifest as of a moment ago."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace

from latentbank.bank.ledger import LEDGER_SECONDS
from latentbank.bank.manifest import Manifest
from latentbank.bank.store.backends import backend
from latentbank.bank.store.base import Store
from latentbank.bank.versions import version_of
from latentbank.errors import BankMismatch, BankNotFound, BankUnavailable
from latentbank.identity import difference


@dataclass(frozen=True)
class View:
    """The basis of one search: a version's store and manifest, and when the manifest was read."""

    store: Store
    manifest: Manifest
    read_at: float


class CurrentView:
    """The view of an open bank, renewed when another process may have changed the bank."""

    def __init__(self, store: Store, manifest: Manifest, *, follows: bool) -> None:
        """Take over an open store.

        Args:
            store: the version that is read.
            manifest: its manifest.
            follows: read another version as soon as the bank's plain name means another one.
        """
        self.view = View(store, manifest, time.monotonic())
        self._follows = follows and store.shared
        self._guard = threading.Lock()
        # Stores of versions that are no longer in use; a search may still be running there.
        self._left: list[Store] = []
        self._closed = False

    @property
    def store(self) -> Store:
        """The store of the version that is read. Raises BankUnavailable if the bank is closed."""
        self._require_open()
        return self.view.store

    def get(self) -> View:
        """Return the view; in a shared bank at most `LEDGER_SECONDS` old.

        Raises:
            BankUnavailable: the bank is closed.
        """
        self._require_open()
        view = self.view
        if view.store.shared and time.monotonic() - view.read_at > LEDGER_SECONDS:
            return self.renew(view)
        return view

    def renew(self, known: View) -> View:
        """Read the manifest again, unless another thread has done so since the view `known`.

        If the bank's plain name means another version now, that version is read from now on.
        """
        self._require_open()
        with self._guard:
            if self.view is known:
                stored = self.view.store.in_use() if self._follows else self.view.store.bank
                if stored == self.view.store.bank:
                    self.reload()
                else:
                    self._change_version(stored)
            return self.view

    def reload(self) -> None:
        """Read the manifest of the version again.

        Raises:
            BankMismatch: the means of a centred bank have changed, so what was done with the old ones is worthless.
            BankUnavailable: the bank is closed.
        """
        self._require_open()
        store, known = self.view.store, self.view.manifest
        fresh = read_manifest(store, known.bank)
        if known.means and dict(known.means) != dict(fresh.means):
            raise BankMismatch(
                f"Another job fixed other means in the centred bank '{known.bank}' at the same moment; drop the "
                "corpus of this one and ingest it again.",
                functions=("drop_corpus",),
            )
        if self.view.store is store:  # otherwise another thread has changed the version
            self.view = View(store, fresh, time.monotonic())

    def _change_version(self, stored: str) -> None:
        """Read another version from now on.

        Raises:
            BankMismatch: queries made for this version do not fit that one.
        """
        known = self.view.manifest
        store = backend(self.view.store.settings).open(stored)
        try:
            fresh = read_manifest(store, known.bank)
            now_means = f"The bank '{known.bank}' means its version {version_of(stored)} now"
            deepest = max(*fresh.layers, *known.layers)
            if difference(fresh.identity, known.identity, deepest) is not None:
                raise BankMismatch(
                    f"{now_means}, which holds contexts of {fresh.model} ({fresh.identity}), not of {known.model} "
                    f"({known.identity}); open it again, with that model."
                )
            other_means = known.means and dict(fresh.means) != dict(known.means)
            if fresh.metric != known.metric or fresh.unit_means != known.unit_means or other_means:
                raise BankMismatch(f"{now_means}, which has another metric or other means; open it again.")
        except BaseException:
            store.close()
            raise
        self._left.append(self.view.store)
        self.view = View(store, fresh, time.monotonic())

    def close(self) -> None:
        """Close the stores of all versions that were read."""
        self._closed = True
        for store in (self.view.store, *self._left):
            store.close()

    def _require_open(self) -> None:
        if self._closed:
            raise BankUnavailable(f"The bank '{self.view.manifest.bank}' is closed; open it again.")


def read_manifest(store: Store, name: str) -> Manifest:
    """Return the manifest of a store's bank, with `name`, by which the bank was opened, as its `bank`.

    Raises:
        BankNotFound: there is no such bank.
        BankMismatch: the manifest is damaged, or has another schema.
    """
    found = store.read_manifest()
    if found is None:
        raise BankNotFound(
            f"There is no bank '{name}' here; list the banks there are, or create it.",
            functions=("list_banks", "fill"),
        )
    return replace(Manifest.from_dict(*found), bank=name)
