"""What correcting a lens's scores is worth, on the demo's scenes, where the truth is known.

    python -m benchmarks.correction --data-dir .demo/scores/banks --bank descriptive --work .bench/correction

For each visual layer, lens and correction, the words of the patches that show a thing, and of some that show
background, are read once and kept in the folder of work, so a run that was stopped continues. The tables are then made
from them: shares named, with intervals from resampled scenes; shuffled images; attributes; background; rare names;
hubs; each bank layer alone. `--references 1,5,20,80,own` also calibrates LatentLens on so many pictures, or on those
that are read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine, parser_of
from latentbank.bank.bank import Bank
from latentbank.bank.opening import open_bank
from latentbank.demo.scenes import EVALUATION, VALIDATION, load_things, make_scene
from latentbank.demo.vlm import LINEAR, PROJECTOR, load_demo
from latentbank.models.vision.tokens import VisualModel
from latentbank.progress import shown
from latentbank.query.calibration.calibrate import calibrate
from latentbank.query.calibration.calibration import load_calibration
from latentbank.query.calibration.correction import Correction, Mode
from latentbank.query.calibration.vocabulary import LENSES, calibrate_vocabulary
from latentbank.query.evaluation.controls import with_random_projector
from latentbank.query.evaluation.labelled import LabelledImage
from latentbank.query.evaluation.patches import grid_of
from latentbank.query.evaluation.scoring import (
    Bootstrap,
    Share,
    Truth,
    Verdict,
    forms,
    judge_all,
    names,
    shuffled,
    truths_of,
)
from latentbank.query.lenses.base import Lens, LensOptions, Queries
from latentbank.query.lenses.registry import lenses_of

TOP_K = 5
_DEPTH = 20  # neighbors read, of which the first five with distinct words are scored, too
_BACKGROUND = 4  # patches without a thing that are read of each scene
_PATTERNS = ("background", "plain", "striped", "stripe", "dotted", "dot", "checkered", "noisy")
_BATCH = 16


@dataclass(frozen=True)
class Scenes:
    """Scenes, what their chosen patches show, and the hidden states of all their patches.

    Attributes:
        scenes: the scenes.
        truths: of each patch of which a thing covers at least half.
        background: scene and patch of some patches without a thing.
        states: by visual layer, float32 `[scenes, patches, hidden]`.
    """

    scenes: Sequence[LabelledImage]
    truths: Sequence[Truth]
    background: Sequence[tuple[int, int]]
    states: dict[int, Any]

    def rows(self, layer: int) -> Any:
        """Return the hidden states of the patches that show a thing, then of those that show background."""
        chosen = [(truth.scene, truth.token) for truth in self.truths] + list(self.background)
        return np.stack([self.states[layer][scene, token] for scene, token in chosen])


def main() -> None:
    """Read, score and write the results."""
    parser = parser_of("benchmarks.correction", __doc__)
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="folder of the banks")
    add("--bank", default="descriptive", help="a bank of plain cosine")
    add("--model", default="demo", help="demo, demo-linear, random, or a projector's file")
    add("--llm", type=Path, help="folder that keeps the LLM, which is then loaded faster")
    add("--work", type=Path, required=True, help="folder of what was read")
    add("--scenes", type=int, default=300)
    add("--pictures", type=int, default=80, help="other scenes on which lenses are calibrated")
    add("--layers", default="0,2,4,8,12,16,20,24,29", help="visual layers")
    add("--modes", default="none,hubs,mean,both")
    add("--lenses", default="latent,logit,embedding")
    add("--corpus", help="only contexts of this corpus")
    add("--alone", default="", help="visual layers at which each bank layer is also searched alone")
    add("--references", default="", help="numbers of pictures, or own, that LatentLens is also calibrated on")
    add("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    run = Run(arguments)
    run.read()
    run.show()


class Run:
    """One run; see the module."""

    def __init__(self, arguments: Any) -> None:
        self.given = arguments
        self.layers = [int(layer) for layer in arguments.layers.split(",")]
        self.work: Path = arguments.work / f"{arguments.bank}-{Path(arguments.model).stem}"
        self.work.mkdir(parents=True, exist_ok=True)
        self.model = _model(arguments)
        things, grid = load_things(), grid_of(self.model)
        self.pictures = [
            make_scene(things, seed, grid).labelled() for seed in VALIDATION[: arguments.pictures]
        ]
        scenes = [make_scene(things, seed, grid).labelled() for seed in EVALUATION[: arguments.scenes]]
        self.scenes = self._seen(scenes)
        self.bootstrap = Bootstrap(len(scenes))
        self.calibrated: set[Path] = set()  # folders whose calibration is as it should be

    def read(self) -> None:
        """Read what is not kept yet."""
        modes = [None if mode == "none" else mode for mode in self.given.modes.split(",")]
        with open_bank(self.given.bank, data_dir=self.given.data_dir, url="") as bank:
            where = None
            if self.given.corpus:
                from latentbank.bank.where import Where

                where = Where(corpus=self.given.corpus)
            options = LensOptions(self.model, bank, "all", where)
            lenses = lenses_of(self.given.lenses.split(","), options)
            counts = self.work / "words.json"
            if not counts.is_file():
                facet = bank.store.facet(bank.layers[len(bank.layers) // 2], "word", limit=1_000_000)
                counts.write_text(json.dumps(facet), encoding="utf-8")
            for mode in modes:
                for layer in self.layers:
                    self._read_layer(bank, lenses, layer, mode)
        for number in filter(None, self.given.references.split(",")):
            self._read_with(number)

    def _read_layer(self, bank: Bank, lenses: Sequence[Lens], layer: int, mode: Mode | None) -> None:
        missing = [lens for lens in lenses if not self._file(lens.name, layer, mode).is_file()]
        alone = [int(at) for at in self.given.alone.split(",") if at]
        singles = layer in alone and not self._file("alone", layer, mode).is_file()
        if not missing and not singles:
            return
        if mode is not None:
            correction = self._correction(bank, self.pictures, [lens.name for lens in missing], mode)
            lenses = [lens.corrected(correction) for lens in lenses]
            missing = [lens.corrected(correction) for lens in missing]
        for lens in missing:
            self._keep(lens.name, layer, mode, _words(lens, self.scenes.rows(layer), layer))
        searching = next((lens for lens in lenses if lens.bank is not None), None)
        if singles and searching is not None:
            rows = self.scenes.rows(layer)[: len(self.scenes.truths)]
            found = {
                str(at): _words(searching.at_bank_layer(at), rows, layer, TOP_K)
                for at in searching.searched_layers()
            }
            self._keep("alone", layer, mode, found)

    def _correction(
        self, bank: Bank, pictures: Sequence[LabelledImage], lenses: Sequence[str], mode: Mode
    ) -> Correction:
        images = [picture.image for picture in pictures]
        if bank.settings.data_dir not in self.calibrated:
            with shown("calibrating", "contexts") as progress:
                calibrate(bank, self.model, images, self.layers, what="scenes", progress=progress)
            self.calibrated.add(bank.settings.data_dir)
        calibration = load_calibration(bank, self.model)
        calibrate_vocabulary(
            calibration, self.model, self.layers, [name for name in lenses if name in LENSES]
        )
        return Correction(calibration, mode)

    def _read_with(self, number: str) -> None:
        """Read with a calibration on other pictures, which is kept in a folder of its own."""
        pictures = self.scenes.scenes if number == "own" else self.pictures[: int(number)]
        folder = self.work / f"references-{number}"
        folder.mkdir(exist_ok=True)
        link = folder / self.given.bank
        if not link.exists():
            link.symlink_to((self.given.data_dir / self.given.bank).resolve(), target_is_directory=True)
        with open_bank(self.given.bank, data_dir=folder, url="") as bank:
            (lens,) = lenses_of("latent", LensOptions(self.model, bank, "all"))
            for layer in self.layers:
                if not self._file(f"references-{number}", layer, "both").is_file():
                    correction = self._correction(bank, pictures, (), "both")
                    words = _words(lens.corrected(correction), self.scenes.rows(layer), layer)
                    self._keep(f"references-{number}", layer, "both", words)

    # -- what is kept --------------------------------------------------------------------------

    def _file(self, lens: str, layer: int, mode: Mode | None) -> Path:
        corpus = f"-{self.given.corpus}" if self.given.corpus else ""
        return self.work / f"{lens}-{mode or 'none'}-V{layer:02d}-{self.given.scenes}{corpus}.json"

    def _keep(self, lens: str, layer: int, mode: Mode | None, found: Any) -> None:
        self._file(lens, layer, mode).write_text(json.dumps(found), encoding="utf-8")
        print(f"{lens}, visual layer {layer}, {mode or 'none'}", flush=True)

    def _seen(self, scenes: Sequence[LabelledImage]) -> Scenes:
        truths = [
            truth
            for number, scene in enumerate(scenes)
            for truth in truths_of(scene, number)
            if truth.coverage >= 0.5
        ]
        chance = np.random.default_rng(0)
        background = []
        for number, scene in enumerate(scenes):
            free = np.flatnonzero(np.sum([thing.coverage for thing in scene.objects], axis=0) < 0.01)
            chosen = chance.choice(free, min(_BACKGROUND, len(free)), replace=False)
            background += [(number, int(token)) for token in sorted(chosen)]
        file = self.work / f"states-{len(scenes)}-V{'-'.join(map(str, self.layers))}.npz"
        if not file.is_file():
            found: dict[int, list[Any]] = {layer: [] for layer in self.layers}
            for start in range(0, len(scenes), _BATCH):
                images = [scene.image for scene in scenes[start : start + _BATCH]]
                for tokens in self.model.visual_tokens(images, self.layers):
                    for layer in self.layers:
                        found[layer].append(tokens.states[layer].float().numpy())
            np.savez(file, **{str(layer): np.stack(rows) for layer, rows in found.items()})
        with np.load(file) as kept:
            return Scenes(scenes, truths, background, {layer: kept[str(layer)] for layer in self.layers})

    # -- tables --------------------------------------------------------------------------------

    def show(self) -> None:
        """Print the tables, and write the results."""
        results = list(self._results())
        for result in results:
            print(json.dumps(result))
        if self.given.json is not None:
            data = {"machine": machine(), "given": vars(self.given), "results": results}
            self.given.json.write_text(json.dumps(data, indent=1, default=str) + "\n", encoding="utf-8")

    def _results(self) -> Iterator[dict[str, Any]]:
        for lens in [*self.given.lenses.split(","), *self._references()]:
            for mode in self.given.modes.split(","):
                chosen: Any = None if mode == "none" else mode
                files = [self._file(lens, layer, chosen) for layer in self.layers]
                if all(file.is_file() for file in files):
                    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
                    yield {"lens": lens, "correction": mode, **self._scored(found)}
        for layer in self.layers:
            for mode in self.given.modes.split(","):
                chosen = None if mode == "none" else mode
                file = self._file("alone", layer, chosen)
                if file.is_file():
                    found = json.loads(file.read_text(encoding="utf-8"))
                    shares = {
                        at: _percent(self._share([_named(words, self.scenes.truths)]))
                        for at, words in found.items()
                    }
                    yield {"visual_layer": layer, "correction": mode, "bank_layers_alone": shares}

    def _references(self) -> list[str]:
        return [f"references-{number}" for number in self.given.references.split(",") if number]

    def _scored(self, found: Sequence[Sequence[Sequence[str]]]) -> dict[str, Any]:
        """Return the shares of a lens; `found` are the words of each layer, patch and neighbor."""
        truths = self.scenes.truths
        shown = [[words[:TOP_K] for words in layer[: len(truths)]] for layer in found]
        distinct = [[_distinct(words) for words in layer[: len(truths)]] for layer in found]
        verdicts = np.stack([judge_all(words, truths) for words in shown])
        order = shuffled(truths)
        other = np.stack([judge_all([words[i] for i in order], truths) for words in shown])
        named = verdicts == Verdict.CONCRETE
        return {
            "named": _interval(self._share(named)),
            "named_by_layer": [round(100 * float(row.mean()), 1) for row in named],
            "distinct_words": _interval(self._share([_named(words, truths) for words in distinct])),
            "shuffled": _interval(self._share(other == Verdict.CONCRETE)),
            "attribute": _interval(self._share(verdicts == Verdict.ATTRIBUTE)),
            "any_attribute": _interval(self._share([_attribute(words, truths) for words in shown])),
            "another_thing": _interval(self._share(verdicts == Verdict.GLOBAL)),
            "by_contexts": self._by_contexts(named),
            **self._background([layer[len(truths) :] for layer in found]),
            **_hubs(found),
        }

    def _by_contexts(self, named: Any) -> dict[str, Any]:
        """Return the share named by the number of contexts that name the thing: in thirds of the things."""
        counts = json.loads((self.work / "words.json").read_text(encoding="utf-8"))
        own = {
            name: sum(count for word, count in counts.items() if names(word, name))
            for name in {truth.name for truth in self.scenes.truths}
        }
        known = sorted(count for count in own.values() if count)
        low, high = (known[len(known) * part // 3] for part in (1, 2)) if known else (1, 1)
        shares: dict[str, Any] = {}
        for label, least, most in (
            ("none", 0, 0),
            ("few", 1, low),
            ("some", low + 1, high),
            ("many", high + 1, 10**9),
        ):
            chosen = [i for i, truth in enumerate(self.scenes.truths) if least <= own[truth.name] <= most]
            if chosen:
                share = self._share(named[:, chosen], [self.scenes.truths[i].scene for i in chosen])
                shares[f"{label} ({least} to {most})"] = {**_interval(share), "patches": len(chosen)}
        return shares

    def _background(self, found: Sequence[Sequence[Sequence[str]]]) -> dict[str, Any]:
        """Return what stands on patches without a thing: a true color, the background's words, or a thing's name."""
        things = {forms(thing.name.split()[-1]) for thing in load_things()}
        heads = frozenset().union(*things)
        true, patterns, wrong = [], [], []
        for layer in found:
            for (number, _), words in zip(self.scenes.background, layer, strict=True):
                first = [forms(word) for word in words[:TOP_K]]
                colors = self.scenes.scenes[number].background
                true.append(any(not word.isdisjoint(colors) for word in first))
                patterns.append(any(not word.isdisjoint(_PATTERNS) for word in first))
                wrong.append(bool(first) and not first[0].isdisjoint(heads))
        return {
            "background_true_color": round(100 * float(np.mean(true)), 1),
            "background_or_pattern": round(100 * float(np.mean(patterns)), 1),
            "background_best_word_is_a_thing": round(100 * float(np.mean(wrong)), 1),
        }

    def _share(self, hits: Any, scenes: Sequence[int] | None = None) -> Share:
        owners = [truth.scene for truth in self.scenes.truths] if scenes is None else scenes
        return self.bootstrap.share(np.mean(np.asarray(hits, dtype=float), axis=0), owners)


def _model(arguments: Any) -> VisualModel:
    projector = {"demo": PROJECTOR, "random": PROJECTOR, "demo-linear": LINEAR}.get(arguments.model)
    model = load_demo(arguments.llm, projector=projector or arguments.model)
    if arguments.model != "random":
        return model
    things, grid = load_things(), grid_of(model)
    images = [make_scene(things, seed, grid).image for seed in EVALUATION[:32]]
    control = with_random_projector(model, images)
    assert control is not None
    return control


def _words(lens: Lens, rows: Any, layer: int, depth: int = _DEPTH) -> list[list[str]]:
    found: list[list[str]] = []
    for start in range(0, len(rows), 1024):
        part = lens.read(Queries(rows[start : start + 1024], layer, "visual"), depth)
        found += [[neighbor.word for neighbor in neighbors] for neighbors in part]
    return found


def _distinct(words: Sequence[str]) -> list[str]:
    kept: dict[str, str] = {}
    for word in words:
        kept.setdefault(word.casefold(), word)
    return list(kept.values())[:TOP_K]


def _named(words: Sequence[Sequence[str]], truths: Sequence[Truth]) -> Any:
    return judge_all(words, truths) == Verdict.CONCRETE


def _attribute(words: Sequence[Sequence[str]], truths: Sequence[Truth]) -> list[bool]:
    """Return whether one of a patch's words is a true color or place, whether or not another names the thing."""
    return [
        any(not forms(word).isdisjoint(truth.attributes) for word in own)
        for own, truth in zip(words, truths, strict=True)
    ]


def _hubs(found: Sequence[Sequence[Sequence[str]]]) -> dict[str, Any]:
    """Return how alike the best words of patches are: the share of the ten most frequent, and how many there are."""
    shares, distinct = [], []
    for layer in found:
        counts = Counter(words[0].casefold() for words in layer if words)
        shares.append(sum(count for _, count in counts.most_common(10)) / max(1, counts.total()))
        distinct.append(len(counts))
    return {
        "ten_commonest_best_words": round(100 * float(np.mean(shares)), 1),
        "different_best_words": round(float(np.mean(distinct))),
    }


def _percent(share: Share) -> float:
    return round(100 * share.value, 1)


def _interval(share: Share) -> dict[str, float]:
    rounded = replace(
        share, value=_percent(share), low=round(100 * share.low, 1), high=round(100 * share.high, 1)
    )
    return {"share": rounded.value, "low": rounded.low, "high": rounded.high}


if __name__ == "__main__":
    main()
