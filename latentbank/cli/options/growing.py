"""Options that say for which images a corpus grows, and which LLM writes sentences for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.options.common import VisualLayersOption
from latentbank.errors import LatentBankError

if TYPE_CHECKING:
    from latentbank.models.vision.sources import Images
    from latentbank.progress import Progress
    from latentbank.query.judging.endpoint import Endpoint


@dataclass(frozen=True, kw_only=True)
class GrowOptions:
    """The images whose visual tokens ask for sentences, and what a sentence must be worth."""

    images: Annotated[
        list[str],
        typer.Option(
            "--images",
            "-i",
            help="Files, globs, folders, .parquet files or hub datasets whose visual tokens ask for sentences; several "
            "times.",
            show_default=False,
        ),
    ]
    images_limit: Annotated[
        int | None, typer.Option("--images-limit", min=1, help="Take at most this many images.")
    ] = None
    visual_layers: VisualLayersOption = None
    bank_layers: Annotated[
        str,
        typer.Option(
            help="Bank layers at which sentences are compared: mid, all, paper, or numbers such as 8,12."
        ),
    ] = "mid"
    tokens_per_image: Annotated[
        int,
        typer.Option(
            min=1, help="Visual tokens of an image and layer, at most: those that resemble the fewest others."
        ),
    ] = 16
    fdr: Annotated[
        float | None,
        typer.Option(
            "--fdr",
            help="Only tokens that fall silent ask: share of words given that may be false, such as 0.05. Needs a "
            "calibration of the VLM for the bank; by default all tokens ask.",
        ),
    ] = None
    least: Annotated[
        float | None,
        typer.Option(min=0.0, help="What a token must gain in score; a higher number keeps fewer sentences."),
    ] = None
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace the corpus of the same name, once the new one is complete."),
    ] = False

    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Read, compare and list the sentences that would be kept; store nothing. A run without it stores them "
            "and reads nothing again.",
        ),
    ] = False

    def find(self) -> Images:
        """Return the images."""
        from latentbank.models.vision.sources import find_images

        return find_images(self.images, limit=self.images_limit)


@dataclass(frozen=True, kw_only=True)
class WriterOptions:
    """An LLM that writes sentences."""

    from_llm: Annotated[
        str | None,
        typer.Option(
            "--from-llm",
            help="Let an LLM write the sentences, instead of a stream: the address of an endpoint that speaks OpenAI's "
            "API, such as http://localhost:8000/v1, or a hub id or folder of a causal LLM.",
        ),
    ] = None
    llm: Annotated[
        str | None, typer.Option("--llm", help="The LLM's name at the endpoint of --from-llm.")
    ] = None
    questions: Annotated[
        int, typer.Option(min=1, help="Questions to the LLM, at most; each asks for ten sentences.")
    ] = 100
    key_variable: Annotated[
        str | None,
        typer.Option(
            help="Variable of the environment that holds the endpoint's API key; by default OPENAI_API_KEY for "
            "OpenAI's own endpoint, and no key for others."
        ),
    ] = None

    def check(self, sources: list[str] | None) -> None:
        """Check that there is one source of sentences.

        Raises:
            LatentBankError: there is none, or there are two; or the endpoint's model is not named.
        """
        if bool(sources) == bool(self.from_llm):
            raise LatentBankError(
                "Name either a stream of sentences (files, a folder, a hub dataset, or - for standard input) or an LLM "
                "that writes them.",
                argument="from_llm",
            )
        if (self.llm is None) == self._is_endpoint and self.from_llm:
            wrong = (
                "Name the LLM that the endpoint shall use" if self._is_endpoint else "The LLM is named twice"
            )
            raise LatentBankError(f"{wrong}.", argument="llm")

    @property
    def _is_endpoint(self) -> bool:
        return self.from_llm is not None and self.from_llm.startswith(("http://", "https://"))

    @property
    def name(self) -> str:
        """The LLM's name."""
        return self.llm or self.from_llm or ""

    def write(self, words: list[tuple[str, ...]], folder: Path, progress: Progress) -> list[str]:
        """Return the sentences that the LLM writes about what is near to `words`.

        Args:
            words: the nearest words of each token, as `Missing.words` has them.
            folder: where an endpoint's answers are kept.
            progress: counts answers.

        Raises:
            LatentBankError: the LLM cannot be used, or has written no sentence.
        """
        from latentbank.query.growing.writing import ask_endpoint, ask_model, questions, sentences_of

        asked = questions(words, self.questions)
        progress.stage("writing", "answers")
        if self._is_endpoint:
            from latentbank.query.judging.answers import open_answers

            endpoint = self._endpoint()
            with open_answers(folder, endpoint.base_url, endpoint.model) as answers:
                texts = ask_endpoint(asked, endpoint, answers, progress)
        else:
            from latentbank.models.language.writing import Writer

            texts = list(ask_model(asked, Writer(self.name), progress))
        found = sentences_of(texts)
        if not found:
            raise LatentBankError(
                f"{self.name} has written no sentence of three words or more; name another LLM.",
                argument="from_llm",
            )
        return found

    def _endpoint(self) -> Endpoint:
        from latentbank.query.judging.endpoint import Endpoint, key_from

        address = (self.from_llm or "").rstrip("/")
        return Endpoint(self.name, address, key_from(self.key_variable, address))
