"""Options that say how a bank of images is asked, and where ranked patches go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from latentbank.cli.options.common import numbers
from latentbank.errors import QueryError

if TYPE_CHECKING:
    from latentbank.bank.where import Filter
    from latentbank.query.images.results import RankedPatches
    from latentbank.query.images.search import How

VlmOption = Annotated[
    str | None,
    typer.Option(
        "--vlm", help="First hex digits of the VLM's fingerprint (`images list`), if there are several."
    ),
]
WhereImageOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="Filter, such as image=a.png, corpus=photos, word=dog|cat, row_max=2; all must hold.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class HowOptions:
    """How a bank of images is asked."""

    visual_layers: Annotated[
        str | None,
        typer.Option(
            "--visual-layers",
            help="Stored visual layers that are searched, their scores averaged, such as 8,16; by default the one "
            "nearest to the middle of the LLM.",
        ),
    ] = None
    limit: Annotated[
        int, typer.Option("--limit", "-k", min=1, help="Patches, or images with --by-image.")
    ] = 20
    where: WhereImageOption = None
    by_image: Annotated[
        bool, typer.Option("--by-image", help="Show the best patches of each image together.")
    ] = False
    per_image: Annotated[
        int, typer.Option("--per-image", min=1, help="Patches of an image, with --by-image.")
    ] = 3
    correct: Annotated[
        str,
        typer.Option(
            "--correct",
            help="both: by means, other words and what the best patches look like; mean: by means alone; none: plain "
            "cosine.",
        ),
    ] = "both"
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every visual token.")] = False

    def how(self, *, pictures: bool) -> How:
        """Return how it is asked; `pictures`: whether the images' small pictures are needed."""
        from latentbank.query.images.search import How

        return How(
            layers=numbers(self.visual_layers),
            limit=self.limit,
            where=image_condition(self.where),
            by_image=self.by_image,
            per_image=self.per_image,
            correct=cast("Any", self.correct),
            exact=self.exact,
            pictures=pictures,
        )


@dataclass(frozen=True, kw_only=True)
class PatchOutputs:
    """Where ranked patches go."""

    html: Annotated[
        Path | None, typer.Option(help="Write a page with the patches marked in their pictures to this file.")
    ] = None
    png: Annotated[Path | None, typer.Option(help="Write the same as a picture to this file.")] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON (docs/json.md describes it).")] = False

    @property
    def pictures(self) -> bool:
        """Whether the images' small pictures are needed."""
        return self.html is not None or self.png is not None

    def show(self, found: RankedPatches) -> None:
        """Print what was found, and write the files."""
        from latentbank.cli.output.patches import show_patches

        written = []
        if self.html is not None:
            from latentbank.query.images.gallery import save_gallery

            written.append(save_gallery(found, self.html.expanduser()))
        if self.png is not None:
            from latentbank.query.images.sheet import save_sheet

            written.append(save_sheet(found, self.png.expanduser()))
        show_patches(found, written, as_json=self.as_json)


def image_condition(where: list[str] | None) -> Filter | None:
    """Return the filter of visual tokens that --where describes; None: there is none."""
    from latentbank.bank.where import WhereImage, parse_where

    return parse_where(where or [], WhereImage)


def place_of_patch(text: str) -> tuple[int, int, int | None]:
    """Return row, column and tile of --patch; the tile is None where it is not named.

    Raises:
        QueryError: these are not two or three whole numbers.
    """
    parts = text.split(",")
    try:
        numbers_given = [int(part) for part in parts]
    except ValueError:
        numbers_given = []
    if len(numbers_given) not in (2, 3) or min(numbers_given) < 0:
        raise QueryError(
            f"'{text}' is no patch; write ROW,COLUMN from 0, or ROW,COLUMN,TILE.", argument="patch"
        )
    row, column, *tile = numbers_given
    return row, column, tile[0] if tile else None
