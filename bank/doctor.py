"""Whether a machine and a server can do the work: a list of checks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import cast

from latentbank.bank.check import Check, looked
from latentbank.bank.manifest import Manifest
from latentbank.bank.model import own_model
from latentbank.bank.opening import pinned_name
from latentbank.bank.settings import Quantization, Settings
from latentbank.bank.sizing import GB, USABLE, Shape, layer_bytes
from latentbank.bank.store.backends import backend
from latentbank.bank.versions import split_name, stored_name
from latentbank.errors import LatentBankError, ModelError
from latentbank.text import count_text, is_hub_id, listed, public_name

# Checks of what one must pass to see anything of a bank.
_ENTRANCES = ("server", "key", "folder", "lock")
# Bytes of a caption, for what a bank needs: nobody reads a million captions for a rough number.
_CAPTION = 100


@dataclass(frozen=True)
class Examination:
    """What was seen.

    Attributes:
        where: the server's address, or the folder of embedded banks.
        bank: the bank that was looked at; None: only the place.
        checks: what was seen, thing by thing.
    """

    where: str
    bank: str | None
    checks: tuple[Check, ...]

    @property
    def well(self) -> bool:
        """Whether nothing is wrong; there may be warnings, and things that could not be seen."""
        return all(check.state != "wrong" for check in self.checks)


def examine(settings: Settings, bank: str | None = None) -> Examination:
    """Look at everything that banks need: the server or folder, and one bank there.

    Nothing is changed. Whatever goes wrong is part of the answer.

    Args:
        settings: where the banks are.
        bank: a bank, or a version as in name@2; None: none in particular.
    """
    place = backend(settings)
    stored = None if bank is None else _stored(bank, settings)
    checks = list(place.checks(stored))
    if stored is not None and bank is not None and not _is_away(checks):
        checks += _bank(bank, stored, settings)
    return Examination(place.location, bank, tuple(checks))


def _stored(bank: str, settings: Settings) -> str:
    """Return the stored name of a bank; its plain one if it cannot be asked for."""
    name = bank
    with suppress(LatentBankError):
        name = pinned_name(bank, settings.model_copy(update={"retries": 0}))
    plain, version = split_name(name)
    return stored_name(plain, version or 1)


def _is_away(checks: list[Check]) -> bool:
    """Return whether the place itself cannot be used: then nothing in it can be seen."""
    return any(check.name in _ENTRANCES and check.state in ("wrong", "unknown") for check in checks)


def _bank(bank: str, stored: str, settings: Settings) -> Iterator[Check]:
    try:
        found = backend(settings).peek_manifest(stored)
        manifest = None if found is None else Manifest.from_dict(*found)
    except LatentBankError as error:
        yield Check("bank", "wrong", str(error))
        return
    if manifest is None:
        yield Check("bank", "wrong", f"there is no bank '{bank}' here", "List the banks there are.")
        return
    yield _ledger(manifest)
    yield from looked("layers", partial(_layers, manifest, stored, settings))
    yield from looked("model", partial(_model, manifest, settings))
    yield from looked("room", partial(_room, manifest, stored, settings))


def _ledger(manifest: Manifest) -> Check:
    corpora = manifest.corpora.values()
    contexts = sum(entry.contexts for entry in corpora if entry.complete)
    number = count_text(len(corpora), "corpus", "corpora")
    seen = f"{count_text(contexts, 'context')} of {number} in layers {listed(manifest.layers)}"
    open_ones = sorted(entry.name for entry in corpora if not entry.complete)
    if open_ones:
        return Check(
            "bank",
            "warning",
            f"{seen}; not complete: {listed(open_ones)}",
            "Wait for their jobs, run these again, or drop the corpora.",
        )
    if not contexts:
        return Check("bank", "warning", "it holds nothing yet", "Ingest a corpus.")
    return Check("bank", "ok", seen)


def _layers(manifest: Manifest, stored: str, settings: Settings) -> Iterator[Check]:
    place = backend(settings)
    store = place.open(stored)
    try:
        there = store.layers()
        missing = [layer for layer in manifest.layers if layer not in there]
        # A server has told already which collections are not indexed.
        slow = [] if place.shared else [n for n in manifest.layers if n in there and store.info(n).waiting]
    finally:
        store.close()
    if missing:
        yield Check(
            "layers",
            "wrong",
            f"layer {listed(missing)} is gone",
            "Run the ingestion of the bank's corpora again.",
        )
    if slow:
        yield Check("layers", "warning", f"layer {listed(slow)} is not indexed", "Index the bank again.")
    if not (missing or slow):
        yield Check("layers", "ok", "all there")


def _model(manifest: Manifest, settings: Settings) -> Check:
    """Look for the bank's model without loading it, which would take minutes."""
    try:
        name = own_model(manifest, settings)
    except ModelError as error:
        return Check(
            "model", "warning", f"{public_name(manifest.model)} is not known on this machine", str(error)
        )
    seen = f"{public_name(name)} ({manifest.fingerprint})"
    if not is_hub_id(name):
        return Check("model", "ok", f"{seen} is on this machine")
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json", revision=manifest.revision), str):
        return Check("model", "ok", f"{seen} is on this machine")
    if constants.HF_HUB_OFFLINE:
        return Check(
            "model",
            "warning",
            f"{seen} is not on this machine, which may not ask the hub (HF_HUB_OFFLINE)",
            "Download it where that is allowed, to read tokens here.",
        )
    return Check(
        "model", "ok", f"{seen} is not on this machine: it is downloaded from the hub when it is first used"
    )


def _room(manifest: Manifest, stored: str, settings: Settings) -> Iterator[Check]:
    """Compare what a bank needs with what the machine has that holds it."""
    place = backend(settings)
    contexts = sum(entry.contexts for entry in manifest.corpora.values())
    if not contexts:
        return
    shape = Shape(
        contexts=contexts,
        layers=len(manifest.layers),
        hidden_size=manifest.hidden_size,
        caption_bytes=_CAPTION,
        quantization=cast("Quantization", manifest.quantization),
        hnsw_m=settings.hnsw_m,
        graph_from=settings.graph_from,
        server=place.shared,
    )
    machine, layer = place.machine(stored), layer_bytes(shape)
    nodes = f" on each of {machine.nodes} nodes" if machine.nodes > 1 else ""
    needed = {"memory": shape.layers * layer.ram, "disk": layer.disk}
    if place.shared:  # an embedded bank is on the disk already; room is needed to rewrite a layer
        needed["disk"] *= shape.layers + 1
    for name, has in (("memory", machine.ram), ("disk", machine.disk)):
        need = needed[name] * machine.copies / machine.nodes
        seen = f"the bank needs about {_size(need)}{nodes}"
        if has is None:
            yield Check(name, "unknown", f"{seen}; how much there is, is not told")
        elif need > USABLE * has:
            yield Check(
                name,
                "warning",
                f"{seen}, of {_size(has)}",
                "Searches will read from the disk; use fewer layers, or a larger machine."
                if name == "memory"
                else "Make room before corpora are added.",
            )
        else:
            yield Check(name, "ok", f"{seen}, of {_size(has)}")


def _size(count: float) -> str:
    return f"{count / GB:,.1f} GB" if count >= GB / 10 else f"{count / 1e6:,.0f} MB"
