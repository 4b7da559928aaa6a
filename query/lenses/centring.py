"""Centring: the mean hidden state of a kind of token, layer by layer, and hidden states without it.

Visual tokens and text lie in different parts of an LLM's space. A centred bank holds contexts without the mean of
text; its queries go without the mean of their own kind. The same can be done for any lens: `Means.centre` gives
hidden states that a LogitLens or an EmbeddingLens reads like others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from latentbank.bank.bank import Bank
from latentbank.bank.search import as_floats
from latentbank.errors import BankMismatch, LatentBankError, LayerNotFound, QueryError

if TYPE_CHECKING:
    from latentbank.models.vision.vision_language import VisualModel

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Means:
    """The mean hidden state `[hidden]` of one kind of token at each layer.

    `kind` says of what, for people ("visual tokens of 64 scenes"), `count` of how many, and `fingerprint` is that of
    the LLM in which they live.
    """

    kind: str
    fingerprint: str
    count: int
    by_layer: Mapping[int, Floats]

    def at(self, layer: int) -> Floats:
        """Give the mean of one layer.

        Raises:
            LayerNotFound: it was not measured; the message names the layers that were.
        """
        if layer not in self.by_layer:
            raise LayerNotFound(
                f"The means of {self.kind} have no layer {layer}; they have "
                f"{', '.join(map(str, sorted(self.by_layer)))}."
            )
        return self.by_layer[layer]

    def centre(self, layer: int, states: npt.ArrayLike) -> Floats:
        """Give hidden states `[n, hidden]` of a layer without its mean."""
        return (as_floats(states).astype(np.float64) - self.at(layer)).astype(np.float32)


# Which mean queries have: the bank's of text at their layer, their own, measured ones, or one array for all layers.
QueryMean = Literal["text", "batch"] | Means | npt.ArrayLike


def means_of(states: Iterable[Mapping[int, Any]], kind: str, fingerprint: str) -> Means:
    """Measure the means of hidden states that come piece by piece (the `states` of one image after another).

    Args:
        states: mappings from layer to `[tokens, hidden]`, arrays or tensors, all of the same layers.
        kind: what they are of, for people.
        fingerprint: the LLM's.

    Raises:
        QueryError: there are none, or one is not finite.
    """
    sums: dict[int, npt.NDArray[np.float64]] = {}
    count = 0
    for piece in states:
        arrays = {layer: as_floats(rows) for layer, rows in piece.items()}
        for layer, rows in arrays.items():
            sums[layer] = sums.get(layer, 0.0) + rows.sum(axis=0, dtype=np.float64)
        count += len(next(iter(arrays.values()), ()))
    if not count:
        raise QueryError(f"There are no {kind} to take the mean of; give some.")
    means = {layer: (total / count).astype(np.float32) for layer, total in sums.items()}
    for layer, mean in means.items():
        if not np.isfinite(mean).all():
            raise QueryError(
                f"The hidden states of {kind} at layer {layer} are not finite; leave that layer out."
            )
    return Means(kind, fingerprint, count, means)


def save_means(path: Path, means: Means) -> None:
    """Write means as a safetensors file, to be kept with the model they were measured on.

    Raises:
        LatentBankError: it cannot be written.

    Examples:
        >>> import latentbank as lb
        >>> from pathlib import Path
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> means = lb.measure_means(vlm, lb.find_images(["photos"]), layers=[0, 8])
        >>> lb.save_means(Path("photos.safetensors"), means)
    """
    from safetensors.numpy import save

    about = {"kind": means.kind, "fingerprint": means.fingerprint, "count": means.count}
    tensors = {str(layer): np.asarray(mean, dtype=np.float32) for layer, mean in means.by_layer.items()}
    try:
        path.write_bytes(save(tensors, {"latentbank_means": json.dumps(about)}))
    except OSError as error:
        raise LatentBankError(f"The means cannot be written to {path} ({error.strerror}).") from None


def load_means(path: Path, fingerprint: str | None = None) -> Means:
    """Read means that `save_means` wrote.

    Args:
        path: the file.
        fingerprint: of the LLM they will be used with, checked where given.

    Raises:
        LatentBankError: the file holds no means.
        BankMismatch: they are of another LLM.

    Examples:
        >>> import latentbank as lb
        >>> from pathlib import Path
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> lb.save_means(Path("photos.safetensors"), lb.measure_means(vlm, ["cat.jpg"], layers=[0, 8]))
        >>> means = lb.load_means(Path("photos.safetensors"), vlm.fingerprint())
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            about = json.loads((file.metadata() or {})["latentbank_means"])
            by_layer = {int(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            means = Means(by_layer=by_layer, **about)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise LatentBankError(
            f"{path} holds no means that this latentbank can read ({type(error).__name__}); measure them again."
        ) from None
    if fingerprint not in (None, means.fingerprint):
        raise BankMismatch(
            f"The means in {path} were measured on another LLM (fingerprint {means.fingerprint}, not {fingerprint}); "
            "measure them again."
        )
    return means


def kept_means(model: VisualModel) -> Means | None:
    """Give the means of visual tokens that are kept with a VLM, or None where none are.

    Raises:
        LatentBankError: the file holds no means.
        BankMismatch: they are of another LLM.
    """
    if model.means_file is None or not model.means_file.is_file():
        return None
    return load_means(model.means_file, model.fingerprint())


def resolve_mean(
    bank: Bank, query_mean: QueryMean | None, layer: int, states: npt.ArrayLike
) -> npt.NDArray[np.floating[Any]] | None:
    """Give the mean that `latentbank.bank.search` is to take from queries, or None for a bank of plain cosine.

    Args:
        bank: what is searched.
        query_mean: which mean they have.
        layer: the layer that they were taken from; -1: not known.
        states: the queries `[n, hidden]`.

    Raises:
        QueryError: a centred bank without a mean, or another bank with one; a batch that is too small for a mean.
        LayerNotFound: no mean of that layer is known.
    """
    bank.require_query_mean(given=query_mean is not None)
    if query_mean is None:
        return None
    if isinstance(query_mean, Means):
        return query_mean.at(layer)
    if not isinstance(query_mean, str):
        return as_floats(query_mean)
    if query_mean == "text":
        return bank.text_mean(layer)
    if query_mean != "batch":
        raise QueryError(f"query_mean is {query_mean!r}; it can be 'text', 'batch', means or an array.")
    rows = np.atleast_2d(as_floats(states))
    if len(rows) < 2:
        raise QueryError(
            "One hidden state alone has no mean of its own; give query_mean measured on more of its kind."
        )
    mean: npt.NDArray[np.float64] = rows.mean(axis=0, dtype=np.float64)
    return mean


def described(query_mean: QueryMean | None) -> str:
    """Say in a few words which mean queries have, for readings; empty where none is taken."""
    if query_mean is None:
        return ""
    if isinstance(query_mean, Means):
        return f"mean of {query_mean.kind}"
    if isinstance(query_mean, str):
        return {"text": "the bank's mean of text", "batch": "their own mean"}[query_mean]
    return "a mean that was given"
