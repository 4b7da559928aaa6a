"""Options that correct lenses, and the pictures that a calibration is computed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from latentbank.cli.options.common import ConfigOption, SplitOption
from latentbank.errors import LatentBankError, ModelError, QueryError

if TYPE_CHECKING:
    from PIL import Image

    from latentbank.models.vision.sources import Images
    from latentbank.query.calibration.correction import Mode

SCENES = 80
"""Scenes that a calibration is computed from where no pictures are given."""

CorrectOption = Annotated[
    str,
    typer.Option(
        "--correct",
        help="Correct scores for hubs, for the mean of visual tokens, or for both, as `calibrate` measured them; none: "
        "rank by cosine.",
    ),
]


def mode_of(text: str) -> Mode | None:
    """Return the correction that --correct names; None: none.

    Raises:
        QueryError: there is no such correction.
    """
    if text == "none":
        return None
    from latentbank.query.calibration.correction import checked_mode

    return checked_mode(text)


@dataclass(frozen=True, kw_only=True)
class CalibrationImages:
    """The pictures that a VLM is calibrated on."""

    images: Annotated[
        list[str] | None,
        typer.Option(
            "--images",
            help="Files, globs, folders, .parquet files or hub datasets of pictures like those that will be read, but "
            "others; by default scenes of the demo.",
        ),
    ] = None
    column: Annotated[
        str | None,
        typer.Option("--column", help="Column of a dataset with the images; by default it is detected."),
    ] = None
    config: ConfigOption = None
    split: SplitOption = None
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, help=f"Take at most this many pictures; of scenes, {SCENES} by default."
        ),
    ] = None

    def find(self) -> tuple[Images | list[Image.Image], str]:
        """Return the pictures, and what they are.

        Raises:
            QueryError: options of datasets are given without pictures.
            ImageError: a picture is missing.
            LatentBankError: no pictures are given, and the demo's are not installed.
        """
        from latentbank.models.vision.sources import find_images

        if self.images:
            return find_images(
                self.images, column=self.column, config=self.config, split=self.split, limit=self.limit
            ), "images"
        if self.column or self.config or self.split:
            raise QueryError(
                "Name the dataset that the column, the configuration or the split is of.", argument="images"
            )
        return _scenes(self.limit or SCENES), "scenes"


def _scenes(count: int) -> list[Image.Image]:
    from latentbank.demo.scenes import VALIDATION, load_things, make_scene

    if count > len(VALIDATION):
        raise QueryError(f"There are {len(VALIDATION):,} such scenes, not {count:,}.", argument="limit")
    try:
        things = load_things()
    except ModelError as error:
        raise LatentBankError(
            f"{str(error).rstrip('.')}, or name pictures of your own.", argument="images"
        ) from None
    return [make_scene(things, seed).image for seed in VALIDATION[:count]]
