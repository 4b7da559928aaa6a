"""How well patches are found by a word, on the demo's scenes, where it is known what covers each patch.

    python -m benchmarks.image_search tokens --work .bench/images
    python -m benchmarks.image_search quality --data-dir .demo/scores/banks --work .bench/images
    python -m benchmarks.image_search stored --data-dir .demo/scores/banks --work .bench/images

`tokens` encodes 1,000 scenes of `VALIDATION` once, at several visual layers; the other parts do so first if that is
not done. `quality` also writes the VLM's captions of them.
R-precision of each of the 250 things is the share of true patches among the first R, where R is the number of patches
that it covers at least a fifth; all cosines are computed exactly, in memory. What was chosen was chosen on every second
thing, the others are held out; intervals come from resampling things. The ceiling is a single vector, too: the mean of
the thing's own true patches in every second scene, which searches the other scenes.

`stored` stores the scenes' tokens and asks as `images where` does. `benchmarks.image_speed` says how fast that is.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine, parser_of
from latentbank.bank.bank import Bank
from latentbank.bank.images.bank import ImageBank
from latentbank.bank.images.opening import create_images, open_images
from latentbank.bank.images.points import patch_ids
from latentbank.bank.manifest import Manifest
from latentbank.bank.opening import create_bank, open_bank
from latentbank.bank.rotation import rotate, unit
from latentbank.bank.settings import Settings, load_settings
from latentbank.demo.scenes import VALIDATION, load_things, make_scene
from latentbank.demo.vlm import load_demo
from latentbank.query.calibration.references import MOST, density_mean, nearest_of
from latentbank.query.evaluation.patches import grid_of, token_of_patch
from latentbank.query.evaluation.scoring import mentions
from latentbank.query.images.contexts import term_of_bank
from latentbank.query.images.ranking import EXAMPLES
from latentbank.query.images.search import How, ImageSearch
from latentbank.query.images.space import Floats, words_of

SCENES, TOKENS, LEAST = 1000, 49, 0.2
LAYER = 16
"""The visual layer that is stored."""
_BATCH, _BLOCK = 16, 4096
_NOISE = 0.5  # length of the noise that is added to a token of length 1, to make a copy


@dataclass(frozen=True)
class Things:
    """What the scenes show.

    Attributes:
        names: of the things, those of even number first.
        truth: the numbers of the patches that each covers at least a fifth, by name.
    """

    names: list[str]
    truth: dict[str, np.ndarray[Any, Any]]

    def precision(self, scores: Floats) -> np.ndarray[Any, Any]:
        """Return the R-precision of each thing for scores `[things, patches]`."""
        return np.array(
            [precision(row, self.truth[name]) for name, row in zip(self.names, scores, strict=True)]
        )


def precision(scores: Floats, true: np.ndarray[Any, Any]) -> float:
    """Return the share of true patches among the first R by score."""
    best = np.argpartition(-scores, len(true) - 1)[: len(true)]
    return len(np.intersect1d(best, true)) / len(true)


def main() -> None:
    """Measure, print and write JSON."""
    parser = parser_of("benchmarks.image_search", __doc__)
    add = parser.add_argument
    add("part", choices=["tokens", "quality", "stored"])
    add("--work", type=Path, required=True, help="folder that keeps tokens, captions and the bank of images")
    add("--data-dir", type=Path, help="folder of the banks")
    add("--bank", default="descriptive", help="a bank of plain cosine")
    add("--bank-layers", default="8,12,16,20")
    add("--layers", default="0,8,16,24", help="visual layers")
    add("--llm", type=Path, help="folder that keeps the LLM")
    add("--json", type=Path, help="file for the results")
    given = parser.parse_args()
    results = {"tokens": tokens, "quality": quality, "stored": stored}[given.part](given)
    if given.json is not None:
        given.json.write_text(
            json.dumps({"machine": machine(), **results}, indent=1) + "\n", encoding="utf-8"
        )


# -- quality ---------------------------------------------------------------------------------------


def encode(given: argparse.Namespace) -> Things:
    """Encode the scenes once, and return what they show; tokens lie in the folder of work, of length 1."""
    layers = [int(layer) for layer in given.layers.split(",")]
    told = given.work / "things.json"
    missing = [layer for layer in layers if not _file(given.work, layer).is_file()]
    if missing or not told.is_file():
        given.work.mkdir(parents=True, exist_ok=True)
        model = load_demo(given.llm)
        things, grid = load_things(), grid_of(model)
        covered: dict[str, list[int]] = {thing.name: [] for thing in things}
        kept: dict[int, list[Any]] = {layer: [] for layer in missing}
        for start in range(0, SCENES, _BATCH):
            scenes = [
                make_scene(things, VALIDATION[n], grid) for n in range(start, min(SCENES, start + _BATCH))
            ]
            for number, scene in enumerate(scenes, start):
                for thing in scene.objects:
                    true = np.flatnonzero(thing.coverage >= LEAST) + number * TOKENS
                    covered[thing.name] += true.tolist()
            for tokens in model.visual_tokens([scene.image for scene in scenes], missing):
                places = token_of_patch(tokens)
                chosen = [places[patch] for patch in sorted(places)]
                for layer in missing:
                    kept[layer].append(unit(tokens.states[layer][chosen].float().numpy()).astype(np.float16))
        for layer, parts in kept.items():
            np.save(_file(given.work, layer), np.concatenate(parts))
        told.write_text(json.dumps({name: sorted(set(own)) for name, own in covered.items()}))
    shown = {name: np.array(own) for name, own in json.loads(told.read_text()).items() if own}
    return Things([*shown][0::2] + [*shown][1::2], shown)


def tokens(given: argparse.Namespace) -> dict[str, Any]:
    """Encode the scenes, and print how many patches show a thing."""
    things = encode(given)
    print(f"{len(things.names)} things, {sum(map(len, things.truth.values())):,} patches that show one")
    return {"things": len(things.names)}


def captions(given: argparse.Namespace) -> list[str]:
    """Return what the VLM writes about each scene; it is written once."""
    file = given.work / "captions.json"
    written: list[str] = json.loads(file.read_text()) if file.is_file() else []
    if len(written) < SCENES:
        model, things = load_demo(given.llm), load_things()
        for start in range(len(written), SCENES, _BATCH):
            numbers = range(start, min(SCENES, start + _BATCH))
            written += model.captions([make_scene(things, VALIDATION[n]).image for n in numbers], 32)
            file.write_text(json.dumps(written))
    return written


def quality(given: argparse.Namespace) -> dict[str, Any]:
    """Print R-precision by visual layer, bank layer and way of ranking, beside the ceiling and the captions."""
    things = encode(given)
    layers = [int(layer) for layer in given.layers.split(",")]
    results: dict[str, Any] = {}
    kept: dict[str, dict[int, Floats]] = {}
    with open_bank(given.bank, data_dir=given.data_dir, url="") as bank:
        for layer in layers:
            x = rotate(np.load(_file(given.work, layer)).astype(np.float32), bank.manifest.rotation_seed)
            sample = x[np.random.default_rng(0).choice(len(x), MOST, replace=False)]
            centred = unit(x - density_mean(sample, nearest_of(MOST)))
            for name, rows in (("plain", x), ("means subtracted", centred)):
                _tell(results, f"visual {layer}, ceiling, {name}", _ceiling(things, rows))
            for number in (int(one) for one in given.bank_layers.split(",")):
                for name, scores in _ways(bank, number, things, x, centred):
                    _tell(results, f"visual {layer}, bank {number}, {name}", things.precision(scores))
                    if name in ("examples", "plain") and number == default_layer(bank):
                        kept.setdefault(name, {})[layer] = scores.astype(np.float16)
        for name, by_layer in kept.items():
            mean = np.mean([scores.astype(np.float32) for scores in by_layer.values()], axis=0)
            _tell(
                results, f"visual layers averaged, bank {default_layer(bank)}, {name}", things.precision(mean)
            )
    written = captions(given)
    names_in = np.array([[mentions(text, name) for text in written] for name in things.names])
    images = np.repeat(names_in, TOKENS, axis=1).astype(np.float32)
    noise = np.random.default_rng(0).random(images.shape, dtype=np.float32)
    _tell(results, "captions that name it, any of their patches", things.precision(images + 0.5 * noise))
    plain = kept["plain"][16 if 16 in kept["plain"] else layers[0]].astype(np.float32)
    _tell(results, "captions that name it, patches by plain cosine", things.precision(images * 4 + plain))
    best = kept["examples"][16 if 16 in kept["examples"] else layers[0]].astype(np.float32)
    _tell(results, "captions that name it, patches by examples", things.precision(images * 4 + best))
    return results


def default_layer(bank: Bank) -> int:
    """Return the bank layer nearest to two fifths of the LLM's layers."""
    return min(bank.layers, key=lambda layer: abs(layer - 0.4 * bank.manifest.num_layers))


def _ways(bank: Bank, layer: int, things: Things, x: Floats, centred: Floats) -> Any:
    """Yield the name and the scores `[things, patches]` of each way of ranking."""
    words = words_of(bank, layer)
    terms, single = [], []
    for name in things.names:
        term, one = (term_of_bank(bank, name, [layer], most=most) for most in (50, 1))
        assert term is not None
        assert one is not None
        terms.append(term.vectors[layer])
        single.append(one.vectors[layer])
    raw = np.stack(terms)
    yield "plain, one context", unit(np.stack(single)) @ x.T
    yield "plain", unit(raw) @ x.T
    directions = unit(raw - words.mean)
    yield "text's mean subtracted", directions @ x.T
    scores = directions @ centred.T
    yield "means", scores
    competing = np.concatenate(
        [words.competing(centred[start : start + _BLOCK]) for start in range(0, len(centred), _BLOCK)]
    )
    first = scores - competing
    yield "words", first
    best = np.argsort(-first, axis=1)[:, :EXAMPLES]
    middle = unit(directions + unit(centred[best].mean(axis=1)))
    yield "examples alone", middle @ centred.T
    yield "examples", middle @ centred.T + first


def _ceiling(things: Things, rows: Floats) -> np.ndarray[Any, Any]:
    """Return the R-precision of the mean of a thing's true patches in every second scene, in the other scenes."""
    odd = (np.arange(len(rows)) // TOKENS) % 2
    found = []
    for name in things.names:
        true, own = things.truth[name], []
        for half in (0, 1):
            seen, left = true[odd[true] != half], true[odd[true] == half]
            if len(seen) and len(left):
                scores = rows @ unit(rows[seen].mean(axis=0)[None])[0]
                own.append(precision(np.where(odd == half, scores, -9.0), left))
        found.append(np.mean(own) if own else np.nan)
    return np.array(found)


def _tell(results: dict[str, Any], name: str, values: np.ndarray[Any, Any]) -> None:
    """Print and keep the mean over things, that over the chosen ones and over those that are held out."""
    half = (len(values) + 1) // 2
    told = {}
    for part, own in (("all", values), ("chosen on", values[:half]), ("held out", values[half:])):
        own = own[~np.isnan(own)]
        drawn = np.random.default_rng(0).choice(own, (2000, len(own))).mean(axis=1)
        low, high = np.quantile(drawn, (0.025, 0.975))
        told[part] = {"mean": float(own.mean()), "low": float(low), "high": float(high), "things": len(own)}
    results[name] = told
    text = "  ".join(
        f"{part} {one['mean']:.3f} ({one['low']:.3f} to {one['high']:.3f})" for part, one in told.items()
    )
    print(f"{name:44} {text}", flush=True)


def _file(work: Path, layer: int) -> Path:
    return work / f"tokens-{layer:02d}.npy"


# -- stored ----------------------------------------------------------------------------------------


def stored(given: argparse.Namespace) -> dict[str, Any]:
    """Print R-precision of the very search that `images where` makes, in a stored bank of the scenes."""
    things, results = encode(given), dict[str, Any]()
    with open_bank(given.bank, data_dir=given.data_dir, url="") as bank:
        if not (given.work / "banks" / "stored").is_dir():
            store_tokens(given.work, "stored", bank.manifest, SCENES)
        with open_images("stored", bank_settings(given.work)) as images:
            search = ImageSearch(images, bank)
            for exact in (False, True):
                values = []
                for name in things.names:
                    true = things.truth[name]
                    how = How(limit=len(true), exact=exact, pictures=False)
                    found = search.where(name, how)
                    places = [int(patch.image[:5]) * TOKENS + patch.token for patch in found.patches]
                    values.append(len(np.intersect1d(places, true)) / len(true))
                _tell(results, f"stored, visual 16, {'exact' if exact else 'index'}", np.array(values))
    return results


def store_tokens(work: Path, name: str, manifest: Manifest, count: int) -> float:
    """Store the tokens of so many images at one layer and index them; return the seconds."""
    settings, chance = bank_settings(work), np.random.default_rng(0)
    x = np.load(_file(work, LAYER)).astype(np.float32)
    sizes = {"num_layers": manifest.num_layers, "hidden_size": manifest.hidden_size}
    create_bank(
        name, settings, model=manifest.model, fingerprint=manifest.fingerprint, layers=[12], **sizes
    ).close()
    started = time.perf_counter()
    with create_images(name, settings, model="demo", fingerprint="0" * 32, layers=[LAYER], **sizes) as images:
        images.store.defer_index(LAYER, count * TOKENS)
        for number in range(count):
            rows = x[number % SCENES * TOKENS : (number % SCENES + 1) * TOKENS]
            if number >= SCENES:
                rows = rows + _NOISE * unit(chance.standard_normal(rows.shape))
            _add(images, LAYER, number, rows)
        images.commit()
        images.store.index(LAYER)
    return time.perf_counter() - started


def _add(images: ImageBank, layer: int, number: int, rows: Floats) -> None:
    digest = f"{number:032x}"
    payloads = [
        {
            "corpus": "scenes",
            "image": f"{number:05}.png",
            "digest": digest,
            "token": token,
            "tokens": TOKENS,
            "tile": 0,
            "row": token // 7,
            "column": token % 7,
            "box": [32.0 * (token % 7), 32.0 * (token // 7), 32.0 * (token % 7 + 1), 32.0 * (token // 7 + 1)],
            "size": [224, 224],
            "norm": 1.0,
        }
        for token in range(TOKENS)
    ]
    images.add(layer, patch_ids("scenes", digest, TOKENS), rows, payloads)


def bank_settings(work: Path) -> Settings:
    """Return the settings of the banks in the folder of work."""
    return load_settings(data_dir=work / "banks", url="")


if __name__ == "__main__":
    main()
