"""The recipes: where each corpus comes from, its licence, how it is cleaned, and which contexts are chosen."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from latentbank.errors import CorpusError
from latentbank.ingest.plan import PlanSettings
from latentbank.ingest.recipes.cleaning import Clean, lower_phrase, one_sentence, sentences_of_text
from latentbank.text import listed


@dataclass(frozen=True)
class Recipe:
    """A well-known corpus.

    Attributes:
        name: the recipe's name, and the corpus's where none is given.
        about: what the corpus is.
        source: where its file comes from.
        licence: the licence it is published under.
        clean: gives a record's sentences.
        choice: how contexts are chosen.
        dataset: id of the dataset on the hub that is streamed where no file is given; None: a file is needed.
        config: the dataset's configuration.
        column: the column with the text, in files that have columns.
        limit: sentences taken where no other limit is given; None: all.
        regions: whether its JSON documents are Visual Genome's lists of images with regions.
    """

    name: str
    about: str
    source: str
    licence: str
    clean: Clean
    choice: PlanSettings
    dataset: str | None = None
    config: str | None = None
    column: str | None = None
    limit: int | None = None
    regions: bool = False


# The authors' extraction (reproduce/scripts/extract_embeddings.py of McGill-NLP/latentlens at 36de5cb): at most 20
# contexts of each decoded token, a random sample. It takes the phrases of Visual Genome at all positions, 0 included.
_PHRASES = PlanSettings(skip=0, contexts_per_token=20, sampling="reservoir")
# For captions of whole sentences it leaves out positions 0 and 1, and samples positions from 10 on apart from 2 to 9.
_SENTENCES = PlanSettings(
    skip=0, contexts_per_token=20, sampling="reservoir", first_position=2, split_position=10
)
# The reference library (latentlens/extract.py): positions from 2 on, the first 50 contexts of a token.
_LIBRARY = PlanSettings(skip=0, contexts_per_token=50, first_position=2)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "visual-genome",
            "region phrases of Visual Genome, the paper's corpus: 5.4 million, 3 million of them distinct",
            "region_descriptions.json (also in its .zip) from "
            "https://homes.cs.washington.edu/~ranjay/visualgenome/api.html, or the authors' phrases, "
            "reproduce/vg_phrases.txt of https://github.com/McGill-NLP/latentlens",
            "CC BY 4.0",
            lower_phrase,
            _PHRASES,
            column="phrase",
            regions=True,
        ),
        Recipe(
            "wikipedia",
            "sentences of the English Wikipedia, the first million",
            "wikimedia/wikipedia on the Hugging Face hub, configuration 20231101.en",
            "CC BY-SA 3.0 and GFDL",
            sentences_of_text,
            _SENTENCES,
            dataset="wikimedia/wikipedia",
            config="20231101.en",
            column="text",
            limit=1_000_000,
        ),
        Recipe(
            "pixmo-cap",
            "sentences of PixMo-Cap's 717,042 long captions, which the paper's connectors were trained on",
            "allenai/pixmo-cap on the Hugging Face hub",
            "ODC-By 1.0",
            sentences_of_text,
            _SENTENCES,
            dataset="allenai/pixmo-cap",
            column="caption",
        ),
        Recipe(
            "concepts",
            "117,125 sentences about 23,000 concepts, the corpus of the reference library",
            "concepts.txt of https://github.com/McGill-NLP/latentlens; taken from the package latentlens where it is "
            "installed",
            "MIT",
            one_sentence,
            _LIBRARY,
        ),
    )
}
"""The recipes by name."""


def recipe_named(name: str) -> Recipe:
    """Return a recipe.

    Raises:
        CorpusError: there is none of this name.
    """
    if name not in RECIPES:
        raise CorpusError(f"There is no recipe {name!r}; choose one of these: {listed(RECIPES)}.")
    return RECIPES[name]


def own_sources(recipe: Recipe) -> list[str]:
    """Return what a recipe reads where no file is given: its dataset, or a file that is installed here.

    Raises:
        CorpusError: it needs a file.
    """
    if recipe.dataset is not None:
        return [recipe.dataset]
    if recipe.name == "concepts":
        package = importlib.util.find_spec("latentlens")
        for folder in (package and package.submodule_search_locations) or ():
            file = Path(folder) / "data" / "concepts.txt"
            if file.is_file():
                return [str(file)]
    raise CorpusError(
        f"The recipe {recipe.name} needs a file: {recipe.source}. Its licence is {recipe.licence}."
    )
