"""Questions: do these words, or sentences, describe what a visual token sees? One question is one item to be judged.

The protocol is that of the LatentLens paper (arXiv 2602.00462): for each image one random box of 3 x 3 patches, wholly
off padding, and the five words that a lens finds for the token in its middle. The same box serves every lens and layer.
Blind controls are mixed in: the words of another image's token, and of the same token behind a random projector.
Whoever answers sees a `Question` without its `subject`, which names lens, layer and control.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from latentbank.bank.points import Neighbor
from latentbank.errors import QueryError
from latentbank.progress import Progress, Silent
from latentbank.query.judging.views import Box, View, centres, outline, view_of
from latentbank.query.output.stored import StoredReading, open_stored, read_head, stored_files
from latentbank.values import whole

Study = Literal["words", "sentences"]
STUDIES: tuple[Study, ...] = ("words", "sentences")
Control = Literal["", "other image", "random projector"]
"""What a question's words are, if they are not the token's own."""

IMAGES = 100
"""Images for each model, as in the paper."""
WORDS = 5
"""Neighbors that a question shows, as in the paper."""
CONTROLS = 0.2
"""Share of the images that also get a control."""


@dataclass(frozen=True)
class Candidate:
    """One word to be judged, or one sentence with the word marked.

    Attributes:
        word: the whole word.
        sentence: the sentence; "" where words alone are judged.
        start: where the marked token begins in the sentence, in characters.
        end: where it ends.
    """

    word: str
    sentence: str = ""
    start: int = -1
    end: int = -1

    def marked(self, left: str = "**", right: str = "**") -> str:
        """Return the sentence with the token between `left` and `right`; the word if there is no sentence."""
        if not self.sentence:
            return self.word
        before, own, after = (
            self.sentence[: self.start],
            self.sentence[self.start : self.end],
            self.sentence[self.end :],
        )
        return f"{before}{left}{own}{right}{after}"


@dataclass(frozen=True)
class Subject:
    """What a question is about. It is hidden from whoever answers.

    Attributes:
        model: the VLM's name.
        image: a name of the image without slashes: that of its reading's file.
        source: the image's name in the reading: its path as given, or DATASET/SPLIT/NUMBER.
        lens: the lens.
        layer: the visual layer.
        row: row of the token in the grid.
        column: column of the token in the grid.
        index: the token's position in the reading.
        control: what the words are, if they are not the token's own.
    """

    model: str
    image: str
    source: str
    lens: str
    layer: int
    row: int
    column: int
    index: int
    control: Control = ""

    @property
    def item(self) -> str:
        """The item's name in votes: `MODEL/IMAGE/PATCH`, the patch with layer, lens and control."""
        control = f"-{self.control.replace(' ', '-')}" if self.control else ""
        patch = f"r{self.row}c{self.column}-L{self.layer:02d}-{self.lens}{control}"
        return f"{self.model.replace('/', '--')}/{self.image}/{patch}"


@dataclass(frozen=True)
class Question:
    """One item to be judged.

    Attributes:
        id: its name for whoever answers, which tells nothing.
        study: whether words or sentences are judged.
        candidates: the words or sentences, best first, each once.
        view: the encoder's view of the image.
        box: the 3 x 3 patches, in pixels of the image.
        subject: what is hidden.
    """

    id: str
    study: Study
    candidates: tuple[Candidate, ...]
    view: View
    box: Box
    subject: Subject


@dataclass(frozen=True)
class Questions:
    """The questions of a study, image by image, and what has none.

    Attributes:
        asked: the questions. Those of one image stand together, in an order that tells nothing.
        without_box: images in which no 3 x 3 patches lie wholly off padding.
        without_words: tokens for which a lens found nothing to show.
    """

    asked: tuple[Question, ...]
    without_box: int
    without_words: int


Found = Mapping[tuple[str, int], Sequence[Neighbor]]
"""What each lens found for one token at each layer."""


@dataclass(frozen=True)
class _Chosen:
    """One image with its box, and what the lenses found for the token in its middle."""

    model: str
    image: str
    source: str
    view: View
    box: Box
    place: tuple[int, int]
    index: int
    found: Found
    noise: Found | None = None


def find_questions(
    folders: Iterable[str | os.PathLike[str]],
    *,
    study: Study = "words",
    images: int = IMAGES,
    words: int = WORDS,
    lenses: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    controls: float = CONTROLS,
    random_projector: Iterable[str | os.PathLike[str]] = (),
    progress: Progress | None = None,
) -> Questions:
    """Choose the questions of folders of readings, the same from the same readings and seed.

    The choice of images and boxes depends on the seed and the images' names only, so models that read the same images
    are asked about the same ones.

    Args:
        folders: folders of Parquet files that `ReadingFolder` wrote, each of one model.
        study: whether words or sentences are judged; lenses without sentences have no questions about them.
        images: images of each model, at most.
        words: how many neighbors of a token a question shows; those of 1 give pass@1.
        lenses: the lenses asked about; None: all.
        layers: the visual layers asked about; None: all.
        seed: seed of all choices.
        controls: share of the images that also get a control of each kind, from 0 to 1.
        random_projector: folders of readings of the same images, by the same models with a random projector.
        progress: receives the number of images done.

    Raises:
        QueryError: a folder holds no readings of images, nothing is left to ask, a folder of a random projector has no
            reading of an image or model, or two folders have readings of the same tokens.
    """
    images, words = whole(images, "images", 1), whole(words, "words", 1)
    if not 0 <= controls <= 1:
        raise QueryError("The share of controls is a number from 0 to 1.", argument="controls")
    progress = progress or Silent()
    noise = _by_name(random_projector)
    asked: list[Question] = []
    without_box = without_words = 0
    picks = [_ordered(stored_files(folder), seed) for folder in folders]
    total, done = sum(min(images, len(files)) for files in picks), 0
    for files in picks:
        chosen: list[_Chosen] = []
        for path in files:
            if len(chosen) == images:
                break
            found = _chosen(open_stored(path, lenses), seed)
            if found is None:
                without_box += 1
            else:
                chosen.append(found)
                done += 1
                progress.update(done, total)
        if noise:
            count = round(controls * len(chosen))
            chosen = [_with_noise(one, noise, lenses) if at < count else one for at, one in enumerate(chosen)]
        new, empty = _questions(chosen, _How(study, words, layers, seed, controls))
        asked += new
        without_words += empty
    progress.update(total, total)
    if twice := len(asked) - len({question.subject.item for question in asked}):
        raise QueryError(
            f"{twice:,} tokens are in two of the folders, with the same lens and layer: ask about one folder at a time."
        )
    if not asked:
        raise QueryError(
            f"There is nothing to ask: {without_box:,} images have no box of 3 x 3 patches off padding, "
            f"{without_words:,} tokens no {study}; check lenses and layers."
        )
    return Questions(tuple(asked), without_box, without_words)


def _ordered(files: Sequence[Path], seed: int) -> list[Path]:
    """Return the files in an order that depends on the images' names and the seed only."""
    return sorted(files, key=lambda path: (_digest(seed, Path(read_head(path)["source"]).name), path.name))


def _chosen(reading: StoredReading, seed: int) -> _Chosen | None:
    """Return an image with its random box; None if there is no place for one."""
    cells = reading.grid()
    if not cells:
        return None
    wide, high = reading.head["size"]
    view = view_of(cells, (wide, high))
    places = centres(cells, view)
    if not places:
        return None
    place = places[int(_digest(seed, "box", Path(reading.source).name), 16) % len(places)]
    index = cells[place].index
    return _Chosen(
        reading.model,
        reading.path.stem,
        reading.source,
        view,
        outline(cells, place),
        place,
        index,
        reading.neighbors(index),
    )


def _by_name(folders: Iterable[str | os.PathLike[str]]) -> dict[tuple[str, str], Path]:
    """Return the files of readings through a random projector by model and image."""
    found = {}
    for folder in folders:
        for path in stored_files(folder):
            head = read_head(path)
            found[head["model"], head["source"]] = path
    return found


def _with_noise(
    chosen: _Chosen, noise: Mapping[tuple[str, str], Path], lenses: Sequence[str] | None
) -> _Chosen:
    """Add what the lenses found for the same token behind a random projector."""
    path = noise.get((chosen.model, chosen.source))
    if path is None:
        raise QueryError(
            f"The folders of a random projector have no reading of {chosen.source} by {chosen.model}; read the same "
            "images with the same model.",
            argument="random_projector",
        )
    return replace(chosen, noise=open_stored(path, lenses).neighbors(chosen.index))


@dataclass(frozen=True)
class _How:
    """How questions are made of chosen images; see `find_questions`."""

    study: Study
    words: int
    layers: Sequence[int] | None
    seed: int
    controls: float


def _questions(chosen: Sequence[_Chosen], how: _How) -> tuple[list[Question], int]:
    """Return the questions about the images of one model, and the number of tokens without words."""
    asked: list[Question] = []
    empty = 0
    count = round(how.controls * len(chosen)) if len(chosen) > 1 else 0
    for at, one in enumerate(chosen):
        own: list[Question] = []
        for (lens, layer), neighbors in one.found.items():
            if how.layers is not None and layer not in how.layers:
                continue
            shown: list[tuple[Control, Sequence[Neighbor]]] = [("", neighbors)]
            if at < count:
                other = chosen[(at + 1) % len(chosen)]
                shown.append(("other image", other.found.get((lens, layer), ())))
            if one.noise is not None:
                shown.append(("random projector", one.noise.get((lens, layer), ())))
            for control, found in shown:
                candidates = candidates_of(found[: how.words], how.study)
                if candidates:
                    own.append(_question(one, how, lens, layer, control, candidates))
                else:
                    empty += 1
        asked += sorted(own, key=lambda question: question.id)
    return asked, empty


def _question(
    chosen: _Chosen, how: _How, lens: str, layer: int, control: Control, candidates: tuple[Candidate, ...]
) -> Question:
    subject = Subject(
        model=chosen.model,
        image=chosen.image,
        source=chosen.source,
        lens=lens,
        layer=layer,
        row=chosen.place[0],
        column=chosen.place[1],
        index=chosen.index,
        control=control,
    )
    number = _digest(how.seed, how.study, subject.item, *(candidate.marked() for candidate in candidates))[
        :16
    ]
    return Question(number, how.study, candidates, chosen.view, chosen.box, subject)


def candidates_of(neighbors: Iterable[Neighbor], study: Study) -> tuple[Candidate, ...]:
    """Return neighbors as words or sentences, each once.

    White space alone is written as its escape sequence. A neighbor without a sentence is left out of `sentences`.
    """
    found: dict[Candidate, None] = {}
    for neighbor in neighbors:
        word = neighbor.word.strip() or repr(neighbor.word)[1:-1]
        if study == "words":
            if word:
                found[Candidate(word)] = None
        elif neighbor.caption:
            found[Candidate(word, neighbor.caption, neighbor.start, neighbor.end)] = None
    return tuple(found)


def _digest(seed: int, *parts: str) -> str:
    return hashlib.blake2b(
        "\n".join([str(seed), *parts]).encode("utf-8", "replace"), digest_size=16
    ).hexdigest()
