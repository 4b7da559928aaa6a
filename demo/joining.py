"""Joining: a projector that gives scenes what it gave before, and photos the vectors of the nouns the teacher sees.

It has three layers, as before, and nothing is trained: each block of its matrices is known or follows from a linear
regression.

- The first hidden layer has units of the old projector, one unit for each of the teacher's 1,000 classes, which begins
  where the class's logit passes a threshold, and two gates.
- The second has units of the old projector, one for each noun, which sums the units of its classes and loses a share of
  those of the others, and two that are constant where nothing is drawn. The last layer turns nouns into their vectors.
- A gate is a linear regression that tells tokens of drawn scenes, and of images with nothing to see, from those of
  dreams. It silences the nouns on the ones and the old units on the others. Some of the old units make room; what they
  gave is fitted to those that stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from latentbank.demo.teacher import HEAD, NounTeacher
from latentbank.models.composite.projector import CLAMP, Projector

WIDTH = 1760  # of the hidden layers
SAMPLE = 20_000  # tokens of dreams, and as many of scenes, that the regressions see
_THRESHOLD = 7.0  # of a class's logit, below which its unit is silent
_INHIBITION = 0.1  # share of the other classes' units that is taken from a noun's
_STRENGTH = 1.6  # length of a noun's vector, of which the teacher is as sure as it is on average
_PRIOR = 3.0  # tokens with which a rare noun's unit is taken to give what others give
_GATES = 2
_STEEP = 20.0  # of the gates
_MARGIN = 0.3  # of the way from "dreamt" to "drawn" (-1 to 1) by which a token is rather taken for drawn
_SILENCE = 30.0  # what an open gate takes from a unit, times `_STEEP` times the way
_RIDGE, _GATE_RIDGE = 1e-4, 1e-3  # in mean squares of the centred inputs


@dataclass(frozen=True)
class Material:
    """What a projector is joined from.

    Attributes:
        dreamt: tokens of dreams, `[n, 1728]` float16.
        scenes: tokens of scenes, `[m, 1728]` float16.
        things: tokens of scenes that show a thing, `[k, 1728]` float16; they count as much as all of the scenes'.
        nothing: tokens of images with nothing to see, such as noise, `[l, 1728]` float16; they count as much.
        vectors: a vector for each noun of the teacher, float32 `[nouns, hidden]`.
    """

    dreamt: NDArray[np.float16]
    scenes: NDArray[np.float16]
    things: NDArray[np.float16]
    nothing: NDArray[np.float16]
    vectors: Tensor


def restandardized(projector: Projector, sample: Tensor) -> Projector:
    """Return a copy of a projector that standardizes by the mean and deviation of `sample` `[n, features]`.

    The first layer is changed with them, so that the function is the same but for the clamping at six deviations.
    """
    new = Projector(**projector.shape())
    new.load_state_dict(projector.state_dict())
    first = _linears(new)[0]
    with torch.no_grad():
        mean, std = sample.mean(0), sample.std(0).clamp(min=1e-3)
        first.bias.add_(first.weight @ ((mean - new.mean) / new.std))
        first.weight.mul_(std / new.std)
        new.mean.copy_(mean)
        new.std.copy_(std)
    return new


@torch.no_grad()
def joined(projector: Projector, teacher: NounTeacher, material: Material, seed: int = 0) -> Projector:
    """Return a projector that knows the teacher's nouns, and scenes as `projector` does.

    Args:
        projector: an `mlp3` that was trained on scenes.
        teacher: the encoder's classifier.
        material: tokens and vectors.
        seed: of the tokens that are drawn for the regressions.
    """
    random = np.random.default_rng([seed, 2])
    dreamt = _some(random, material.dreamt, SAMPLE)
    parts = [_some(random, rows, SAMPLE // 2) for rows in (material.scenes, material.things)]
    scenes = torch.cat([*parts, _some(random, material.nothing, SAMPLE // 2)])
    before = restandardized(projector.eval(), torch.cat([dreamt, scenes]))
    new = Projector(**{**before.shape(), "width": WIDTH})
    new.mean.copy_(before.mean)
    new.std.copy_(before.std)
    for part in _linears(new):
        part.weight.zero_()
        part.bias.zero_()
    drawn, others = (((rows - before.mean) / before.std).clamp(-CLAMP, CLAMP) for rows in (scenes, dreamt))
    _keep_old(new, before, teacher, drawn, projector, scenes)
    _add_nouns(new, teacher, material.vectors, dreamt)
    _add_gates(new, teacher, material.vectors.mean(0), drawn, others)
    return new.eval().requires_grad_(False)


def _keep_old(
    new: Projector,
    before: Projector,
    teacher: NounTeacher,
    drawn: Tensor,
    projector: Projector,
    scenes: Tensor,
) -> None:
    """Copy the old units that matter most, and fit what follows them to what `projector` gives for `scenes`."""
    one, two, three = _linears(projector)
    a, b, c = _linears(new)
    first = functional.gelu(one(((scenes - projector.mean) / projector.std).clamp(-CLAMP, CLAMP)))
    raw = two(first)
    second = functional.gelu(raw)
    old, own = _places(teacher)
    inner = (first.std(0) * two.weight.norm(dim=0)).topk(old).indices.sort().values
    outer = (second.std(0) * three.weight.norm(dim=0)).topk(own).indices.sort().values
    copied = _linears(before)[0]
    a.weight[:old], a.bias[:old] = copied.weight[inner], copied.bias[inner]
    kept = functional.gelu(a(drawn))[:, :old]
    b.weight[:own, :old], b.bias[:own] = fitted(kept, raw[:, outer])
    given = functional.gelu(b.weight[:own, :old] @ kept.T + b.bias[:own, None]).T
    c.weight[:, :own], c.bias[:] = fitted(given, three(second))


def _add_nouns(new: Projector, teacher: NounTeacher, vectors: Tensor, dreamt: Tensor) -> None:
    a, b, c = _linears(new)
    old, own = _places(teacher)
    classes, nouns = slice(old, -_GATES), slice(own, -_GATES)
    rows, bias = teacher.rows()
    a.weight[classes, :HEAD] = rows * new.std[:HEAD]
    a.bias[classes] = rows @ new.mean[:HEAD] + bias - _THRESHOLD
    mine = functional.one_hot(teacher.places, len(teacher.nouns)).T.float()
    b.weight[nouns, classes] = mine - _INHIBITION * (1 - mine)
    seen = functional.gelu(dreamt[:, :HEAD] @ rows.T + bias - _THRESHOLD)
    seen = functional.gelu(seen @ b.weight[nouns, classes].T)
    shares = teacher.shares(dreamt)
    # What the unit gives where the teacher sees the noun; of a rare noun partly what others give.
    usual = float((seen * shares).sum() / shares.sum())
    given = ((seen * shares).sum(0) + _PRIOR * usual) / (shares.sum(0) + _PRIOR)
    c.weight[:, nouns] = (_STRENGTH * (vectors - vectors.mean(0)) / given[:, None]).T


def _add_gates(new: Projector, teacher: NounTeacher, mean: Tensor, drawn: Tensor, others: Tensor) -> None:
    """Silence nouns on drawn tokens and old units on others, to which the last layer then gives the vectors' mean."""
    a, b, c = _linears(new)
    _, own = _places(teacher)
    wanted = torch.cat([torch.ones(len(drawn), 1), -torch.ones(len(others), 1)])
    weight, level = fitted(torch.cat([drawn, others]), wanted, _GATE_RIDGE)
    for gate, sign in ((-2, 1.0), (-1, -1.0)):
        a.weight[gate], a.bias[gate] = sign * _STEEP * weight[0], sign * _STEEP * (level[0] + _MARGIN)
    b.weight[own:-_GATES, -2] = -_SILENCE
    b.weight[:own, -1] = -_SILENCE
    # Their difference is `_STEEP` wherever the second gate is open.
    b.weight[-2:, -1] = _STEEP
    b.bias[-1] = -_STEEP
    c.weight[:, -2], c.weight[:, -1] = (mean - c.bias) / _STEEP, (c.bias - mean) / _STEEP


def _places(teacher: NounTeacher) -> tuple[int, int]:
    """Return the number of old units in the two hidden layers, which stand before the others."""
    return WIDTH - len(teacher.places) - _GATES, WIDTH - len(teacher.nouns) - _GATES


def _linears(projector: Projector) -> list[torch.nn.Linear]:
    return [part for part in projector.layers.modules() if isinstance(part, torch.nn.Linear)]


def fitted(inputs: Tensor, outputs: Tensor, ridge: float = _RIDGE) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the linear layer that gives `outputs` `[n, wide]` best for `inputs` `[n, narrow]`."""
    middle, mean = inputs.mean(0), outputs.mean(0)
    square = (inputs - middle).T @ (inputs - middle)
    square += ridge * square.diag().mean() * torch.eye(len(square))
    weight = torch.linalg.solve(square, (inputs - middle).T @ (outputs - mean)).T
    return weight, mean - weight @ middle


def _some(random: Generator, rows: NDArray[np.float16], count: int) -> Tensor:
    return torch.from_numpy(rows[np.sort(random.integers(0, len(rows), count))].astype(np.float32))
