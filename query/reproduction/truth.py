"""The ground truth in the judge's place: what labelled images are known to show."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from latentbank.bank.points import Neighbor
from latentbank.errors import QueryError
from latentbank.progress import Progress
from latentbank.query.evaluation.labelled import LabelledImage
from latentbank.query.evaluation.scoring import Truth, judge, shuffled, truths_of
from latentbank.query.evaluation.scoring import Verdict as Kind
from latentbank.query.evaluation.tables import OBJECT
from latentbank.query.judging.questions import Control, Subject
from latentbank.query.judging.verdicts import Verdict
from latentbank.query.output.stored import StoredReading, open_stored, stored_files
from latentbank.query.reproduction.world import JudgeTask

RATER = "ground truth"


@dataclass(frozen=True)
class _Patch:
    """An object patch: its image, what is known of it, its token, and what lenses found for it."""

    image: str
    truth: Truth
    index: int
    found: Mapping[tuple[str, int], tuple[Neighbor, ...]]
    noise: Mapping[tuple[str, int], tuple[Neighbor, ...]]


class TruthJudge:
    """Judges the words of every patch of which an object covers at least half.

    A word that names the object is `concrete`, one that names another object of the image `global`; a word that is true
    of the patch otherwise (a colour, a place) is `abstract`, as nothing else is known that could be. Rules:
    `latentbank.query.evaluation.scoring`. As controls, each patch is also judged by the words of another image's patch,
    and by those that a random projector gives it.
    """

    def __init__(self, labelled: Callable[[], Mapping[str, LabelledImage]]) -> None:
        """Keep the function that returns what images show, by the names of their readings."""
        self._labelled = labelled

    def __call__(self, task: JudgeTask, progress: Progress) -> list[Verdict]:
        """Return a verdict for each patch, lens and layer, and those on controls.

        Raises:
            QueryError: a reading is of another image, or fewer than two images have a patch to judge.
        """
        patches: list[_Patch] = []
        files = stored_files(task.readings)
        progress.stage(f"judging ({task.model})", "images")
        for number, file in enumerate(files):
            patches += self._patches(file, number, task)
            progress.update(number + 1, len(files))
        if len({patch.truth.scene for patch in patches}) < 2:
            raise QueryError("Fewer than two images show an object on half of a patch; read more images.")
        others = shuffled([patch.truth for patch in patches])
        verdicts: list[Verdict] = []
        for patch, other in zip(patches, others, strict=True):
            verdicts += _verdicts(task, patch, patch.found, "")
            verdicts += _verdicts(task, patch, patches[other].found, "other image")
            if task.noise is not None:
                verdicts += _verdicts(task, patch, patch.noise, "random projector")
        return verdicts

    def _patches(self, file: Path, number: int, task: JudgeTask) -> Iterator[_Patch]:
        """Yield the object patches of an image."""
        reading = open_stored(file, task.lenses)
        noise = None if task.noise is None else open_stored(task.noise / file.name, task.lenses)
        labelled = self._labelled().get(reading.source)
        if labelled is None:
            raise QueryError(f"It is not known what {reading.source} shows.")
        indices = _indices(reading)
        for truth in truths_of(labelled, number):
            if truth.coverage >= OBJECT and truth.token in indices:
                index = indices[truth.token]
                noisy = {} if noise is None else noise.neighbors(index)
                yield _Patch(reading.source, truth, index, reading.neighbors(index), noisy)


def _indices(reading: StoredReading) -> dict[int, int]:
    """Return the token of each patch of the grid; patches are numbered row by row."""
    cells = reading.grid()
    columns = max(column for _, column in cells) + 1 if cells else 0
    return {row * columns + column: cell.index for (row, column), cell in cells.items()}


def _verdicts(
    task: JudgeTask, patch: _Patch, found: Mapping[tuple[str, int], Sequence[Neighbor]], control: str
) -> Iterator[Verdict]:
    for (lens, layer), neighbors in found.items():
        words = tuple(neighbor.word for neighbor in neighbors[: task.words])
        kinds = {word: judge([word], patch.truth) for word in words}
        subject = Subject(
            model=task.model,
            image=patch.image,
            source=patch.image,
            lens=lens,
            layer=layer,
            row=-1,
            column=-1,
            index=patch.index,
            control=cast("Control", control),
        )
        yield Verdict(
            question=hashlib.blake2b("\n".join([subject.item, *words]).encode(), digest_size=8).hexdigest(),
            study="words",
            subject=subject,
            candidates=words,
            rater=RATER,
            concrete=_of(kinds, Kind.CONCRETE),
            abstract=_of(kinds, Kind.ATTRIBUTE),
            global_=_of(kinds, Kind.GLOBAL),
        )


def _of(kinds: Mapping[str, Kind], kind: Kind) -> tuple[str, ...]:
    return tuple(word for word, own in kinds.items() if own == kind)
