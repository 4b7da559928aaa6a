"""Preparing a recipe's corpus: its sentences, cleaned, in text files that a plan can be made from again and again.

The cleaned sentences are kept beside the embedded banks in parts. After each part the job writes down how far it is, so
that one that was killed goes on there: nothing that was cleaned is read, or fetched from the hub, again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latentbank.bank.settings import Settings, load_settings
from latentbank.errors import CorpusError
from latentbank.files import write_whole
from latentbank.ingest.corpus import Corpus
from latentbank.ingest.plan import PlanSettings
from latentbank.ingest.recipes.cleaning import Cleaned, Cleaner
from latentbank.ingest.recipes.records import Source, read
from latentbank.ingest.recipes.table import Recipe, own_sources, recipe_named
from latentbank.locks import alone_in
from latentbank.progress import Progress, Silent
from latentbank.text import is_hub_id, listed

VERSION = 1
"""Version of the cleaning and of the kept files; those of another version are made again."""
STATE = "cleaned.json"
"""Name of the file that says how far the cleaning is."""
# Sentences in a part. A job that is killed cleans at most so many again.
_PART = 100_000


@dataclass(frozen=True)
class Prepared:
    """A recipe's corpus, ready to be planned.

    Attributes:
        recipe: the recipe.
        corpus: the cleaned sentences.
        choice: how the recipe chooses contexts.
        cleaned: what cleaning has done. With a limit, reading ends with the part in which it is reached.
    """

    recipe: Recipe
    corpus: Corpus
    choice: PlanSettings
    cleaned: Cleaned


def prepare(
    name: str,
    sources: Sequence[str] = (),
    *,
    corpus: str | None = None,
    column: str | None = None,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Clean a recipe's corpus, or go on with it, and return it for `plan` and `fill`.

    Args:
        name: the recipe: visual-genome, wikipedia, pixmo-cap or concepts.
        sources: its files, or the id of a dataset on the hub; none: the recipe's own dataset, or what is installed.
        corpus: the corpus's name; None: the recipe's.
        column: the column with the text; None: the recipe's.
        config: configuration of the dataset; None: the recipe's, for its own dataset.
        split: split of the dataset; None: "train".
        revision: revision of the dataset on the hub.
        limit: take at most this many sentences; None: the recipe's limit.
        settings: where the cleaned sentences are kept, beside embedded banks; None: read from the environment.
        progress: counts the sentences kept.

    Raises:
        CorpusError: there is no such recipe, its file is missing or cannot be read, or holds no sentence.
        LatentBankError: the cleaned sentences cannot be written.

    Examples:
        >>> import latentbank as lb
        >>> from latentbank.ingest.recipes.preparing import prepare
        >>> ready = prepare("concepts")
        >>> model = lb.load_language_model("HuggingFaceTB/SmolLM2-135M")
        >>> plan = lb.plan(ready.corpus, model, bank="concepts", choice=ready.choice)
    """
    recipe = recipe_named(name)
    given = [str(source) for source in sources] or own_sources(recipe)
    _check(recipe, given)
    if given == [recipe.dataset]:
        config = config or recipe.config
    source = Source(tuple(given), column or recipe.column, config, split, revision, recipe.regions)
    mark = hashlib.blake2b(source.identity().encode(), digest_size=6).hexdigest()
    folder = (settings or load_settings()).data_dir / ".recipes" / f"{recipe.name}-{mark}"
    limit = limit or recipe.limit
    with alone_in(folder, f"cleans the recipe {recipe.name} in {folder}", wait=True):
        kept = _Kept(recipe, folder)
        kept.extend(source, limit, progress or Silent())
    if not kept.cleaned.sentences:
        raise CorpusError(
            f"{listed(given)}: no sentence is left after cleaning; check the file and its column."
        )
    files = tuple(str(file) for file in kept.files())
    return Prepared(
        recipe, Corpus(corpus or recipe.name, files, format="txt", limit=limit), recipe.choice, kept.cleaned
    )


def _check(recipe: Recipe, sources: Sequence[str]) -> None:
    """Check that sources are files and folders, or one dataset."""
    missing = [source for source in sources if not Path(source).exists()]
    if missing and (len(sources) > 1 or not is_hub_id(missing[0], owner=True)):
        raise CorpusError(f"No such file: {listed(missing)}; the recipe {recipe.name} reads {recipe.source}.")


class _Kept:
    """The cleaned sentences in a folder, and how far they go."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self._recipe, self._folder = recipe, folder
        self._state: dict[str, Any] = self._read()
        self.cleaned = Cleaned(**self._state["cleaned"])

    def _read(self) -> dict[str, Any]:
        try:
            state = json.loads((self._folder / STATE).read_bytes())
            if state["version"] == VERSION and all(self._part(i).exists() for i in range(state["parts"])):
                Cleaned(**state["cleaned"])
                return dict(state)
        except (OSError, ValueError, LookupError, TypeError):
            pass  # nothing was cleaned yet, or by another version
        return {
            "version": VERSION, "parts": 0, "cleaned": asdict(Cleaned()), "stream": None, "finished": False
        }  # fmt: skip

    def _part(self, number: int) -> Path:
        return self._folder / f"{self._recipe.name}-{number:05d}.txt"

    def files(self) -> list[Path]:
        return [self._part(number) for number in range(self._state["parts"])]

    def extend(self, source: Source, limit: int | None, progress: Progress) -> None:
        """Clean until there are `limit` sentences, or all."""
        progress.stage("cleaning", "sentences")
        if self._state["finished"] or (limit is not None and self.cleaned.sentences >= limit):
            return
        cleaner = Cleaner(self._recipe.clean, self.cleaned, self._earlier())
        records = read(source, self.cleaned.records, self._state["stream"])
        enough = False
        while not (self._state["finished"] or enough):
            part: list[str] = []
            for text in records.texts:
                part += cleaner.sentences(text)
                progress.update(self.cleaned.sentences, limit)
                enough = limit is not None and self.cleaned.sentences >= limit
                if enough or len(part) >= _PART:
                    break
            else:
                self._state["finished"] = True
            self._write(part, records.state())

    def _earlier(self) -> Iterator[str]:
        for file in self.files():
            with file.open(encoding="utf-8", newline="\n") as lines:
                yield from (line.rstrip("\n") for line in lines)

    def _write(self, sentences: Sequence[str], stream: Any) -> None:
        """Keep one more part; the state is written last, so that a part without it is made again."""
        number = self._state["parts"]
        if sentences:
            write_whole(self._part(number), "".join(f"{sentence}\n" for sentence in sentences).encode())
            number += 1
        self._state |= {"parts": number, "cleaned": asdict(self.cleaned), "stream": stream}
        write_whole(self._folder / STATE, json.dumps(self._state, indent=1).encode())
