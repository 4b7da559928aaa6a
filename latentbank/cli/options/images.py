"""Options that name images, say how they are read, and where readings go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from latentbank.cli.options.common import ConfigOption, SplitOption, bank_layers_of
from latentbank.cli.options.hub import PushOptions
from latentbank.errors import QueryError

if TYPE_CHECKING:
    from latentbank.bank.layers import BankLayers
    from latentbank.bank.planning import Way
    from latentbank.bank.where import Filter
    from latentbank.models.vision.sources import Images
    from latentbank.query.output.files import OutputFiles
    from latentbank.query.reading.around import Around

PromptOption = Annotated[
    str | None, typer.Option(help="Text beside the image; by default the model's own prompt.")
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="latentlens: --visual-layers paper and --bank-layers all, where they are not given.",
    ),
]
ImageBatchOption = Annotated[int, typer.Option("--batch", min=1, help="Images in one forward pass.")]


FollowOption = Annotated[
    str | None,
    typer.Option(
        "--follow",
        metavar="ROW,COLUMN",
        help="Follow one visual token through --visual-layers, by default all of them: its words and its drift, as a "
        "table or as --png, --svg, --pdf or --html.",
        show_default=False,
    ),
]


FdrOption = Annotated[
    float | None,
    typer.Option(
        "--fdr",
        help="Give words only to tokens for which they say more than chance, so that at most this share of the words "
        "given is expected to be false, such as 0.05. Needs a calibration.",
        show_default=False,
    ),
]


MeansOption = Annotated[
    Path | None,
    typer.Option(
        help="For a centred bank: file of visual means; by default those kept with the VLM, else each image's own."
    ),
]


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """Images of files, folders or datasets."""

    images: Annotated[
        list[str],
        typer.Argument(help="Files, globs, folders, .parquet files or hub datasets.", show_default=False),
    ]
    column: Annotated[
        str | None,
        typer.Option(
            "--column", help="Column of a dataset that holds the images; by default it is detected."
        ),
    ] = None
    config: ConfigOption = None
    split: SplitOption = None
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Take at most this many images.")] = None

    def find(self) -> Images:
        """Return the images."""
        from latentbank.models.vision.sources import find_images

        return find_images(
            self.images, column=self.column, config=self.config, split=self.split, limit=self.limit
        )


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Which text around an image is read."""

    tokens: Annotated[
        str, typer.Option("--tokens", help="visual, or all to read the prompt's text tokens as well.")
    ] = "visual"
    answer: Annotated[
        int,
        typer.Option("--answer", min=0, help="Let the model write this many tokens, and read them as well."),
    ] = 0

    @property
    def kind(self) -> Literal["visual", "all"]:
        """`tokens`, once `around` has checked it."""
        return "all" if self.tokens == "all" else "visual"

    def around(self) -> Around:
        """Return what is read.

        Raises:
            QueryError: a value is not allowed.
        """
        from latentbank.query.reading.around import around_of

        return around_of(self.tokens, self.answer)


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How neighbors are searched."""

    bank_layers: Annotated[
        str | None,
        typer.Option(help="mid, all, paper, or numbers such as 8,12; by default mid.", show_default=False),
    ] = None
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Neighbors per token.")] = 5
    where: Annotated[
        list[str] | None, typer.Option(help="Filter, such as word=dog|cat or corpus!=news; all must hold.")
    ] = None
    unique: Annotated[str | None, typer.Option(help="One neighbor per context or per word.")] = None
    exact: Annotated[bool, typer.Option("--exact", help="The same as --search exact.")] = False
    search: Annotated[
        str | None,
        typer.Option(
            "--search",
            help="graph: through the index; exact: compare with every context in float32; auto: the faster of both "
            "that finds 99 of 100 neighbors. By default as the settings say: auto.",
            show_default=False,
        ),
    ] = None
    include_incomplete: Annotated[
        bool, typer.Option("--include-incomplete", help="Search incomplete corpora, too.")
    ] = False

    def layers(self, default: str = "mid") -> BankLayers:
        """Return the bank layers to search; `default` stands for those that are not given."""
        return bank_layers_of(self.bank_layers or default)

    def condition(self) -> Filter | None:
        """Return the filter; None: there is none."""
        from latentbank.bank.where import parse_where

        return parse_where(self.where or [])

    def way(self) -> Way | None:
        """Return which way is searched; None: as the settings say.

        Raises:
            QueryError: there is no such way, or --exact and another one are given.
        """
        from latentbank.bank.planning import way_of

        if self.search is None and not self.exact:
            return None
        return way_of(self.search, exact=self.exact)

    def once(self) -> Any:
        """Return what is shown once: "context", "word" or None.

        Raises:
            QueryError: another value is given.
        """
        if self.unique not in (None, "context", "word"):
            raise QueryError(f"Unknown value '{self.unique}' for --unique; use context or word.")
        return cast("Any", self.unique)


@dataclass(frozen=True, kw_only=True)
class ReadingOutputs(PushOptions):
    """Where the readings of images go; --push needs --parquet."""

    parquet: Annotated[
        Path | None,
        typer.Option(help="Write a Parquet file for each image here; images that have a file are skipped."),
    ] = None
    pictures: Annotated[
        Path | None, typer.Option(help="Write a PNG of each image here, the best word on each patch.")
    ] = None
    html: Annotated[
        Path | None, typer.Option(help="Write a web page: a file for one image, else a folder.")
    ] = None
    png: Annotated[
        Path | None, typer.Option(help="Write a figure for a paper: a file for one image, else a folder.")
    ] = None
    pdf: Annotated[Path | None, typer.Option(help="The same as --png, as PDF.")] = None
    svg: Annotated[Path | None, typer.Option(help="The same as --png, as SVG.")] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON (docs/json.md describes it).")] = False

    def files(self, images: int | None) -> OutputFiles:
        """Return the pages and figures to write for this many images (None: unknown).

        Raises:
            QueryError: a file is named for several images.
        """
        from latentbank.query.output.files import OutputFiles

        paths = {"html": self.html, "png": self.png, "pdf": self.pdf, "svg": self.svg}
        files = OutputFiles({kind: path.expanduser() for kind, path in paths.items() if path is not None})
        files.check(images)
        return files
