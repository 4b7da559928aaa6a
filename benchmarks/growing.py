"""Whether a growing corpus finds again what was hidden from a bank, on the demo's scenes.

Fifty of the demo's 250 names are drawn, and all descriptive sentences with an accepted form of one of them are hidden:
they are a corpus of their own in the bank, which is left out. Then a corpus grows from a stream that holds hidden
sentences among others, for the visual tokens of other scenes than those that are scored: their patches that a thing
covers at least half. Stopped, it continues where it was.

    python -m benchmarks.growing --work .bench/growing --scenes 60
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common import machine, parser_of, processor_seconds, read_lines, sentences_file
from latentbank.bank.bank import Bank
from latentbank.bank.rotation import unit
from latentbank.bank.where import Where
from latentbank.demo.descriptions import describe
from latentbank.demo.scenes import EVALUATION, THINGS, VALIDATION, load_things, make_scene
from latentbank.demo.vlm import load_demo
from latentbank.ingest.banks import create_bank
from latentbank.ingest.corpus import Corpus, corpus_from_sentences
from latentbank.ingest.filling import fill
from latentbank.ingest.growing.growth import LEAST, GrowthReport, grow
from latentbank.models.vision.tokens import VisualModel, VisualTokens
from latentbank.progress import shown
from latentbank.query.evaluation.patches import LabelledPatches, labelled_patches
from latentbank.query.evaluation.scoring import Bootstrap, mentions, names
from latentbank.query.growing.asking import find_missing, group_of
from latentbank.query.growing.missing import Missing
from latentbank.query.lenses.base import Queries
from latentbank.query.lenses.latent import LatentLens

BANK, VISIBLE, HIDDEN, GROWN = "growing", "visible", "hidden", "grown"
"""The bank and its corpora: the sentences that stay, those that are hidden, and what grows."""
_COVERED = 0.5
_TOP = 5
WHEN = {"before": (VISIBLE, HIDDEN), "hidden": (VISIBLE,), "grown": (VISIBLE, GROWN)}
"""The corpora that are searched before hiding, after it, and after growing."""


@dataclass
class Kept:
    """A VLM whose visual tokens of scenes are kept in files, so that a second run does not compute them.

    Attributes:
        model: the VLM.
        layers: the visual layers that are kept.
        folder: of the files, one for each image.
    """

    model: Any
    layers: Sequence[int]
    folder: Path
    _like: VisualTokens | None = field(default=None, repr=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def visual_tokens(
        self,
        images: Sequence[Image.Image],
        layers: Sequence[int],
        prompt: str | None = None,  # noqa: ARG002 - as the VLM has it
    ) -> list[VisualTokens]:
        """Return the visual tokens of images, as the VLM does."""
        if self._like is None:
            (self._like,) = self.model.visual_tokens([Image.new("RGB", (224, 224))], [0])
        files = [self.folder / f"{self._digest(image)}.npz" for image in images]
        new = [number for number, file in enumerate(files) if not file.is_file()]
        if new:
            self.folder.mkdir(parents=True, exist_ok=True)
            found = self.model.visual_tokens([images[number] for number in new], self.layers)
            for number, tokens in zip(new, found, strict=True):
                states = {str(layer): tokens.states[layer].float().numpy() for layer in self.layers}
                np.savez(files[number], **states)
        loaded = []
        for file in files:
            with np.load(file) as kept:
                states = {layer: torch.from_numpy(kept[str(layer)]) for layer in layers}
            loaded.append(replace(self._like, states=states))
        return loaded

    @staticmethod
    def _digest(image: Image.Image) -> str:
        from latentbank.query.calibration.references import picture_digest

        return picture_digest(image)


@dataclass(frozen=True)
class Hidden:
    """What is hidden of the descriptive corpus.

    Attributes:
        names: the names that are hidden.
        others: the names that share no accepted form with these.
        visible: the sentences that stay.
        sentences: the hidden sentences.
    """

    names: tuple[str, ...]
    others: tuple[str, ...]
    visible: list[str]
    sentences: list[str]


def hide(count: int, sentences: int, seed: int = 0) -> Hidden:
    """Return what is hidden if `count` names are drawn."""
    known = [entry["name"] for entry in json.loads(THINGS.read_text(encoding="utf-8"))]
    drawn = np.random.default_rng(seed).choice(len(known), count, replace=False)
    chosen = tuple(known[i] for i in sorted(drawn))
    corpus = list(describe(sentences))
    found = [any(mentions(sentence, name) for name in chosen) for sentence in corpus]
    visible, hidden = (
        [sentence for sentence, hides in zip(corpus, found, strict=True) if hides is wanted]
        for wanted in (False, True)
    )
    others = tuple(name for name in known if not any(mentions(name, one) for one in chosen))
    return Hidden(chosen, others, visible, hidden)


def make_stream(hidden: Sequence[str], of_these: int, others: int, seed: int = 0) -> Corpus:
    """Return some hidden sentences among others, of concepts.txt of the reference library, in random order."""
    chance = np.random.default_rng(seed)
    mixed = []
    for source, count in ((hidden, of_these), (read_lines(sentences_file()), others)):
        taken = chance.choice(len(source), min(count, len(source)), replace=False)
        mixed += [source[i] for i in sorted(taken)]
    return corpus_from_sentences("stream", [mixed[i] for i in chance.permutation(len(mixed))])


@dataclass(frozen=True)
class Scored:
    """Patches that are scored, and what is known of them.

    Attributes:
        patches: the labelled patches.
        rows: those that an object covers enough.
        hidden: what is hidden.
    """

    patches: LabelledPatches
    rows: list[int]
    hidden: Hidden

    def named(self, words: Sequence[Sequence[str]]) -> list[bool]:
        """Return which patches are named by their words."""
        truths = (self.patches.truths[row] for row in self.rows)
        return [
            any(names(word, truth.name) for word in own) for own, truth in zip(words, truths, strict=True)
        ]

    def summary(self, named: dict[str, list[bool]]) -> dict[str, Any]:
        """Return what is named before hiding, after it, and after growing."""
        truths = [self.patches.truths[row] for row in self.rows]
        other = np.array([truth.name in self.hidden.others for truth in truths])
        scenes = np.array([truth.scene for truth in truths])
        bootstrap = Bootstrap(self.patches.images)
        found = {
            when: {
                truth.name
                for truth, hit in zip(truths, hits, strict=True)
                if hit and truth.name in self.hidden.names
            }
            for when, hits in named.items()
        }
        lost = found["before"] - found["hidden"]
        row: dict[str, Any] = {
            "shown": len({truth.name for truth in truths if truth.name in self.hidden.names}),
            "lost": len(lost),
            "found_again": len(lost & found["grown"]),
        }
        for when, hits in named.items():
            values = np.array(hits)
            row[f"names_{when}"] = len(found[when])
            row[f"others_{when}"] = asdict(bootstrap.share(values[other], scenes[other]))
            row[f"patches_{when}"] = asdict(bootstrap.share(values[~other], scenes[~other]))
        return row


def score(bank: Bank, missing: Missing, scored: Scored) -> list[dict[str, Any]]:
    """Return for each visual layer what is named, by plain cosine (five neighbors) and corrected (five words)."""
    found = []
    for layer, space in missing.spaces.items():
        states = scored.patches.states[layer][scored.rows]
        plain, corrected, best = {}, {}, {}
        for when, corpora in WHEN.items():
            where = Where(corpus=corpora)
            lens = LatentLens(bank, missing.layers, where, exact=True)
            read = lens.read(Queries(states, layer, "visual"), _TOP)
            plain[when] = scored.named([[neighbor.word for neighbor in own] for own in read])
            group, words = group_of(bank, space, unit(states), missing.layers, where)
            corrected[when], best[when] = scored.named(words), group.best
        of_hidden = np.array([scored.patches.truths[row].name in scored.hidden.names for row in scored.rows])
        found.append(
            {
                "layer": layer,
                "plain": scored.summary(plain),
                "corrected": scored.summary(corrected),
                "best_score_of_hidden": float(np.median(best["hidden"][of_hidden])),
                "best_score_of_others": float(np.median(best["hidden"][~of_hidden])),
                "best_score_of_asking": float(np.median(missing.asking_by_layer[layer].best)),
            }
        )
    return found


def main() -> None:
    """Run the experiment and print what it found."""
    given = _parser().parse_args()
    clock = _Clock()
    layers, bank_layers = _numbers(given.visual_layers), _numbers(given.layers)
    hidden = hide(given.hide, given.sentences)
    deepest = max(*layers, *bank_layers)
    demo = load_demo(given.model or given.work / "SmolLM2", deepest_layer=deepest, say=print)
    with create_bank(BANK, demo.language, bank_layers, data_dir=given.work / "banks", url="") as bank:
        clock.lap("loading")
        for name, sentences in ((VISIBLE, hidden.visible), (HIDDEN, hidden.sentences)):
            with shown(f"filling {name}", "contexts") as progress:
                fill(bank, corpus_from_sentences(name, sentences), demo.language, progress=progress)
        clock.lap("filling")
        vlm: VisualModel = Kept(demo, layers, given.work / "tokens")
        things = load_things()
        images = [make_scene(things, seed).image for seed in VALIDATION[: given.asking]]
        with shown("looking", "images") as progress:
            missing = find_missing(
                bank,
                vlm,
                images,
                layers,
                bank_layers=bank_layers,
                where=Where(corpus=VISIBLE),
                tokens_per_image=given.tokens_per_image,
                progress=progress,
            )
        clock.lap("finding what is missing")
        stream = make_stream(hidden.sentences, given.hidden, given.others)
        total = len(list(stream.sentences or ()))
        with shown("reading", "sentences") as progress:
            report = grow(
                bank,
                stream,
                demo.language,
                missing,
                name=GROWN,
                least=given.least,
                replace=True,
                total=total,
                directory=given.work / "growth",
                progress=progress,
            )
        clock.lap("growing")
        scenes = [make_scene(things, seed).labelled() for seed in EVALUATION[: given.scenes]]
        with shown("scoring", "scenes") as progress:
            patches = labelled_patches(vlm, scenes, layers, progress)
        rows = [i for i, truth in enumerate(patches.truths) if truth.coverage >= _COVERED]
        named = score(bank, missing, Scored(patches, rows, hidden))
        clock.lap("scoring")
        if GROWN in bank.corpora:
            bank.drop_corpus(GROWN)
    taken = [json.loads(line) for line in Path(report.file).read_text(encoding="utf-8").splitlines()]
    own = set(hidden.sentences)
    data = {
        "machine": machine(),
        "sizes": {key: str(value) for key, value in vars(given).items()},
        "sentences": {"hidden": len(hidden.sentences), "stream": total},
        "hidden_names": hidden.names,
        "growth": asdict(report),
        "taken_hidden": sum(one["sentence"] in own for one in taken),
        "kept_hidden": sum(one["sentence"] in own for one in taken if one["kept"]),
        "named": named,
        "seconds": clock.laps,
        "processor_seconds": processor_seconds(),
    }
    _show(data, report)
    if given.json:
        given.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.growing", __doc__)
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder that keeps the bank, visual tokens, and the LLM")
    add("--model", type=Path, help="folder of the converted LLM (one in --work)")
    add("--scenes", type=int, default=300, help="held-out scenes that are scored")
    add("--asking", type=int, default=400, help="other scenes, half of which ask while half confirm")
    add("--tokens-per-image", type=int, default=16, help="visual tokens of a scene that ask")
    add("--hide", type=int, default=50, help="names that are hidden")
    add("--sentences", type=int, default=20_000, help="sentences of the descriptive corpus")
    add("--hidden", type=int, default=20_000, help="hidden sentences in the stream")
    add("--others", type=int, default=2000, help="sentences of concepts.txt in the stream")
    add("--least", type=float, default=LEAST, help="what a token must gain")
    add("--layers", default="8,12,16", help="bank layers")
    add("--visual-layers", default="16", help="visual layers")
    add("--json", type=Path, help="file for the results")
    return parser


class _Clock:
    """Seconds of each part."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = round(now - self._last, 1), now


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _show(data: dict[str, Any], report: GrowthReport) -> None:
    print(json.dumps({key: data[key] for key in ("sentences", "seconds", "processor_seconds")}, indent=1))
    print(
        f"{report.asking:,} tokens asked, {report.answered:,} gained; {report.read:,} sentences read, {report.taken:,} "
        f"taken ({data['taken_hidden']:,} hidden ones), {report.kept:,} kept ({data['kept_hidden']:,}) for "
        f"{report.confirmed:,} of {report.held_out:,} held-out tokens."
    )
    for of_layer in data["named"]:
        best = {key: f"{value:.3f}" for key, value in of_layer.items() if key.startswith("best")}
        print(f"layer {of_layer['layer']}: {best}")
        for ranked in ("plain", "corrected"):
            row = of_layer[ranked]
            hidden, others = (
                ", ".join(f"{100 * row[f'{what}_{when}']['value']:.1f}" for when in WHEN)
                for what in ("patches", "others")
            )
            print(
                f"  {ranked}: of {row['shown']} names shown {row['names_before']} named before, {row['names_hidden']} "
                f"hidden, {row['names_grown']} grown; found again {row['found_again']} of {row['lost']}; patches of "
                f"hidden names {hidden} %; of others {others} %"
            )


if __name__ == "__main__":
    main()
