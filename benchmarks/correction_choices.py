"""Which formula corrects LatentLens best: contexts, weights and neighbors, tried on scenes that no table scores.

    python -m benchmarks.correction_choices --data-dir .demo/scores/banks --bank descriptive --layers 0,8,16,24,29

All cosines are computed exactly, with all vectors in memory. Scenes 300 to 360 of `VALIDATION` are read, the first 80
are the reference. Printed is the share of patches named by the first five neighbors, for each visual layer and on
average, and the share of best words that are one of the ten commonest, by: what is corrected; by what the best contexts
of a layer are chosen that are scored again (q·c; (q − m/2)·c; (q − m)·c; the centred cosine q′·c′); how many; and over
how many contexts g is taken. docs/findings.md has the results.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import parser_of
from latentbank.bank.bank import Bank
from latentbank.bank.opening import open_bank
from latentbank.bank.rotation import rotated_units
from latentbank.demo.scenes import VALIDATION, load_things, make_scene
from latentbank.demo.vlm import load_demo
from latentbank.models.vision.tokens import VisualModel
from latentbank.query.calibration.references import density_mean
from latentbank.query.evaluation.patches import grid_of
from latentbank.query.evaluation.scoring import Bootstrap, Share, Truth, Verdict, judge_all, truths_of

_REFERENCES = 80
_NEAREST = 50
_POOLS = ("q", "q - m/2", "q - m", "q'")


@dataclass(frozen=True)
class Found:
    """The best contexts of one bank layer for each patch, chosen in one way, and what they are scored by.

    Attributes:
        ids: their places in the layer, int64 `[patches, contexts]`.
        cosines: q·c, or the centred cosine.
        hubs: h of the contexts.
    """

    ids: torch.Tensor
    cosines: torch.Tensor
    hubs: torch.Tensor

    def scores(self, count: int, nearest: int) -> torch.Tensor:
        """Return 2 cos − h − g of the first `count`; g is the mean of the `nearest` best of them, 0: none."""
        cosines = self.cosines[:, :count]
        near = cosines.topk(nearest, dim=1).values.mean(1, keepdim=True) if nearest else 0
        return 2 * cosines - self.hubs[:, :count] - near


def main() -> None:
    """Compute and print."""
    parser = parser_of("benchmarks.correction_choices", __doc__)
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="folder of the banks")
    add("--bank", default="descriptive", help="a bank of plain cosine")
    add("--bank-layers", default="all")
    add("--llm", type=Path, help="folder that keeps the LLM")
    add("--layers", default="0,8,16,24,29", help="visual layers")
    add("--scenes", type=int, default=60)
    add("--json", type=Path, help="file for the results")
    given = parser.parse_args()
    model = load_demo(given.llm)
    layers = [int(layer) for layer in given.layers.split(",")]
    references, _ = _patches(model, layers, range(_REFERENCES))
    states, truths = _patches(model, layers, range(300, 300 + given.scenes))
    hits: dict[str, list[Any]] = {}
    commonest: dict[str, list[float]] = {}
    with torch.inference_mode(), open_bank(given.bank, data_dir=given.data_dir, url="") as bank:
        chosen = (
            bank.layers if given.bank_layers == "all" else [int(at) for at in given.bank_layers.split(",")]
        )
        for layer in layers:
            for name, words in _read(bank, chosen, states[layer], references[layer], truths):
                named = judge_all(words, [truth for _, truth in truths]) == Verdict.CONCRETE
                hits.setdefault(name, []).append(named.astype(float))
                counts = Counter(found[0].casefold() for found in words)
                share = sum(count for _, count in counts.most_common(10)) / counts.total()
                commonest.setdefault(name, []).append(share)
    bootstrap, owners = Bootstrap(given.scenes), [truth.scene for _, truth in truths]
    results = {}
    for name, rows in hits.items():
        mean = bootstrap.share(np.mean(rows, axis=0), owners)
        gain = bootstrap.share(np.mean(rows, axis=0) - np.mean(hits["plain"], axis=0), owners)
        few = 100 * float(np.mean(commonest[name]))
        results[name] = {
            "ten_commonest_best_words": few,
            "by_layer": [100 * float(row.mean()) for row in rows],
            "mean": mean,
            "gain": gain,
        }
        by_layer = " ".join(f"{100 * row.mean():5.1f}" for row in rows)
        print(f"{name:36} {by_layer}  {_told(mean)}  gain {_told(gain)}  ten words {few:.1f}")
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=1, default=vars) + "\n", encoding="utf-8")


def _patches(
    model: VisualModel, layers: list[int], numbers: range
) -> tuple[dict[int, Any], list[tuple[int, Truth]]]:
    """Return the hidden states of all patches of scenes, by layer, and those that show a thing with their truths."""
    things, grid = load_things(), grid_of(model)
    states: dict[int, list[Any]] = {layer: [] for layer in layers}
    truths = []
    for place, number in enumerate(numbers):
        scene = make_scene(things, VALIDATION[number], grid).labelled()
        (tokens,) = model.visual_tokens([scene.image], layers)
        for layer in layers:
            states[layer].append(tokens.states[layer].float().numpy())
        found = truths_of(scene, place)
        truths += [
            (place * len(tokens.rows) + truth.token, truth) for truth in found if truth.coverage >= 0.5
        ]
    return {layer: np.concatenate(rows) for layer, rows in states.items()}, truths


def _read(
    bank: Bank, layers: list[int], states: Any, references: Any, truths: list[tuple[int, Truth]]
) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield the first five words of each patch at a visual layer, by each way of scoring."""
    words: list[str] = []
    plain: list[Found] = []
    pools: dict[str, list[Found]] = {pool: [] for pool in _POOLS}
    q = torch.from_numpy(rotated_units(states[[row for row, _ in truths]], bank.manifest.rotation_seed))
    x = torch.from_numpy(rotated_units(references, bank.manifest.rotation_seed))
    for layer in layers:
        points = list(bank.store.scroll(layer, vectors=True, payloads=not words))
        words = words or [point.payload["word"] for point in points if point.payload is not None]
        c = torch.from_numpy(np.stack([point.vector for point in points if point.vector is not None]))
        first, centred = _compared(_unit(c), q, x)
        plain.append(first)
        for pool in _POOLS:
            pools[pool].append(centred[pool])

    def told(found: list[tuple[torch.Tensor, torch.Tensor]]) -> list[list[str]]:
        scores = torch.cat([score for score, _ in found], 1)
        ids = torch.cat([ids for _, ids in found], 1).gather(1, scores.topk(5, dim=1).indices)
        return [[words[at] for at in row] for row in ids.tolist()]

    yield "plain", told([(part.cosines, part.ids) for part in plain])
    for nearest in (0, 10, 50):
        yield f"hubs, g of {nearest}", told([(part.scores(50, nearest), part.ids[:, :50]) for part in plain])
    for pool, parts in pools.items():
        yield f"mean, best 50 by {pool}", told([(part.cosines[:, :50], part.ids[:, :50]) for part in parts])
        for count, nearest in ((50, 0), (50, 10), (50, 50), (100, 10)):
            found = [(part.scores(count, nearest), part.ids[:, :count]) for part in parts]
            yield f"both, best {count} by {pool}, g of {nearest}", told(found)


def _told(share: Share) -> str:
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _compared(c: torch.Tensor, q: torch.Tensor, x: torch.Tensor) -> tuple[Found, dict[str, Found]]:
    """Return the best contexts of a layer by plain cosines, and by centred ones from each way of choosing them."""
    m = torch.from_numpy(density_mean(x.numpy(), _NEAREST))
    own, text, seen = _unit(q - m), _unit(c - c.mean(0)), _unit(x - m)
    cosines, similar = q @ c.T, own @ text.T
    chosen = {
        "q": cosines,
        "q - m/2": _unit(q - m / 2) @ c.T,
        "q - m": own @ c.T,
        "q'": similar,
    }
    best = {pool: by.topk(100, dim=1).indices for pool, by in chosen.items()}
    plain_hubs, hubs = _hubs(c, x), _hubs(text, seen)
    first = Found(best["q"], cosines.gather(1, best["q"]), plain_hubs[best["q"]])
    return first, {pool: Found(ids, similar.gather(1, ids), hubs[ids]) for pool, ids in best.items()}


def _hubs(c: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return h of contexts: the mean of their largest cosines to the reference."""
    parts = [(block @ x.T).topk(_NEAREST, dim=1).values.mean(1) for block in c.split(2048)]
    return torch.cat(parts)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


if __name__ == "__main__":
    main()
