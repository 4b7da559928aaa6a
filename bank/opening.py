"""Banks made, opened, listed, switched between versions and deleted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from latentbank.bank.bank import Bank, read_manifest
from latentbank.bank.layers import listed
from latentbank.bank.ledger import LEDGER_SECONDS
from latentbank.bank.manifest import Manifest
from latentbank.bank.rotation import ROTATION_SEED
from latentbank.bank.settings import Metric, Settings, load_settings
from latentbank.bank.store.base import (
    Store,
    bank_names,
    forget_in_use,
    names_in_use,
    open_store,
    open_store_in_use,
    peek_manifest,
    put_in_use,
)
from latentbank.bank.versions import (
    Versions,
    check_name,
    listed_versions,
    split_name,
    stored_name,
    stored_parts,
    version_of,
)
from latentbank.errors import BankMismatch, BankNotFound, BankUnavailable, LatentBankError, LayerNotFound

__all__ = [
    "bank_versions",
    "check_deletion",
    "check_name",
    "create_bank",
    "delete_bank",
    "list_banks",
    "list_versions",
    "make_bank",
    "open_bank",
    "pinned_name",
    "use_bank",
]


def open_bank(
    name: str,
    settings: Settings | None = None,
    *,
    model: str | None = None,
    fingerprint: str | None = None,
    include_incomplete: bool = False,
    **given: Any,
) -> Bank:
    """Open a bank, embedded or on a server as the settings say.

    Args:
        name: the bank's name, which means the version in use, or one of its versions, as in name@2.
        settings: where it is; read from arguments and environment when None.
        model: with `fingerprint`, the model whose hidden states will be used, checked at once.
        fingerprint: that model's fingerprint.
        include_incomplete: search corpora whose ingestion is not complete, too.
        given: settings as arguments (`url=…`, `data_dir=…`).

    Raises:
        BankNotFound: there is no such bank or version.
        BankUnavailable, BankBusy, BankMismatch: see there.
    """
    settings = settings or load_settings(**given)
    plain = split_name(name)[1] is None
    store = _open(name, settings)
    try:
        try:
            manifest = read_manifest(store, name)
        except BankNotFound as error:
            raise _missing(name, settings) or error from None
        bank = Bank(store, manifest, include_incomplete=include_incomplete, follows=plain)
        if fingerprint is not None:
            bank.require_model(model or "the given model", fingerprint)
    except BaseException:
        store.close()
        raise
    return bank


def create_bank(
    name: str,
    settings: Settings | None = None,
    *,
    model: str,
    fingerprint: str,
    layers: Iterable[int],
    num_layers: int,
    hidden_size: int,
    revision: str | None = None,
    metric: Metric | None = None,
    **given: Any,
) -> Bank:
    """Create a bank, or open the one that is there if it was made for the same model and layers.

    Args:
        name: 1 to 64 letters, digits, `.`, `_`, `-`; no double hyphen. As in name@2, a version of it.
        settings: where to make it; read from arguments and environment when None.
        model: the LLM's name, as people will read it.
        fingerprint: the LLM's fingerprint.
        layers: the bank layers, each from 0 to `num_layers`.
        num_layers: blocks of the whole LLM.
        hidden_size: width of its hidden states.
        revision: the LLM's revision, where known.
        metric: "cosine" compares hidden states as they are, "centred" takes the mean of their kind from them
            first. None: the bank's own; for a new bank the settings' (`LATENTBANK_METRIC`, else "cosine").
        given: settings as arguments.

    Raises:
        BankMismatch: there is a bank of that name with another model, other layers or another metric.
        LayerNotFound: a layer that the LLM does not have.
        LatentBankError: there is no such metric.
    """
    if metric not in (None, "cosine", "centred"):
        raise LatentBankError(f"metric is {metric!r}; it can be 'cosine' or 'centred'.")
    settings = settings or load_settings(**given)
    check_name(name)
    wanted = tuple(sorted(set(layers)))
    outside = [layer for layer in wanted if not 0 <= layer <= num_layers]
    if outside or not wanted:
        raise LayerNotFound(
            f"{model} has no layer {listed(outside)}; its layers are 0 (the input) to {num_layers}."
            if outside
            else f"No layer was named for the bank '{name}'; {model} has 0 (the input) to {num_layers}."
        )

    def agree(bank: Bank) -> None:
        bank.require_model(model, fingerprint)
        if wanted != bank.manifest.layers:
            raise BankMismatch(
                f"The bank '{name}' has layers {listed(bank.layers)}, not {listed(wanted)}; leave the "
                "layers out or choose another bank name."
            )
        if metric not in (None, bank.metric):
            raise BankMismatch(
                f"The bank '{name}' was made with metric '{bank.metric}', not '{metric}'; leave the metric "
                "out or choose another bank name."
            )

    manifest = Manifest(
        bank=name,
        model=model,
        revision=revision,
        fingerprint=fingerprint,
        num_layers=num_layers,
        hidden_size=hidden_size,
        layers=wanted,
        rotation_seed=ROTATION_SEED,
        quantization=settings.quantization,
        metric=metric or settings.metric,
    )
    return make_bank(manifest, settings, agree)


def make_bank(manifest: Manifest, settings: Settings, agree: Callable[[Bank], None]) -> Bank:
    """Create the bank that a manifest describes, without its corpora, or open the one of that name.

    Args:
        manifest: what the bank will be.
        settings: where to make it.
        agree: called with a bank that is there already; raises if it is not the one that is wanted.
    """
    name = manifest.bank
    store = _open(name, settings, create=True)
    try:
        found = store.read_manifest()
        if found is None and (left := store.layers()):
            held = any(store.count(layer) for layer in left)
            found = store.read_manifest()  # another process may have made it meanwhile, and begun to fill it
            if found is None and held:
                raise BankMismatch(
                    f"The bank '{name}' has contexts but no manifest; restore the manifest, or remove what is left "
                    f"with `latentbank bank delete {name}`."
                )
            if found is None and not set(left) <= set(manifest.layers):
                store.delete()  # a killed creation left them, empty
                store.close()
                store = open_store(store.bank, settings, create=True)
        known = replace(manifest, corpora={}) if found is None else Manifest.from_dict(*found)
        bank = Bank(store, replace(known, bank=name))
        if found is not None:
            agree(bank)
        # The manifest comes last, so a creation that is killed leaves no bank. A layer of a bank that is there
        # can be missing only because it was deleted by other means: it is made again, empty.
        # What a killed creation left is made again; what another process makes at this moment stays (`create`).
        there = set(store.layers()) if found is not None else set()
        for layer in bank.layers:
            if layer not in there:
                store.create(layer, manifest.hidden_size, bank.manifest.quantization)
        if bank.layers[0] not in there and store.read_manifest() is None:
            # A new bank; or a server that lost everything while another process made it: the lowest layer, which
            # carries the manifest, is one of those that were missing.
            store.write_manifest(replace(bank.manifest, bank=store.bank).head())
            if bank.manifest.corpora:
                store.write_entries({corpus: one.to_dict() for corpus, one in bank.manifest.corpora.items()})
        if found is None:
            bank.reload()
            agree(bank)
    except BaseException:
        store.close()
        raise
    return bank


def list_banks(settings: Settings | None = None, **given: Any) -> list[str]:
    """Give the names of all banks the settings reach, without their versions."""
    return sorted({bank for bank, _ in _stored(settings or load_settings(**given))})


def list_versions(settings: Settings | None = None, **given: Any) -> list[Versions]:
    """Give all banks the settings reach, by name, with their versions."""
    settings = settings or load_settings(**given)
    found: dict[str, list[int]] = {}
    for bank, version in _stored(settings):
        found.setdefault(bank, []).append(version)
    meant = names_in_use(sorted(found), settings)
    return [_versions(bank, found[bank], meant[bank]) for bank in sorted(found)]


def bank_versions(name: str, settings: Settings | None = None, **given: Any) -> Versions:
    """Give the versions of one bank, which may be none."""
    settings = settings or load_settings(**given)
    bank = split_name(name)[0]
    found = [version for one, version in _stored(settings) if one == bank]
    return _versions(bank, found, names_in_use([bank], settings)[bank])


def pinned_name(name: str, settings: Settings) -> str:
    """Give the name of the version that a name means now, for workers who must all mean the same one."""
    bank, version = split_name(name)
    return f"{bank}@{version or version_of(names_in_use([bank], settings)[bank])}"


def use_bank(name: str, settings: Settings | None = None, **given: Any) -> int | None:
    """Let a bank's plain name mean one of its versions, as in name@2, for all layers and readers in one step.

    Readers that have a server's bank open go by it within a second; this returns when they do. An embedded bank that
    is open stays the version that it is.

    Returns:
        The version that was in use before; None if there was none.

    Raises:
        BankNotFound: there is no such version.
        BankMismatch: the version holds no complete corpus, or lacks a layer.
        BankBusy: another process switches it at the same moment.
        LatentBankError: the name asks for no version.
    """
    settings = settings or load_settings(**given)
    bank, version = split_name(name)
    if version is None:
        raise LatentBankError(
            f"Say which version '{bank}' shall mean, such as `latentbank bank use {bank}@2`."
        )
    stored = stored_name(bank, version)
    found = peek_manifest(stored, settings)
    if found is None:
        raise _missing(name, settings) or BankNotFound(f"There is no bank '{bank}' here.")
    manifest = Manifest.from_dict(*found)
    if not any(entry.complete for entry in manifest.corpora.values()):
        raise BankMismatch(
            f"The version '{name}' holds no complete corpus yet, so readers would find nothing; fill it first "
            f"(`latentbank ingest run --bank {name}`)."
        )
    try:
        before = bank_versions(bank, settings).in_use
    except BankUnavailable:
        before = None  # what says so is damaged, and written anew here
    put_in_use(bank, stored, manifest.layers, settings)
    if settings.url:
        time.sleep(LEDGER_SECONDS)  # until no reader goes by the other version
    return before


def delete_bank(name: str, settings: Settings | None = None, **given: Any) -> None:
    """Delete a bank, or one of its versions, with all layer collections, also what an interrupted deletion left.

    Raises:
        BankNotFound: there is no such bank or version.
        LatentBankError: see `check_deletion`.
    """
    settings = settings or load_settings(**given)
    bank, version = split_name(name)
    store = open_store(check_deletion(name, settings), settings)
    try:
        if not store.layers():
            read_manifest(store, name)
        store.delete()
    except BankNotFound as error:
        if version is None:
            forget_in_use(bank, settings)
        raise _missing(name, settings) or error from None
    finally:
        store.close()
    if version is None:
        forget_in_use(bank, settings)


def check_deletion(name: str, settings: Settings) -> str:
    """Refuse to delete a version that is in use, or a bank of several versions; gives the name it is stored under.

    Raises:
        LatentBankError: it may not be deleted; the message says what to do first.
    """
    bank, version = split_name(name)
    found = _numbers(bank, settings)
    meant = names_in_use([bank], settings)[bank]
    stored = meant if version is None else stored_name(bank, version)
    others = [one for one in found if stored_name(bank, one) != stored]
    if version is None and others:
        raise LatentBankError(
            f"The bank '{bank}' has other versions than the one in use ({listed_versions(bank, others)}); delete "
            "those first, each by its name."
        )
    if version is not None and stored == meant:
        how = (
            f"switch to another one first, such as `latentbank bank use {bank}@{others[-1]}`"
            if others
            else f"it is the only one, so `latentbank bank delete {bank}` deletes the bank"
        )
        raise LatentBankError(f"The version '{name}' is in use; {how}.")
    return stored


def _open(name: str, settings: Settings, *, create: bool = False) -> Store:
    bank, version = split_name(name)
    if version is None:
        return open_store_in_use(bank, settings, create=create)
    return open_store(stored_name(bank, version), settings, create=create)


def _stored(settings: Settings) -> list[tuple[str, int]]:
    """Give bank and version of all that is stored; what others have put beside it is none of ours."""
    return [parts for stored in bank_names(settings) if (parts := stored_parts(stored))]


def _numbers(bank: str, settings: Settings) -> list[int]:
    """Give the versions of one bank that are stored, ascending."""
    return sorted(version for one, version in _stored(settings) if one == bank)


def _versions(bank: str, found: Iterable[int], meant: str) -> Versions:
    versions = tuple(sorted(found))
    in_use = version_of(meant)
    return Versions(bank, versions, in_use if in_use in versions else None)


def _missing(name: str, settings: Settings) -> BankNotFound | None:
    """Say which versions a bank has that was asked for in vain; None if it has none."""
    bank, version = split_name(name)
    there = _numbers(bank, settings)
    if not there:
        return None
    if version is None:
        return BankNotFound(
            f"No version of the bank '{bank}' is in use; choose one of {listed_versions(bank, there)} with "
            "`latentbank bank use`."
        )
    return BankNotFound(f"The bank '{bank}' has no version {version}; it has {listed_versions(bank, there)}.")
