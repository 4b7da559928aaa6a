"""Dreams: maps of features, made from drawn images and optimized until the encoder's classifier sees given classes.

No photo is needed. A drawn image goes through the first half of the encoder; its map (stride 16) is then changed until
the second half sees given classes in given regions. What photos do to the second half is known from the running means
and variances of its batch norms, which the maps are made to match (DeepInversion, Yin et al. 2020, arXiv 1912.08795).
The drawn images are noise whose power falls with frequency, heaps of discs whose sizes follow a power law ("dead
leaves"; both resemble photos in their statistics, Baradad et al. 2021, arXiv 2106.05963), and scenes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional

from latentbank.demo.encoder import FINE_STAGE, GRID, SIDE, EfficientNetLite0, normalize
from latentbank.demo.scenes import TRAINING, Thing, make_scene

BATCH = 16  # dreams that are optimized together; their statistics are matched together
_CLASSES = 4 * BATCH  # classes in a batch, at most
_STEPS = 10
_RATE = 0.2
_STATISTICS = 1.0  # weight of the statistics beside the classes
_TARGETS = (0.55, 0.97)  # probabilities between which a token's class is left alone
_LEAVES = 180  # discs in an image of dead leaves


@dataclass(frozen=True)
class Dreams:
    """A batch of dreams.

    Attributes:
        tokens: as the encoder's, float32 `[dreams, 49, 1728]`.
        classes: for each patch the class it was optimized for, -1 for none; int64 `[dreams, 49]`.
    """

    tokens: Tensor
    classes: NDArray[np.int64]


class Dreamer:
    """Makes dreams with a network."""

    def __init__(self, network: EfficientNetLite0, things: Sequence[Thing]) -> None:
        """Take a network with its batch norms, not fused, and the things of drawn scenes."""
        self._things = things
        self._network = copy.deepcopy(network).eval().requires_grad_(False)
        later = [*self._network.stages[FINE_STAGE + 1 :], self._network.head]
        convolutions: list[Any] = [
            module for part in later for module in part.modules() if hasattr(module, "fuse")
        ]
        # A batch norm's output has the mean `bias` and the deviation `weight` over the photos it was trained on.
        self._norms = [(part.norm.bias.clone(), part.norm.weight.abs().clone()) for part in convolutions]
        self._network.fuse()
        cast(Any, self._network).to(memory_format=torch.channels_last)
        self._outputs: list[Tensor] = []
        for part in convolutions:
            part.convolution.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._outputs.append(output)

    def batch(self, seed: int, number: int) -> Dreams:
        """Return batch `number` of a seed, `BATCH` dreams; the same on the same machine."""
        random = np.random.default_rng([seed, 1, number])
        # Classes come in turn, so that each is dreamt of about equally often.
        turn, place = divmod(number, len(self._network.classifier.bias) // _CLASSES)
        order = np.random.default_rng([seed, 0, turn]).permutation(len(self._network.classifier.bias))
        queue = order[place * _CLASSES : (place + 1) * _CLASSES].tolist()
        classes = np.full((BATCH, GRID, GRID), -1)
        for layout in classes:
            for rows, columns in _regions(random):
                layout[rows, columns] = queue.pop()
        flat = classes.reshape(BATCH, -1)
        return Dreams(self._optimized(self._drawn(random), torch.from_numpy(flat), random), flat)

    @torch.no_grad()
    def _drawn(self, random: Generator) -> Tensor:
        """Return maps of drawn images, `[BATCH, 112, 14, 14]`, a third of them mixtures of two."""
        x = self._network.stem(normalize([draw(random, self._things) for _ in range(BATCH)]))
        for stage in self._network.stages[: FINE_STAGE + 1]:
            x = stage(x)
        share = torch.from_numpy(random.choice([0.0, 0.0, 0.4], BATCH).astype(np.float32))[
            :, None, None, None
        ]
        mixed: Tensor = (1 - share) * x + share * x.roll(1, 0)
        return mixed

    def _optimized(self, drawn: Tensor, classes: Tensor, random: Generator) -> Tensor:
        fine = drawn.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([fine], lr=_RATE * float(drawn.std()), betas=(0.8, 0.95))
        wanted = classes.flatten() >= 0
        targets = classes.flatten()[wanted]
        enough = torch.from_numpy(-np.log(random.uniform(*_TARGETS, len(targets))).astype(np.float32))
        for _ in range(_STEPS):
            optimizer.zero_grad()
            coarse, mismatch = self._seen(fine)
            logits = self._network.classifier(coarse.flatten(2).transpose(1, 2)).flatten(0, 1)[wanted]
            losses = functional.cross_entropy(logits, targets, reduction="none")
            torch.autograd.backward((losses - enough).relu().mean() + _STATISTICS * mismatch)
            optimizer.step()
        with torch.no_grad():
            coarse, _ = self._seen(fine)
            tokens = torch.cat([coarse, functional.pixel_unshuffle(fine, 2)], 1)
        return tokens.flatten(2).transpose(1, 2).contiguous()

    def _seen(self, fine: Tensor) -> tuple[Tensor, Tensor]:
        """Return the head's map `[n, 1280, 7, 7]`, and how far the statistics on the way are from those of photos."""
        self._outputs.clear()
        x = fine
        for stage in self._network.stages[FINE_STAGE + 1 :]:
            x = stage(x)
        x = self._network.head(x)
        far = torch.zeros(())
        for output, (mean, deviation) in zip(self._outputs, self._norms, strict=True):
            known = deviation > 1e-3
            means, deviations = output.mean((0, 2, 3)), output.std((0, 2, 3))
            far = far + ((means - mean) / deviation)[known].clamp(-3, 3).square().mean()
            far = far + (deviations / deviation - 1)[known].clamp(-3, 3).square().mean()
        return x, far / len(self._norms)


def draw(random: Generator, things: Sequence[Thing]) -> Image.Image:
    """Return a drawn image of 224 x 224 pixels: noise, dead leaves, a scene, or a mixture of two of them."""
    kind = random.random()
    if kind < 0.3:
        return _noise(random)
    if kind < 0.6:
        return _leaves(random)
    scene = make_scene(things, int(random.integers(len(TRAINING)))).image
    if kind < 0.75:
        return scene
    other = _noise(random) if kind < 0.85 else _leaves(random)
    return Image.blend(scene, other, float(random.uniform(0.3, 0.7)))


def _noise(random: Generator) -> Image.Image:
    """Return noise whose amplitude falls with frequency to a power between 0.6 and 1.8, in colours of its own."""
    across = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    across[0, 0] = 1 / SIDE
    falling = across ** -random.uniform(0.6, 1.8)
    planes = np.stack(
        [np.fft.irfft2(np.fft.rfft2(random.normal(size=(SIDE, SIDE))) * falling) for _ in range(3)]
    )
    planes /= planes.std((1, 2), keepdims=True)
    mixed = np.einsum("ij,jhw->hwi", random.normal(0, 1, (3, 3)) + random.normal(0, 1.5), planes)
    mixed *= random.uniform(20, 60) / mixed.std()
    return Image.fromarray((mixed + random.uniform(60, 190, 3)).clip(0, 255).astype(np.uint8))


def _leaves(random: Generator) -> Image.Image:
    """Return discs and boxes on top of each other, many small ones and few large ones, some with noise on them."""
    image = Image.new("RGB", (SIDE, SIDE), tuple(int(v) for v in random.integers(0, 256, 3)))
    pen = ImageDraw.Draw(image)
    palette = random.integers(0, 256, (6, 3))
    for _ in range(_LEAVES):
        size = min(4.0 / random.random() ** 0.7, 90)
        x, y = random.uniform(-10, SIDE + 10, 2)
        wide = size * random.uniform(0.4, 1.6)
        tone = (palette[random.integers(6)] + random.normal(0, 22, 3)).clip(0, 255)
        box = (x - wide, y - size, x + wide, y + size)
        (pen.ellipse if random.random() < 0.6 else pen.rectangle)(box, fill=tuple(int(v) for v in tone))
    return Image.blend(image, _noise(random), float(random.uniform(0, 0.5)))


def _regions(random: Generator) -> list[tuple[slice, slice]]:
    """Return one to four rectangles of patches that do not overlap."""
    row, column = (int(random.integers(2, 6)) for _ in range(2))
    kind = random.random()
    if kind < 0.2:
        return [(slice(0, GRID), slice(0, GRID))]
    if kind < 0.4:
        top, left = (int(value) for value in random.integers(0, 4, 2))
        return [(slice(top, top + row), slice(left, left + column))]
    if kind < 0.6:
        return [(slice(0, GRID), slice(0, column)), (slice(0, GRID), slice(column, GRID))]
    low = [(slice(row, GRID), slice(0, column)), (slice(row, GRID), slice(column, GRID))]
    if kind < 0.8:
        return [(slice(0, row), slice(0, GRID)), *low]
    return [(slice(0, row), slice(0, column)), (slice(0, row), slice(column, GRID)), *low]
