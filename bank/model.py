"""Whether a model is the bank's, and where this machine finds the bank's own model."""

from __future__ import annotations

import logging

from latentbank.bank.manifest import Manifest
from latentbank.bank.settings import Settings
from latentbank.errors import BankMismatch
from latentbank.files import existing
from latentbank.found_models import locate, remember
from latentbank.identity import Identity, difference, other_adapter
from latentbank.text import is_path, public_name

log = logging.getLogger("latentbank")

# What a fingerprint without digests may take for another model.
_ROUNDED = ("float16", "8bit", "4bit")


class ModelCheck:
    """Checks that models are a bank's. It warns of another model once, and remembers paths once."""

    def __init__(self, *, allow_other_model: bool) -> None:
        """Take the choice whether another model is an error, or is only warned of."""
        self._allowed = allow_other_model
        self._seen: set[tuple[str, str]] = set()

    def __call__(self, manifest: Manifest, settings: Settings, name: str, identity: Identity) -> None:
        """Check that a model is the bank's up to the deepest bank layer, and remember where it was found.

        Args:
            manifest: the bank's.
            settings: with the folder in which paths are remembered.
            name: the model's name, or its path.
            identity: what tells the model from others.

        Raises:
            BankMismatch: it is another model, which is not allowed; the message names both and what differs.
        """
        differs = difference(manifest.identity, identity, max(manifest.layers))
        if differs is not None and not self._allowed:
            raise _mismatch(manifest, name, identity, differs)
        if (name, identity.fingerprint) in self._seen:
            return
        self._seen.add((name, identity.fingerprint))
        if differs is not None:
            log.warning("%s. It is used all the same.", _described(manifest, name, identity, differs))
        if is_path(name) and existing(name):
            remember(settings.data_dir, name, identity)


def own_model(manifest: Manifest, settings: Settings) -> str:
    """Return what a bank's own model is loaded by on this machine: its id on the hub, or a path.

    Raises:
        ModelError: it is a local model, and this machine does not know where it is.
    """
    return locate(
        settings.data_dir,
        manifest.model,
        manifest.identity,
        local=manifest.local,
        whose=f"the bank '{manifest.bank}'",
    )


def _described(manifest: Manifest, name: str, identity: Identity, differs: str) -> str:
    own = manifest.identity
    return (
        f"The bank '{manifest.bank}' holds contexts of {public_name(manifest.model)} ({own}), not of "
        f"{public_name(name)} ({identity}): they differ in {differs}"
    )


def _mismatch(manifest: Manifest, name: str, identity: Identity, differs: str) -> BankMismatch:
    what = _described(manifest, name, identity, differs)
    if advice := other_adapter(manifest.identity, identity, "the bank was filled"):
        return BankMismatch(f"{what}; {advice}, or choose another bank.", argument="adapter")
    if manifest.digests is None and identity.dtype in _ROUNDED:
        what += (
            f". An earlier version made the bank, which cannot tell a load in {identity.dtype} from another model: "
            "load it in float32 or bfloat16"
        )
        return BankMismatch(
            f"{what}, choose another bank, or allow another model.", argument="allow_other_model"
        )
    return BankMismatch(
        f"{what}; choose that bank's model or another bank, or allow another model.",
        argument="allow_other_model",
    )
