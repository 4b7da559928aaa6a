"""Centring: the mean hidden state of a kind of token at each layer, and hidden states with that mean subtracted.

Visual tokens and text lie in different parts of an LLM's space. A centred bank stores contexts with the mean of text
subtracted; its queries are centred with the mean of their own kind. `Means.centre` does the same for hidden states that
a lens without a bank reads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from latentbank.bank.bank import Bank
from latentbank.bank.rotation import unit
from latentbank.bank.search import as_floats
from latentbank.errors import BankMismatch, LatentBankError, LayerNotFound, QueryError
from latentbank.files import write_whole
from latentbank.identity import Digests, Identity, difference, identity_of
from latentbank.text import listed

if TYPE_CHECKING:
    from latentbank.models.vision.tokens import VisualModel

Floats = npt.NDArray[np.float32]
_UNITS = "unit-"  # begins the names of the means of unit vectors in a file


@dataclass(frozen=True)
class Means:
    """The mean hidden state of one kind of token at each layer.

    Attributes:
        kind: the kind of token, for people, such as "visual tokens of 64 scenes".
        fingerprint: that of the LLM whose hidden states they are.
        count: the number of tokens.
        by_layer: the mean at each layer, float32 `[hidden]`.
        digests: the LLM's digests; None in a file that an earlier version wrote.
        units_by_layer: the mean of the same hidden states scaled to length 1 at each layer, float32 `[hidden]`, which
            banks with `unit_means` need; empty in a file that an earlier version wrote.
    """

    kind: str
    fingerprint: str
    count: int
    by_layer: Mapping[int, Floats]
    digests: Digests | None = None
    units_by_layer: Mapping[int, Floats] = field(default_factory=dict)

    @property
    def identity(self) -> Identity:
        """What tells the LLM from others."""
        return Identity(self.fingerprint, self.digests)

    def at(self, layer: int, *, units: bool = False) -> Floats:
        """Return the mean at a layer.

        Args:
            layer: the layer.
            units: the mean of hidden states scaled to length 1.

        Raises:
            LayerNotFound: it was not measured there; the message names the layers with a mean.
            QueryError: the means are of an earlier version, which measured none of unit vectors.
        """
        if units and not self.units_by_layer:
            raise QueryError(
                f"The means of {self.kind} are of an earlier version, which measured no means of unit vectors; this "
                "bank needs them, so measure them again."
            )
        if layer not in self.by_layer:
            raise LayerNotFound(
                f"The means of {self.kind} have no layer {layer}; they have {listed(sorted(self.by_layer))}."
            )
        return self.units_by_layer[layer] if units else self.by_layer[layer]

    def centre(self, layer: int, states: npt.ArrayLike) -> Floats:
        """Return hidden states `[n, hidden]` of a layer with its mean subtracted, float32."""
        return (as_floats(states).astype(np.float64) - self.at(layer)).astype(np.float32)


QueryMean = Literal["text", "batch"] | Means | npt.ArrayLike
"""Which mean queries have: the bank's of text at their layer, their own, measured means, or an array for all layers."""


def means_of(states: Iterable[Mapping[int, Any]], kind: str, fingerprint: str | Identity) -> Means:
    """Measure the means of hidden states that come in pieces, such as the `states` of one image after another.

    Args:
        states: mappings from layer to `[tokens, hidden]`, arrays or tensors, all with the same layers.
        kind: the kind of token, for people.
        fingerprint: that of the LLM, or its identity.

    Raises:
        QueryError: there are no hidden states, or a mean is not finite.
    """
    sums: dict[int, npt.NDArray[np.float64]] = {}
    unit_sums: dict[int, npt.NDArray[np.float64]] = {}
    count = 0
    for piece in states:
        arrays = {layer: as_floats(rows) for layer, rows in piece.items()}
        for layer, rows in arrays.items():
            sums[layer] = sums.get(layer, 0.0) + rows.sum(axis=0, dtype=np.float64)
            with np.errstate(invalid="ignore"):  # what is not finite is reported below
                unit_sums[layer] = unit_sums.get(layer, 0.0) + unit(rows).sum(axis=0, dtype=np.float64)
        count += len(next(iter(arrays.values()), ()))
    if not count:
        raise QueryError(f"There are no {kind} to take the mean of; give some.")
    means = {layer: (total / count).astype(np.float32) for layer, total in sums.items()}
    for layer, mean in means.items():
        if not np.isfinite(mean).all():
            raise QueryError(
                f"The hidden states of {kind} at layer {layer} are not finite; leave that layer out."
            )
    identity = identity_of(fingerprint)
    units = {layer: (total / count).astype(np.float32) for layer, total in unit_sums.items()}
    return Means(kind, identity.fingerprint, count, means, identity.digests, units)


def save_means(path: str | os.PathLike[str], means: Means) -> None:
    """Write means as a safetensors file, whole or not at all.

    Raises:
        LatentBankError: the file cannot be written.

    Examples:
        >>> import latentbank as lb
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> means = lb.measure_means(vlm, lb.find_images(["photos"]), layers=[0, 8])
        >>> lb.save_means("photos.safetensors", means)
    """
    from safetensors.numpy import save

    about: dict[str, Any] = {"kind": means.kind, "fingerprint": means.fingerprint, "count": means.count}
    if means.digests is not None:
        about["digests"] = means.digests.to_dict()
    tensors = {
        f"{prefix}{layer}": np.asarray(mean, dtype=np.float32)
        for prefix, by_layer in (("", means.by_layer), (_UNITS, means.units_by_layer))
        for layer, mean in by_layer.items()
    }
    write_whole(Path(path), save(tensors, {"latentbank_means": json.dumps(about)}))


def load_means(path: str | os.PathLike[str], fingerprint: str | Identity | None = None) -> Means:
    """Load means that `save_means` wrote.

    Args:
        path: the file.
        fingerprint: the fingerprint or the identity of the LLM they will be used with; None: it is not checked.

    Raises:
        LatentBankError: the file holds no means.
        BankMismatch: they were measured on another LLM.

    Examples:
        >>> import latentbank as lb
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> lb.save_means("photos.safetensors", lb.measure_means(vlm, ["cat.jpg"], layers=[0, 8]))
        >>> means = lb.load_means("photos.safetensors", vlm.fingerprint())
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            about = json.loads((file.metadata() or {})["latentbank_means"])
            names = list(file.keys())
            by_layer = {int(name): file.get_tensor(name) for name in names if not name.startswith(_UNITS)}
            units = {
                layer: file.get_tensor(f"{_UNITS}{layer}")
                for layer in by_layer
                if f"{_UNITS}{layer}" in names
            }
            digests = Digests.from_dict(about.pop("digests")) if "digests" in about else None
            means = Means(by_layer=by_layer, digests=digests, units_by_layer=units, **about)
    except FileNotFoundError:
        raise LatentBankError(
            f"There is no file of means at {path}; check its path, or measure them."
        ) from None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise LatentBankError(
            f"{path} holds no means that this latentbank can read ({type(error).__name__}); measure them again."
        ) from None
    if fingerprint is None:
        return means
    identity = identity_of(fingerprint)
    if differs := difference(means.identity, identity, max(by_layer, default=0)):
        raise BankMismatch(
            f"The means in {path} were measured on another LLM ({means.identity}, not {identity}): they differ "
            f"in {differs}; measure them again."
        )
    return means


def kept_means(model: VisualModel) -> Means | None:
    """Load the means of visual tokens that are kept with a VLM; None if there are none.

    Raises:
        LatentBankError: the file holds no means.
        BankMismatch: they were measured on another LLM.
    """
    if model.means_file is None or not model.means_file.is_file():
        return None
    return load_means(model.means_file, model.language.identity())


def resolve_mean(
    bank: Bank, query_mean: QueryMean | None, layer: int, states: npt.ArrayLike
) -> npt.NDArray[np.floating[Any]] | None:
    """Return the mean that a bank is to subtract from queries, `[hidden]`; None if the bank is not centred.

    Args:
        bank: the bank that will be searched.
        query_mean: the mean that was chosen.
        layer: the layer that the queries were taken from; -1: not known.
        states: the queries `[n, hidden]`.

    Raises:
        QueryError: no mean was chosen for a centred bank, or one for another bank; or there are too few queries for a
            mean of their own.
        LayerNotFound: there is no mean at that layer.
    """
    bank.require_query_mean(given=query_mean is not None)
    if query_mean is None:
        return None
    if isinstance(query_mean, Means):
        return query_mean.at(layer, units=bank.manifest.unit_means)
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
    mean: npt.NDArray[np.float64] = (unit(rows) if bank.manifest.unit_means else rows).mean(
        axis=0, dtype=np.float64
    )
    return mean


def described(query_mean: QueryMean | None) -> str:
    """Return in a few words which mean is subtracted from queries; "" for none."""
    if query_mean is None:
        return ""
    if isinstance(query_mean, Means):
        return f"mean of {query_mean.kind}"
    if isinstance(query_mean, str):
        return {"text": "the bank's mean of text", "batch": "their own mean"}[query_mean]
    return "a mean that was given"
