"""What creating a bank does in its store."""

from __future__ import annotations

from dataclasses import replace

from latentbank.bank.manifest import Manifest
from latentbank.bank.store.backends import backend
from latentbank.bank.store.base import Store, StoredManifest
from latentbank.errors import BankMismatch, BankNotFound, LayerNotFound
from latentbank.layers import require_layers
from latentbank.values import Layers, layers_of


def without_leftovers(store: Store, manifest: Manifest) -> tuple[Store, StoredManifest | None]:
    """Delete what a killed creation left in a store that has layers but no manifest.

    Returns:
        The store to use, and the manifest that another process has written in the meantime.

    Raises:
        BankMismatch: the layers hold contexts.
    """
    left = store.layers()
    has_contexts = any(_holds_contexts(store, layer) for layer in left)
    found = store.read_manifest()  # another process may have created the bank by now, and begun to fill it
    if found is None and has_contexts:
        raise BankMismatch(
            f"The bank '{manifest.bank}' has contexts but no manifest; restore the manifest, or delete the bank."
        )
    if found is None and not set(left) <= set(manifest.layers):
        store.delete()
        store.close()
        store = backend(store.settings).open(store.bank, create=True)
    return store, found


def _holds_contexts(store: Store, layer: int) -> bool:
    """Return whether a layer holds contexts; False if it was deleted and a node of a cluster still lists it."""
    try:
        return store.count(layer) > 0
    except BankNotFound:
        return False


def create_layers(store: Store, manifest: Manifest, *, new: bool) -> None:
    """Create the layer collections that are missing, and write the manifest's head if there is none.

    The head comes last, so a killed creation leaves no bank; its layers are created again. A layer of an existing bank
    can be missing only because it was deleted by other means; it is created empty. What another process creates at this
    moment stays (`Store.create`), and so does its head.
    """
    there = set() if new else set(store.layers())
    for layer in manifest.layers:
        if layer not in there:
            store.create(layer, manifest.hidden_size, manifest.quantization)
    own = replace(manifest, bank=store.bank).head()
    store.change_head(lambda head: own if head is None else head)


def checked_layers(layers: Layers, bank: str, model: str, num_layers: int) -> tuple[int, ...]:
    """Return layers for a new bank, ascending.

    Raises:
        LayerNotFound: there are none, or the LLM does not have one of them.
    """
    chosen = tuple(sorted(layers_of(layers)))
    if not chosen:
        raise LayerNotFound(
            f"No layer was named for the bank '{bank}'; {model} has 0 (the input) to {num_layers}."
        )
    require_layers(model, chosen, num_layers)
    return chosen
