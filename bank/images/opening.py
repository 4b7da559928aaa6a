"""Opening, creating, listing and deleting what a bank holds of images: a store of its own for each VLM."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Unpack

from latentbank.bank.bank import Bank
from latentbank.bank.creation import checked_layers, create_layers, without_leftovers
from latentbank.bank.images.bank import ImageBank
from latentbank.bank.manifest import Manifest
from latentbank.bank.settings import Settings, SettingsGiven, settings_from
from latentbank.bank.store.backends import backend
from latentbank.bank.store.names import images_name, split_images
from latentbank.bank.versions import split_name, version_of
from latentbank.bank.view import read_manifest
from latentbank.errors import BankMismatch, BankNotFound
from latentbank.progress import Progress, Silent
from latentbank.text import listed, public_name
from latentbank.values import Layers

# Before it is said that there are no images: other nodes of a cluster learn of new collections a moment later.
_PAUSES = (0.0, 0.05, 0.2, 0.5)


def open_images(
    name: str,
    settings: Settings | None = None,
    fingerprint: str | None = None,
    **given: Unpack[SettingsGiven],
) -> ImageBank:
    """Open what a bank holds of images, embedded or on a server as the settings say.

    The bank itself is not opened: its contexts may be in use elsewhere.

    Args:
        name: the bank's name; its versions share their images.
        settings: where the bank is; None: read from `given` and the environment.
        fingerprint: of the VLM, at least its first 8 hex digits; None: the only VLM whose images the bank holds.
        given: single settings, instead of `settings`.

    Raises:
        BankNotFound: the bank holds no images, or none of this VLM.
        BankMismatch: it holds images of several VLMs, and none is named.
        BankUnavailable: the server or the folder cannot be used.
        BankBusy: another process has the embedded images open.
    """
    settings = settings_from(settings, **given)
    bank = split_name(name)[0]
    stored = _the_only(bank, settings) if fingerprint is None else images_name(bank, fingerprint)
    store = backend(settings).open(stored)
    try:
        if store.read_manifest() is None:
            raise _missing(bank, settings)
        return ImageBank(store, read_manifest(store, stored))
    except BaseException:
        store.close()
        raise


def create_images(
    name: str,
    settings: Settings | None = None,
    *,
    model: str,
    fingerprint: str,
    layers: Layers,
    num_layers: int,
    hidden_size: int,
    revision: str | None = None,
    local: bool = False,
    **given: Unpack[SettingsGiven],
) -> ImageBank:
    """Create the collections of a VLM's visual tokens beside a bank's contexts, or open them if they are there.

    Args:
        name: the bank's name, which must exist: rotation and quantization are its own.
        settings: where the bank is; None: read from `given` and the environment.
        model: the VLM's name, for people to read.
        fingerprint: the VLM's fingerprint, 32 hex digits.
        layers: the visual layers, each from 0 to `num_layers`.
        num_layers: number of blocks of the LLM inside.
        hidden_size: width of its hidden states.
        revision: the VLM's revision, if known.
        local: the VLM was read from a folder or file of this machine, not from the hub.
        given: single settings, instead of `settings`.

    Raises:
        BankNotFound: there is no such bank.
        BankMismatch: hidden states of the bank have another width, or the images are stored at other visual layers.
        LayerNotFound: the LLM does not have a layer.
    """
    settings = settings_from(settings, **given)
    place, plain = backend(settings), split_name(name)[0]
    contexts = bank_manifest(name, settings)
    if contexts.hidden_size != hidden_size:
        raise BankMismatch(
            f"The bank '{name}' holds hidden states of {contexts.hidden_size} numbers, {public_name(model)} has "
            f"{hidden_size}; choose a bank of its LLM."
        )
    stored = images_name(plain, fingerprint)
    chosen = checked_layers(layers, name, model, num_layers)
    manifest = Manifest(
        bank=stored,
        model=public_name(model),
        revision=revision,
        fingerprint=fingerprint,
        num_layers=num_layers,
        hidden_size=hidden_size,
        layers=chosen,
        rotation_seed=contexts.rotation_seed,
        quantization=contexts.quantization,
        local=local,
    )
    store = place.open(stored, create=True)
    try:
        found = store.read_manifest()
        if found is None and store.layers():
            store, found = without_leftovers(store, manifest)
        known = manifest if found is None else Manifest.from_dict(*found)
        _require_same(manifest, known, plain)
        create_layers(store, known, new=found is None)
        known = read_manifest(store, stored)
        _require_same(manifest, known, plain)  # another process may have created it at the same moment
        return ImageBank(store, known)
    except BaseException:
        store.close()
        raise


def list_images(
    name: str, settings: Settings | None = None, **given: Unpack[SettingsGiven]
) -> list[Manifest]:
    """Return what a bank holds of images: a manifest for each VLM, by the name it is stored under.

    Nothing is opened for writing, also where another process has it open.
    """
    settings = settings_from(settings, **given)
    return _manifests(stored_images(split_name(name)[0], settings), settings)


def list_all_images(settings: Settings) -> dict[str, list[Manifest]]:
    """Return what all banks hold of images, by the bank's name; banks without images are left out."""
    stored: dict[str, list[str]] = {}
    for bank, name in sorted(all_images(settings)):
        stored.setdefault(bank, []).append(name)
    return {bank: _manifests(names, settings) for bank, names in stored.items()}


def _manifests(stored: Iterable[str], settings: Settings) -> list[Manifest]:
    place = backend(settings)
    found = ((name, place.peek_manifest(name)) for name in stored)
    return [
        replace(Manifest.from_dict(*manifest), bank=name) for name, manifest in found if manifest is not None
    ]


def stored_images(bank: str, settings: Settings) -> list[str]:
    """Return the names that a bank's images are stored under, one for each VLM, sorted."""
    return sorted(stored for owner, stored in all_images(settings) if owner == bank)


def all_images(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the bank and the stored name of all images in the place that the settings name."""
    for stored in backend(settings).bank_names():
        if parts := split_images(stored):
            yield parts[0], stored


def open_collections(stored: str, settings: Settings) -> Bank:
    """Open the images stored under a name as a bank whose contexts are visual tokens: to move and check them.

    Raises:
        BankNotFound: there are none.
    """
    store = backend(settings).open(stored)
    try:
        return Bank(store, read_manifest(store, stored))
    except BaseException:
        store.close()
        raise


def verify_images(
    name: str, settings: Settings, sample: int = 1000, progress: Progress | None = None
) -> list[str]:
    """Return what is wrong with a bank's images, one sentence each; see `Bank.verify`.

    Args:
        name: the bank's name.
        settings: where it is.
        sample: how many vectors of each layer are read.
        progress: counts the visual tokens compared.
    """
    progress, wrong = progress or Silent(), []
    for stored in stored_images(split_name(name)[0], settings):
        with open_collections(stored, settings) as images:
            progress.stage("comparing images", "visual tokens")
            wrong += [f"Images of {images.manifest.model}: {one}" for one in images.verify(sample, progress)]
    return wrong


def delete_images(stored: str, settings: Settings) -> None:
    """Delete what is stored of a VLM's images, also what an interrupted deletion left."""
    store = backend(settings).open(stored)
    try:
        store.delete()
    finally:
        store.close()


def bank_manifest(name: str, settings: Settings) -> Manifest:
    """Return the manifest of the bank that images belong to, also while it is open elsewhere.

    Raises:
        BankNotFound: there is no such bank.
    """
    place = backend(settings)
    bank, version = split_name(name)
    stored = place.names_in_use([bank])[bank] if version is None else name
    found = place.peek_manifest(bank if version_of(stored) == 1 else stored)
    if found is None:
        raise BankNotFound(
            f"There is no bank '{name}' here; list the banks there are, or create it.",
            functions=("list_banks", "fill"),
        )
    return replace(Manifest.from_dict(*found), bank=name)


def _require_same(wanted: Manifest, known: Manifest, bank: str) -> None:
    if wanted.fingerprint != known.fingerprint:
        raise BankMismatch(
            f"The bank '{bank}' holds images of another VLM, {known.model}, under the same name; delete them, or "
            "choose another bank."
        )
    if wanted.layers != known.layers:
        raise BankMismatch(
            f"The images of the bank '{bank}' are stored at visual layers {listed(known.layers)}, not "
            f"{listed(wanted.layers)}; leave the layers out, or delete the images first.",
            argument="visual_layers",
        )


def _the_only(bank: str, settings: Settings) -> str:
    there: list[str] = []
    for pause in _PAUSES:
        time.sleep(pause)
        if there := stored_images(bank, settings):
            break
    if not there:
        raise _missing(bank, settings)
    if len(there) > 1:
        known = listed(f"{one.model} ({one.fingerprint[:8]})" for one in list_images(bank, settings))
        raise BankMismatch(
            f"The bank '{bank}' holds images of several VLMs, {known}; name one of them.", argument="model"
        )
    return there[0]


def _missing(bank: str, settings: Settings) -> BankNotFound:
    there = list_images(bank, settings)
    if there:
        known = listed(f"{one.model} ({one.fingerprint[:8]})" for one in there)
        return BankNotFound(f"The bank '{bank}' holds no images of this VLM; it holds those of {known}.")
    return BankNotFound(f"The bank '{bank}' holds no images; ingest some first.")
