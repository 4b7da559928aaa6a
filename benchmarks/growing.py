"""Whether a growing corpus finds again what was hidden from a bank, on the demo's scenes.

Fifty of the demo's 250 names are drawn, and all descriptive sentences with an accepted form of one are hidden. A
bank holds the others. Then a corpus grows from a stream that holds the hidden sentences among many others, for the
visual tokens of other scenes than those that are scored. Scored are the patches of held-out scenes: a name counts as
named if one of the patches that it covers at least half is.

    python -m benchmarks.growing --work .bench/growing --scenes 60
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import machine, parser_of, processor_seconds, read_lines, sentences_file
from latentbank.bank.where import Where
from latentbank.demo.descriptions import describe
from latentbank.demo.scenes import EVALUATION, THINGS, VALIDATION, load_things, make_scene
from latentbank.demo.vlm import load_demo
from latentbank.ingest.banks import create_bank
from latentbank.ingest.corpus import Corpus, corpus_from_sentences
from latentbank.ingest.filling import fill
from latentbank.ingest.growing.growth import GrowthReport, grow
from latentbank.progress import shown
from latentbank.query.calibration.calibrate import calibrate
from latentbank.query.calibration.calibration import load_calibration
from latentbank.query.calibration.correction import Correction
from latentbank.query.evaluation.patches import LabelledPatches, labelled_patches
from latentbank.query.evaluation.scoring import Bootstrap, mentions, names
from latentbank.query.growing.asking import find_missing
from latentbank.query.growing.silent import p_values
from latentbank.query.lenses.base import Queries
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.silence.silence import Silence

HIDDEN, VISIBLE, GROWN = "hidden", "visible", "grown"
"""Corpora of the bank: the sentences that are hidden, the others, and what grows."""
_COVERED = 0.5
_TOP = 5
_LEVEL = 0.05
_REFERENCES = 80  # scenes that corrected readings are calibrated on


@dataclass(frozen=True)
class Sentences:
    """The descriptive corpus, split by what is hidden.

    Attributes:
        names: the names that are hidden.
        others: the names that share no accepted form with these.
        visible: the sentences that stay.
        hidden: those that are hidden.
    """

    names: tuple[str, ...]
    others: tuple[str, ...]
    visible: list[str]
    hidden: list[str]


def hide(count: int, sentences: int, seed: int = 0) -> Sentences:
    """Return the descriptive corpus with `count` of the names hidden."""
    known = [entry["name"] for entry in json.loads(THINGS.read_text(encoding="utf-8"))]
    drawn = np.random.default_rng(seed).choice(len(known), count, replace=False)
    chosen = [known[i] for i in sorted(drawn)]
    corpus = list(describe(sentences))
    found = [any(mentions(sentence, name) for name in chosen) for sentence in corpus]
    others = tuple(name for name in known if not any(mentions(name, one) for one in chosen))
    visible = [sentence for sentence, hidden in zip(corpus, found, strict=True) if not hidden]
    return Sentences(
        tuple(chosen), others, visible, [one for one, hidden in zip(corpus, found, strict=True) if hidden]
    )


def make_stream(hidden: Sequence[str], count: int, seed: int = 0) -> Corpus:
    """Return the hidden sentences among `count` others, from concepts.txt of the reference library, in random order."""
    chance = np.random.default_rng(seed)
    others = read_lines(sentences_file())
    taken = [others[i] for i in sorted(chance.choice(len(others), min(count, len(others)), replace=False))]
    mixed = [*hidden, *taken]
    return corpus_from_sentences("stream", [mixed[i] for i in chance.permutation(len(mixed))])


def found_names(
    lens: LatentLens, corpora: Sequence[str], patches: LabelledPatches, layers: Sequence[int]
) -> dict[int, list[bool]]:
    """Return for each visual layer which object patches the lens names when it searches some corpora."""
    own = replace(lens, where=Where(corpus=tuple(corpora)), exact=True)
    truths = [truth for truth in patches.truths if truth.coverage >= _COVERED]
    rows = [i for i, truth in enumerate(patches.truths) if truth.coverage >= _COVERED]
    found = {}
    for layer in layers:
        read = own.read(Queries(patches.states[layer][rows], layer, "visual"), _TOP)
        found[layer] = [
            any(names(neighbor.word, truth.name) for neighbor in neighbors)
            for neighbors, truth in zip(read, truths, strict=True)
        ]
    return found


def speaking_patches(
    lens: LatentLens, patches: LabelledPatches, layers: Sequence[int], split: Sentences
) -> list[dict[str, Any]]:
    """Return how many object patches have a significant neighbor though their names are hidden, and of the others.

    The p-value must be at most 0.05, in the bank without the hidden sentences.
    """
    assert lens.correction is not None
    own = replace(lens, where=Where(corpus=VISIBLE))
    silence = Silence(lens.correction.calibration, _LEVEL)
    rows = [i for i, truth in enumerate(patches.truths) if truth.coverage >= _COVERED]
    hidden = np.array([patches.truths[i].name in split.names for i in rows])
    found = []
    for layer in layers:
        speaks = p_values(own, silence, layer, patches.states[layer][rows]) <= _LEVEL
        found.append(
            {"layer": layer, "hidden": float(speaks[hidden].mean()), "others": float(speaks[~hidden].mean())}
        )
    return found


def summary(
    named: dict[str, dict[int, list[bool]]], patches: LabelledPatches, split: Sentences
) -> list[dict[str, Any]]:
    """Return for each visual layer, and for all together ("any"), what is named before, after hiding and after growing.

    A name is named at "any" layer if one of its patches is named at one of them.
    """
    truths = [truth for truth in patches.truths if truth.coverage >= _COVERED]
    other = np.array([truth.name in split.others for truth in truths])
    scenes = np.array([truth.scene for truth in truths])
    bootstrap = Bootstrap(patches.images)
    rows = []
    layers: list[int | str] = [*next(iter(named.values())), "any"]
    for layer in layers:
        hits = {
            when: np.any(list(by_layer.values()), axis=0)
            if layer == "any"
            else np.array(by_layer[int(layer)])
            for when, by_layer in named.items()
        }
        found = {
            when: {
                truth.name
                for truth, hit in zip(truths, values, strict=True)
                if hit and truth.name in split.names
            }
            for when, values in hits.items()
        }
        lost = found["before"] - found["hidden"]
        row: dict[str, Any] = {
            "layer": layer,
            "shown": len({truth.name for truth in truths if truth.name in split.names}),
            "lost": len(lost),
            "found_again": len(lost & found["grown"]),
        }
        for when, values in hits.items():
            row[f"names_{when}"] = len(found[when])
            row[f"others_{when}"] = asdict(bootstrap.share(values[other], scenes[other]))
            row[f"patches_{when}"] = asdict(bootstrap.share(values[~other], scenes[~other]))
        rows.append(row)
    return rows


def main() -> None:
    """Run the experiment and print what it found."""
    given = _parser().parse_args()
    clock = _Clock()
    layers, bank_layers = _numbers(given.visual_layers), _numbers(given.layers)
    split = hide(given.hide, given.sentences)
    vlm = load_demo(
        given.model or given.work / "SmolLM2", deepest_layer=max(*layers, *bank_layers), say=print
    )
    things = load_things()
    clock.lap("loading")
    with create_bank("growing", vlm.language, bank_layers, data_dir=given.work / "banks", url="") as bank:
        for name, sentences in ((VISIBLE, split.visible), (HIDDEN, split.hidden)):
            with shown(f"filling {name}", "contexts") as progress:
                fill(bank, corpus_from_sentences(name, sentences), vlm.language, progress=progress)
        if GROWN in bank.corpora:
            bank.drop_corpus(GROWN)
        clock.lap("filling")
        images = [make_scene(things, seed).image for seed in VALIDATION[: given.asking]]
        with shown("looking", "images") as progress:
            missing = find_missing(
                bank,
                vlm,
                images,
                layers,
                bank_layers=bank_layers,
                where=Where(corpus=VISIBLE),
                progress=progress,
            )
        clock.lap("finding what is missing")
        stream = make_stream(split.hidden, given.others)
        total = len(list(stream.sentences or ()))
        with shown("reading", "sentences") as progress:
            report = grow(bank, stream, vlm.language, missing, name=GROWN, total=total, progress=progress)
        clock.lap("growing")
        scenes = [make_scene(things, seed).labelled() for seed in EVALUATION[: given.scenes]]
        with shown("scoring", "scenes") as progress:
            patches = labelled_patches(vlm, scenes, layers, progress)
        with shown("calibrating", "contexts") as progress:
            calibrate(bank, vlm, images[:_REFERENCES], layers, bank_layers=bank_layers, progress=progress)
        plain = LatentLens(bank, bank_layers)
        lenses = {"corrected": plain.corrected(Correction(load_calibration(bank, vlm))), "plain": plain}
        when = {"before": (VISIBLE, HIDDEN), "hidden": (VISIBLE,), "grown": (VISIBLE, GROWN)}
        named = {
            ranked: summary(
                {name: found_names(lens, corpora, patches, layers) for name, corpora in when.items()},
                patches,
                split,
            )
            for ranked, lens in lenses.items()
        }
        clock.lap("scoring")
        speaking = speaking_patches(lenses["corrected"], patches, layers, split)
        clock.lap("p-values")
    taken = [json.loads(line) for line in Path(report.file).read_text(encoding="utf-8").splitlines()]
    own = set(split.hidden)
    data = {
        "machine": machine(),
        "sizes": {key: str(value) for key, value in vars(given).items()},
        "sentences": {"visible": len(split.visible), "hidden": len(split.hidden), "stream": total},
        "hidden_names": split.names,
        "growth": asdict(report),
        "taken_hidden": sum(one["sentence"] in own for one in taken),
        "kept_hidden": sum(one["sentence"] in own for one in taken if one["kept"]),
        "named": named,
        "speaking": speaking,
        "seconds": clock.laps,
        "processor_seconds": processor_seconds(),
    }
    _show(data, report)
    if given.json:
        given.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("benchmarks.growing", __doc__)
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder that keeps the bank and the LLM")
    add("--model", type=Path, help="folder of the converted LLM (one in --work)")
    add("--scenes", type=int, default=300, help="held-out scenes that are scored")
    add("--asking", type=int, default=400, help="other scenes, half of which ask while half confirm")
    add("--hide", type=int, default=50, help="names that are hidden")
    add("--sentences", type=int, default=20_000, help="descriptive sentences")
    add("--others", type=int, default=2000, help="sentences of concepts.txt in the stream")
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
    for one in data["speaking"]:
        print(
            f"layer {one['layer']}: without their sentences {100 * one['hidden']:.1f} % of the patches of hidden names "
            f"have a significant neighbor, of the others {100 * one['others']:.1f} %"
        )
    for ranked, row in ((ranked, row) for ranked, rows in data["named"].items() for row in rows):
        others = ", ".join(
            f"{100 * row[f'others_{when}']['value']:.1f}" for when in ("before", "hidden", "grown")
        )
        hidden = ", ".join(
            f"{100 * row[f'patches_{when}']['value']:.1f}" for when in ("before", "hidden", "grown")
        )
        print(
            f"{ranked}, layer {row['layer']}: of {row['shown']} names shown {row['names_before']} named before, "
            f"{row['names_hidden']} hidden, {row['names_grown']} grown; found again {row['found_again']} of "
            f"{row['lost']}; patches of hidden names {hidden} %; of others {others} %"
        )


if __name__ == "__main__":
    main()
