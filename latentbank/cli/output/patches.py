"""Ranked patches, and the words of a collection, as tables or JSON (docs/json.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from latentbank.cli.output.text import console, print_json

if TYPE_CHECKING:
    from latentbank.query.images.naming import Naming
    from latentbank.query.images.results import RankedPatches


def show_patches(found: RankedPatches, written: Sequence[Path] = (), *, as_json: bool = False) -> None:
    """Print ranked patches, best first, and the files that were written."""
    if as_json:
        print_json(found.to_dict())
        return
    from latentbank.query.images.gallery import about, place_of

    corrected = any(patch.corrected is not None for patch in found.patches)
    worded = any(patch.word for patch in found.patches)
    table = Table(
        "rank",
        "image",
        "patch",
        *(["score"] if corrected else []),
        "cosine",
        *(["word"] if worded else []),
        title=Text(found.question),
        title_justify="left",
        caption=Text(about(found)),
        caption_justify="left",
    )
    groups = found.images() if found.by_image else [(patch,) for patch in found.patches]
    for rank, group in enumerate(groups, 1):
        for number, patch in enumerate(group):
            first = number == 0
            table.add_row(
                str(rank) if first else "",
                Text(patch.image if first else ""),
                place_of(patch),
                *([f"{patch.score:.3f}"] if corrected else []),
                f"{patch.cosine:.3f}",
                *([Text(patch.word)] if worded else []),
                end_section=found.by_image and patch is group[-1],
            )
    if found.patches:
        console().print(table)
    else:
        print(f"No patch was found for {found.question}.")
    for path in written:
        print(f"written: {path}")


def show_words(
    done: Sequence[Naming], counts: Mapping[int, Mapping[str, int]], bank: str, *, as_json: bool = False
) -> None:
    """Print the words of a collection by visual layer, with the number of patches that show each."""
    if as_json:
        print_json(
            {
                "bank": bank,
                "layers": [
                    {
                        "visual_layer": one.layer,
                        "images": one.images,
                        "read": one.read,
                        "kept": one.kept,
                        "silent": one.silent,
                        "words": [
                            {"word": word, "patches": count} for word, count in counts[one.layer].items()
                        ],
                    }
                    for one in done
                ],
            }
        )
        return
    for one in done:
        table = Table(
            "word",
            "patches",
            title=Text(f"Words of the images of '{bank}', visual layer {one.layer}"),
            title_justify="left",
            caption=f"{one.read:,} patches read now ({one.silent:,} of them show no word), {one.kept:,} before",
            caption_justify="left",
        )
        for word, count in counts[one.layer].items():
            table.add_row(Text(word), f"{count:,}")
        console().print(table)
