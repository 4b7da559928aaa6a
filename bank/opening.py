"""Banks created, opened, listed, switched between versions and deleted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Unpack

from latentbank.bank.bank import Bank
from latentbank.bank.creation import checked_layers, create_layers, without_leftovers
from latentbank.bank.images.opening import delete_images, stored_images
from latentbank.bank.ledger import LEDGER_SECONDS
from latentbank.bank.manifest import SCHEMA, UNIT_MEANS, Manifest
from latentbank.bank.rotation import ROTATION_SEED
from latentbank.bank.settings import Metric, Settings, SettingsBesidesMetric, SettingsGiven, settings_from
from latentbank.bank.store.backends import backend
from latentbank.bank.store.base import Store
from latentbank.bank.store.names import split_images
from latentbank.bank.versions import (
    Versions,
    check_name,
    listed_versions,
    split_name,
    stored_name,
    stored_parts,
    version_of,
)
from latentbank.bank.view import read_manifest
from latentbank.errors import BankMismatch, BankNotFound, BankUnavailable, LatentBankError
from latentbank.identity import Identity, identity_of
from latentbank.text import listed
from latentbank.values import Layers

__all__ = [
    "bank_versions",
    "check_deletion",
    "check_name",
    "create_bank",
    "create_from_manifest",
    "delete_bank",
    "list_banks",
    "list_versions",
    "open_bank",
    "pinned_name",
    "use_bank",
]


def open_bank(
    name: str,
    settings: Settings | None = None,
    *,
    model: str | None = None,
    fingerprint: str | Identity | None = None,
    include_incomplete: bool = False,
    allow_other_model: bool = False,
    **given: Unpack[SettingsGiven],
) -> Bank:
    """Open a bank, embedded or on a server as the settings say.

    Args:
        name: the bank's name, which means the version in use, or the name of a version, as in name@2.
        settings: where the bank is; None: read from `given` and the environment.
        model: name of the model whose hidden states will be used, for messages.
        fingerprint: that model's fingerprint or identity; if given, it is checked.
        include_incomplete: read corpora whose ingestion is not complete, too.
        allow_other_model: use the bank with hidden states of another model, too, with a warning. For those who know
            that they can be compared, as those of a fine-tune that changed little.
        given: single settings (`url=…`, `data_dir=…`), instead of `settings`.

    Raises:
        BankNotFound: there is no such bank or version.
        BankMismatch: the bank was made with another model, or its manifest is damaged.
        BankUnavailable: the server or the folder cannot be used.
        BankBusy: another process has the embedded bank open.

    Examples:
        >>> import latentbank as lb
        >>> with lb.open_bank("captions") as bank:
        ...     print(bank.layers)
        [8, 16]
    """
    settings = settings_from(settings, **given)
    plain = split_name(name)[1] is None
    store = _open(name, settings)
    try:
        try:
            manifest = read_manifest(store, name)
        except BankNotFound as error:
            raise _missing(name, settings) or error from None
        bank = Bank(
            store,
            manifest,
            include_incomplete=include_incomplete,
            follows=plain,
            allow_other_model=allow_other_model,
        )
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
    fingerprint: str | Identity,
    layers: Layers,
    num_layers: int,
    hidden_size: int,
    revision: str | None = None,
    metric: Metric | None = None,
    local: bool = False,
    allow_other_model: bool = False,
    **given: Unpack[SettingsBesidesMetric],
) -> Bank:
    """Create a bank, or open the existing one if it was made for the same model and layers.

    Args:
        name: 1 to 64 letters, digits, `.`, `_`, `-`, without a double hyphen; a version follows as in name@2.
        settings: where to create it; None: read from `given` and the environment.
        model: the LLM's name, for people to read.
        fingerprint: the LLM's fingerprint, or its identity.
        layers: the bank layers, each from 0 to `num_layers`.
        num_layers: number of blocks of the whole LLM.
        hidden_size: width of its hidden states.
        revision: the LLM's revision, if known.
        metric: "cosine" compares hidden states as they are, "centred" after the mean of their kind was subtracted.
            None: the existing bank's; for a new bank the settings' (`LATENTBANK_METRIC`, else "cosine").
        local: the LLM was read from a folder or file of this machine, not from the hub.
        allow_other_model: use an existing bank of another model, too, with a warning.
        given: single settings, instead of `settings`.

    Raises:
        BankMismatch: a bank of that name exists with another model, other layers or another metric.
        LayerNotFound: the LLM does not have a layer.
        LatentBankError: there is no such metric, or the name is not valid.
    """
    if metric not in (None, "cosine", "centred"):
        raise LatentBankError(f"metric is {metric!r}; it can be 'cosine' or 'centred'.", argument="metric")
    settings = settings_from(settings, **given)
    check_name(name)
    identity, chosen = identity_of(fingerprint), metric or settings.metric
    manifest = Manifest(
        bank=name,
        model=model,
        revision=revision,
        fingerprint=identity.fingerprint,
        num_layers=num_layers,
        hidden_size=hidden_size,
        layers=checked_layers(layers, name, model, num_layers),
        rotation_seed=ROTATION_SEED,
        quantization=settings.quantization,
        metric=chosen,
        schema=UNIT_MEANS if chosen == "centred" else SCHEMA,
        digests=identity.digests,
        local=local,
    )

    def agree(bank: Bank) -> None:
        bank.require_model(model, identity)
        if manifest.layers != bank.manifest.layers:
            raise BankMismatch(
                f"The bank '{name}' has layers {listed(bank.layers)}, not {listed(manifest.layers)}; leave the "
                "layers out or choose another bank name."
            )
        if metric not in (None, bank.metric):
            raise BankMismatch(
                f"The bank '{name}' was made with metric '{bank.metric}', not '{metric}'; leave the metric "
                "out or choose another bank name."
            )

    return create_from_manifest(manifest, settings, agree, allow_other_model=allow_other_model)


def create_from_manifest(
    manifest: Manifest, settings: Settings, agree: Callable[[Bank], None], *, allow_other_model: bool = False
) -> Bank:
    """Create the bank that a manifest describes, without its corpora, or open the existing one of that name.

    Args:
        manifest: what the bank will be.
        settings: where to create it.
        agree: called with a bank that exists already; raises if it is not the one that is needed.
        allow_other_model: as for `create_bank`.
    """
    name = manifest.bank
    store = _open(name, settings, create=True)
    try:
        found = store.read_manifest()
        if found is None and store.layers():
            store, found = without_leftovers(store, manifest)
        known = replace(manifest, corpora={}) if found is None else Manifest.from_dict(*found)
        bank = Bank(store, replace(known, bank=name), allow_other_model=allow_other_model)
        if found is not None:
            agree(bank)
        create_layers(store, bank.manifest, new=found is None)
        if found is None:
            bank.reload()
            agree(bank)
    except BaseException:
        store.close()
        raise
    return bank


def list_banks(settings: Settings | None = None, **given: Unpack[SettingsGiven]) -> list[str]:
    """Return the names of all banks in the place that the settings name, sorted, without their versions.

    Examples:
        >>> import latentbank as lb
        >>> lb.list_banks()
        ['Qwen2-Audio-7B-Instruct', 'Qwen2.5-VL-7B-Instruct', 'captions']
    """
    return sorted({bank for bank, _ in _stored(settings_from(settings, **given))})


def list_versions(settings: Settings | None = None, **given: Unpack[SettingsGiven]) -> list[Versions]:
    """Return all banks in the place that the settings name, by name, with their versions."""
    settings = settings_from(settings, **given)
    found: dict[str, list[int]] = {}
    for bank, version in _stored(settings):
        found.setdefault(bank, []).append(version)
    names_in_use = backend(settings).names_in_use(sorted(found))
    return [_versions(bank, found[bank], names_in_use[bank]) for bank in sorted(found)]


def bank_versions(name: str, settings: Settings | None = None, **given: Unpack[SettingsGiven]) -> Versions:
    """Return the versions of one bank; there may be none."""
    settings = settings_from(settings, **given)
    bank = split_name(name)[0]
    return _versions(bank, _numbers(bank, settings), name_in_use(bank, settings))


def pinned_name(name: str, settings: Settings) -> str:
    """Return the name of the version that a name means now, as in name@2, for workers that must all use the same."""
    bank, version = split_name(name)
    return f"{bank}@{version or version_of(name_in_use(bank, settings))}"


def use_bank(name: str, settings: Settings | None = None, **given: Unpack[SettingsGiven]) -> int | None:
    """Make a bank's plain name mean one of its versions, as in name@2, for all layers and readers in one step.

    Readers that have a server's bank open follow within a second; this function returns when they have. An embedded
    bank that is open keeps its version.

    Returns:
        The version that was in use before; None if there was none.

    Raises:
        BankNotFound: there is no such version.
        BankMismatch: the version holds no complete corpus, or lacks a layer.
        BankBusy: another process switches the bank at the same moment.
        LatentBankError: the name has no version number.

    Examples:
        >>> import latentbank as lb
        >>> model = lb.load_language_model("HuggingFaceTB/SmolLM2-135M")
        >>> with lb.create_bank("captions@2", model, layers=[8, 16]) as bank:
        ...     report = lb.fill(bank, "captions.jsonl", model)
        >>> lb.use_bank("captions@2")
        1
    """
    settings = settings_from(settings, **given)
    place = backend(settings)
    bank, version = split_name(name)
    if version is None:
        raise LatentBankError(
            f"Name a version of '{bank}' to use, such as {bank}@2.", functions=("use_bank",)
        )
    stored = stored_name(bank, version)
    found = place.peek_manifest(stored)
    if found is None:
        raise _missing(name, settings) or BankNotFound(
            f"There is no bank '{bank}' here; list the banks there are.", functions=("list_banks",)
        )
    manifest = Manifest.from_dict(*found)
    if not any(entry.complete for entry in manifest.corpora.values()):
        raise BankMismatch(
            f"The version '{name}' holds no complete corpus yet, so readers would find nothing; ingest one first."
        )
    try:
        before = bank_versions(bank, settings).in_use
    except BankUnavailable:
        before = None  # the record is damaged and is written again here
    place.use(bank, stored, manifest.layers)
    if place.shared:
        time.sleep(LEDGER_SECONDS)  # until no reader uses the other version
    return before


def delete_bank(name: str, settings: Settings | None = None, **given: Unpack[SettingsGiven]) -> None:
    """Delete a bank with its images, or one of its versions, and what an interrupted deletion left.

    Raises:
        BankNotFound: there is no such bank or version.
        LatentBankError: it must not be deleted; see `check_deletion`.

    Examples:
        >>> import latentbank as lb
        >>> lb.delete_bank("captions")
        >>> "captions" in lb.list_banks()
        False
    """
    settings = settings_from(settings, **given)
    bank, version = split_name(name)
    place = backend(settings)
    stored = check_deletion(name, settings)
    for images in stored_images(bank, settings) if version is None else ():
        delete_images(images, settings)
    store = place.open(stored)
    try:
        if not store.layers():
            read_manifest(store, name)
        store.delete()
    except BankNotFound as error:
        if version is None:
            place.forget(bank)
        raise _missing(name, settings) or error from None
    finally:
        store.close()
    if version is None:
        place.forget(bank)


def check_deletion(name: str, settings: Settings) -> str:
    """Return the name that a bank or version is stored under, after checking that it may be deleted.

    Raises:
        LatentBankError: it is a version that is in use, or a bank of several versions; the message says what to do
            first.
    """
    bank, version = split_name(name)
    in_use = name_in_use(bank, settings)
    stored = in_use if version is None else stored_name(bank, version)
    others = [number for number in _numbers(bank, settings) if stored_name(bank, number) != stored]
    if version is None and others:
        raise LatentBankError(
            f"The bank '{bank}' has other versions than the one in use ({listed_versions(bank, others)}); delete "
            "those first, each by its name."
        )
    if version is not None and stored == in_use:
        how = (
            f"put another one in use first, such as {bank}@{others[-1]}"
            if others
            else f"it is the only one, so delete the bank '{bank}' instead"
        )
        raise LatentBankError(f"The version '{name}' is in use; {how}.")
    return stored


def _open(name: str, settings: Settings, *, create: bool = False) -> Store:
    if split_images(name):
        return backend(settings).open(name, create=create)
    bank, version = split_name(name)
    if version is None:
        return backend(settings).open_in_use(bank, create=create)
    return backend(settings).open(stored_name(bank, version), create=create)


def _stored(settings: Settings) -> list[tuple[str, int]]:
    """Return bank and version of everything that is stored; anything that is not a bank of ours is left out."""
    return [parts for stored in backend(settings).bank_names() if (parts := stored_parts(stored))]


def _numbers(bank: str, settings: Settings) -> list[int]:
    """Return the versions of one bank that are stored, ascending."""
    return sorted(version for name, version in _stored(settings) if name == bank)


def name_in_use(bank: str, settings: Settings) -> str:
    """Return the stored name of the version that a bank's plain name means."""
    return backend(settings).names_in_use([bank])[bank]


def _versions(bank: str, found: Iterable[int], name_in_use: str) -> Versions:
    versions = tuple(sorted(found))
    in_use = version_of(name_in_use)
    return Versions(bank, versions, in_use if in_use in versions else None)


def _missing(name: str, settings: Settings) -> BankNotFound | None:
    """Return the error for a name that means no version, with the versions that the bank has; None if it has none."""
    bank, version = split_name(name)
    there = _numbers(bank, settings)
    if not there:
        return None
    if version is None:
        return BankNotFound(
            f"No version of the bank '{bank}' is in use; put one of {listed_versions(bank, there)} in use.",
            functions=("use_bank",),
        )
    return BankNotFound(f"The bank '{bank}' has no version {version}; it has {listed_versions(bank, there)}.")
