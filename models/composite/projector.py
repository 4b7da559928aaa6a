"""Projectors: small networks that map an encoder's features to visual tokens of a language model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
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

KINDS = ("linear", "mlp", "mlp3", "swiglu")
# Features are clamped at this many standard deviations; a single huge one would outweigh all others.
CLAMP = 6.0
_SPREAD = 0.02  # standard deviation of the first weights of `swiglu` and of added tokens
_FORMAT = "latentbank projector 1"


class Projector(nn.Module):
    """A network from encoder features [..., features] to visual tokens [..., hidden_size], in float32.

    `linear` is one linear layer, `mlp` two, `mlp3` three, with GELU between them. They first standardize the features
    with the mean and standard deviation of each channel in the training data, and clamp them at six standard
    deviations. `swiglu` takes the features as they are, as the projectors of the paper (arXiv 2602.00462) do.

    If the encoder marks padding, its last two features say whether a token is all padding or partly padding, and each
    has a vector of its own that is added to the other features.

    Attributes:
        kind: `linear`, `mlp`, `mlp3` or `swiglu`.
        features: width of the encoder's features, with the two of the padding.
        hidden_size: width of the language model's input embedding.
        width: width between the layers; `linear` does not use it.
        padding: whether the last two features mark padding.
        pad: the vectors of tokens that are all padding and partly padding, [2, features - 2]; None without padding.
        added: embeddings of tokens that the LLM does not have, [tokens, hidden_size]; None if there are none.
    """

    mean: Tensor
    std: Tensor
    pad: nn.Parameter | None
    added: nn.Parameter | None

    def __init__(
        self,
        kind: str,
        features: int,
        hidden_size: int,
        width: int | None = None,
        *,
        padding: bool = False,
        added: int = 0,
    ) -> None:
        """Create a projector with random weights from torch's global generator.

        Args:
            kind: one of `KINDS`.
            features: width of the input.
            hidden_size: width of the output.
            width: width between the layers; by default twice the hidden size.
            padding: whether the last two features mark padding.
            added: number of tokens with an embedding that the LLM does not have.

        Raises:
            ModelError: there is no such kind.
        """
        super().__init__()
        check_kind(kind)
        self.kind, self.features, self.hidden_size, self.padding = kind, features, hidden_size, padding
        self.width = width or 2 * hidden_size
        inputs = features - 2 * padding
        if kind == "swiglu":
            self.layers: nn.Module = SwiGLU(inputs, self.width, hidden_size)
        else:
            self.layers = _with_gelu([inputs, *[self.width] * KINDS.index(kind), hidden_size])
            self.register_buffer("mean", torch.zeros(inputs))
            self.register_buffer("std", torch.ones(inputs))
        self.pad = nn.Parameter(torch.zeros(2, inputs)) if padding else None
        self.added = nn.Parameter(torch.randn(added, hidden_size) * _SPREAD) if added else None

    def forward(self, features: Tensor) -> Tensor:
        """Return the projection [..., hidden_size] float32 of features [..., features] of any float dtype."""
        features = features.float()
        if self.pad is not None:
            features, marks = features[..., :-2], features[..., -2:]
            features = features + marks @ self.pad
        if self.kind != "swiglu":
            features = ((features - self.mean) / self.std).clamp(-CLAMP, CLAMP)
        return cast(Tensor, self.layers(features))

    @torch.no_grad()
    def fit(self, sample: Tensor, scale: float) -> None:
        """Set mean and standard deviation from a sample of features, and scale the outputs to the scale of text.

        `swiglu` has no mean and no standard deviation; its outputs are scaled.

        Args:
            sample: [tokens, features].
            scale: root mean square of the language model's token embeddings. The last layer is multiplied so that the
                projections of the sample have it too; training then starts near inputs that the LLM knows.
        """
        sample = sample.to(self.device, torch.float32)
        if isinstance(self.layers, SwiGLU):
            last = self.layers.down
        else:
            inputs = sample[:, : len(self.mean)]
            deviation = inputs.std(dim=0, unbiased=False)
            self.mean.copy_(inputs.mean(dim=0))
            # The deviation of a constant channel is zero.
            self.std.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))
            last = cast(nn.Linear, cast(nn.Sequential, self.layers)[-1])
            last.bias.zero_()
        last.weight.mul_(scale / self(sample).pow(2).mean().sqrt().clamp(min=1e-12))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def shape(self) -> dict[str, Any]:
        """Return the arguments that create a projector of this shape, in values that JSON can hold."""
        shape = {key: getattr(self, key) for key in ("kind", "features", "hidden_size", "width")}
        if self.padding:
            shape["padding"] = True
        if self.added is not None:
            shape["added"] = len(self.added)
        return shape


class SwiGLU(nn.Module):
    """Three matrices without biases: `down(silu(gate(x)) * up(x))` (arXiv 2002.05202)."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        """Create it with weights of standard deviation 0.02, as in the paper's training."""
        super().__init__()
        self.gate = nn.Linear(inputs, width, bias=False)
        self.up = nn.Linear(inputs, width, bias=False)
        self.down = nn.Linear(width, outputs, bias=False)
        for matrix in (self.gate, self.up, self.down):
            nn.init.normal_(matrix.weight, std=_SPREAD)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., outputs] for x [..., inputs]."""
        return cast(Tensor, self.down(nn.functional.silu(self.gate(x)) * self.up(x)))


def _with_gelu(sizes: Sequence[int]) -> nn.Sequential:
    """Return linear layers between these widths, with GELU between them."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.GELU()]
    return nn.Sequential(*layers[:-1])


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
    card = {"format": _FORMAT, "projector": projector.shape(), **card}
    text = as_unicode(json.dumps(card, indent=2, ensure_ascii=False))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in projector.state_dict().items()}
    layers = [name for name in tensors if name not in ("mean", "std")]
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
    with torch.device("meta"):  # without random weights, which take seconds for a large one
        projector = Projector(**card["projector"])
    try:
        projector.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise ModelError(
            f"The weights in {path} do not fit its card: copy it again, or train another."
        ) from error
    projector.eval().requires_grad_(False)
    return projector, card
