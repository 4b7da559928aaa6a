"""Projectors: small networks that map an encoder's features to visual tokens of a language model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from latentbank.errors import ModelError
from latentbank.files import replacing, write_whole
from latentbank.text import as_unicode, listed

KINDS = ("linear", "mlp", "mlp3")
# Features are clamped at this many standard deviations; a single huge one would outweigh all others.
CLAMP = 6.0
_FORMAT = "latentbank projector 1"


class Projector(nn.Module):
    """A network from encoder features [..., features] to visual tokens [..., hidden_size], in float32.

    Features are first standardized with the mean and standard deviation of each channel in the training data, and
    clamped at six standard deviations. `linear` is one linear layer, `mlp` two, `mlp3` three, with GELU between them.

    Attributes:
        kind: `linear`, `mlp` or `mlp3`.
        features: width of the encoder's features.
        hidden_size: width of the language model's input embedding.
        width: width between the layers; `linear` does not use it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, kind: str, features: int, hidden_size: int, width: int | None = None) -> None:
        """Create a projector with random weights from torch's global generator.

        Args:
            kind: one of `KINDS`.
            features: width of the input.
            hidden_size: width of the output.
            width: width between the layers; by default twice the hidden size.

        Raises:
            ModelError: there is no such kind.
        """
        super().__init__()
        check_kind(kind)
        self.kind, self.features, self.hidden_size = kind, features, hidden_size
        self.width = width or 2 * hidden_size
        sizes = [features, *[self.width] * KINDS.index(kind), hidden_size]
        layers: list[nn.Module] = []
        for wide, narrow in pairwise(sizes):
            layers += [nn.Linear(wide, narrow), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def forward(self, features: Tensor) -> Tensor:
        """Return the projection [..., hidden_size] float32 of features [..., features] of any float dtype."""
        standard = (features.float() - self.mean) / self.std
        return cast(Tensor, self.layers(standard.clamp(-CLAMP, CLAMP)))

    @torch.no_grad()
    def fit(self, sample: Tensor, scale: float) -> None:
        """Set mean and standard deviation from a sample of features, and scale the outputs to the scale of text.

        Args:
            sample: [tokens, features].
            scale: root mean square of the language model's token embeddings. The last layer is multiplied so that the
                projections of the sample have it too; training then starts near inputs that the LLM knows.
        """
        sample = sample.to(self.mean.device, torch.float32)
        deviation = sample.std(dim=0, unbiased=False)
        self.mean.copy_(sample.mean(dim=0))
        # The deviation of a constant channel is zero.
        self.std.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))
        last = cast(nn.Linear, self.layers[-1])
        last.bias.zero_()
        last.weight.mul_(scale / self(sample).pow(2).mean().sqrt().clamp(min=1e-12))


def check_kind(kind: str) -> None:
    """Check that there is such a kind of projector.

    Raises:
        ModelError: there is none.
    """
    if kind not in KINDS:
        raise ModelError(
            f"There is no projector of the kind {kind!r}: use {listed(KINDS)}.", argument="projector"
        )


def save_projector(
    path: str | os.PathLike[str],
    projector: Projector,
    card: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a projector as a safetensors file with its card in the metadata, and the card as JSON beside it.

    Args:
        path: the path of the safetensors file; the card's file ends in .json instead.
        projector: the projector. Weights are rounded to `dtype`; mean and standard deviation stay float32.
        card: where the projector is from, in values that JSON can hold. The projector's shape is added.
        dtype: float16 or float32. If float16 cannot hold a weight, all are written as float32.

    Raises:
        LatentBankError: a file cannot be written.
    """
    path = Path(path)
    shape = {key: getattr(projector, key) for key in ("kind", "features", "hidden_size", "width")}
    card = {"format": _FORMAT, "projector": shape, **card}
    text = as_unicode(json.dumps(card, indent=2, ensure_ascii=False))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in projector.state_dict().items()}
    layers = [name for name in tensors if name.startswith("layers.")]
    largest = max(float(tensors[name].abs().max()) for name in layers)
    for name in layers:
        tensors[name] = tensors[name].to(dtype if largest <= torch.finfo(dtype).max else torch.float32)
    with replacing(path) as unfinished:
        save_file(tensors, unfinished, metadata={"card": text})
    write_whole(path.with_suffix(".json"), (text + "\n").encode())


def load_projector(path: str | os.PathLike[str]) -> tuple[Projector, dict[str, Any]]:
    """Read a projector (float32, on the CPU, frozen) and its card.

    Raises:
        ModelError: there is no such file, or it is no projector of latentbank's.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"There is no projector at {path}: check the path, or train one.")
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {}).get("card", "{}"))
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{path} is damaged or is not a safetensors file: copy it again, or train another."
        ) from error
    if card.get("format") != _FORMAT:
        raise ModelError(f"{path} has no card of a projector: give a file that latentbank's training wrote.")
    projector = Projector(**card["projector"])
    try:
        projector.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(
            f"The weights in {path} do not fit its card: copy it again, or train another."
        ) from error
    projector.eval().requires_grad_(False)
    return projector, card
