"""`latentbank query image --follow`: one visual token through the layers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from latentbank.errors import QueryError
from latentbank.layers import ALL

if TYPE_CHECKING:
    from latentbank.cli.options.images import ReadingOutputs
    from latentbank.cli.visual_setup import Choices, Setup
    from latentbank.models.vision.sources import Images


def for_following(choices: Choices, images: Images, outputs: ReadingOutputs) -> Choices:
    """Return what was asked for, with all layers and one neighbor per word where nothing else was.

    Raises:
        QueryError: it does not go together with following one token of one image.
    """
    if images.total != 1:
        raise QueryError("A token of one image is followed; name one image.")
    if choices.around:
        raise QueryError("A visual token is followed; leave text out.", argument="tokens")
    if choices.fdr is not None:
        raise QueryError(
            "Which tokens are silent is decided for all tokens of an image together; leave this out.",
            argument="fdr",
        )
    for name in ("parquet", "pictures"):
        if getattr(outputs, name) is not None:
            raise QueryError("It holds whole readings, not one token's.", argument=name)
    choices = choices.by_recipe()
    search = choices.search
    return replace(
        choices,
        visual_layers=choices.visual_layers or ALL,
        search=replace(search, bank_layers=search.bank_layers or ALL, unique=search.unique or "word"),
    )


def follow_one(ready: Setup, place: str, top_k: int, prompt: str | None, outputs: ReadingOutputs) -> None:
    """Follow a token of the only image, write the files that are named, and print a table or JSON."""
    from latentbank.cli.output.following import show_followed
    from latentbank.query.following.figure import save_followed
    from latentbank.query.following.tokens import follow_visual

    (image,) = ready.job.images
    followed = follow_visual(
        ready.vlm,
        image,
        place,
        ready.lenses,
        ready.layers,
        top_k=top_k,
        prompt=prompt,
        query_mean=ready.query_mean,
    )
    if ready.job.files is not None:
        for path in ready.job.files.paths_of(image).values():
            save_followed(followed, path)
    show_followed(followed, as_json=outputs.as_json)
