"""Pushing a folder of readings to the hub, as a dataset repository with a card."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from latentbank.errors import LatentBankError
from latentbank.files import write_whole
from latentbank.hub import Listing, Pushed, fetch_files, prepare_push, push_files
from latentbank.hub_cards import PAPER, Card, table
from latentbank.progress import Progress, Silent
from latentbank.query.output.parquet import SETTINGS
from latentbank.text import is_path, listed, public_name


def prepare_readings(repository: str, *, public: bool = False) -> Listing:
    """Make a dataset repository for readings, private unless `public`, or return what an existing one holds.

    Args:
        repository: "USER/NAME".
        public: whether everybody may read it.

    Raises:
        LatentBankError: nobody is logged in, the login may not write there, or it holds something else.
    """
    return prepare_push(repository, "dataset", public=public, holds=SETTINGS)


def check_settings(listing: Listing, folder: Path) -> None:
    """Check that a repository holds no readings made with other settings than those of a folder.

    Raises:
        LatentBankError: it does.
    """
    if SETTINGS not in listing.sizes:
        return
    there = json.loads((fetch_files(listing, [SETTINGS]) / SETTINGS).read_text("utf-8"))
    own = _settings(folder)
    if there != own:
        key = next(key for key in sorted({*there, *own}) if there.get(key) != own.get(key))
        raise LatentBankError(
            f"{listing.repository.id} holds readings made with another {key} ({there.get(key)}, not {own.get(key)}); "
            "choose another repository.",
            argument="push",
        )


def push_readings(
    folder: str | os.PathLike[str], listing: Listing, progress: Progress | None = None
) -> Pushed:
    """Push the readings of a folder; those that the repository has already stay.

    Of an image's absolute path, only the last part is pushed.

    Args:
        folder: the folder of Parquet files.
        listing: what `prepare_readings` has returned.
        progress: counts the MiB sent.

    Raises:
        LatentBankError: the folder has no readings, the repository has others, or the hub cannot be reached.
    """
    folder = Path(folder).expanduser()
    check_settings(listing, folder)
    found = sorted(folder.glob("[!_.]*.parquet"))
    if not found:
        raise LatentBankError(f"{folder} has no readings to push; read images into it first.")
    with TemporaryDirectory() as kept:
        files = {path.name: _without_path(path, Path(kept)) for path in found}
        images = len({*files, *(name for name in listing.sizes if name.endswith(".parquet"))})
        settings = _settings(folder)
        card = _card(listing.repository.id, settings, images)
        files[SETTINGS] = write_whole(Path(kept) / SETTINGS, json.dumps(settings, indent=1).encode())
        return push_files(listing, files, card, progress or Silent())


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text("utf-8"))
    except (OSError, ValueError):
        raise LatentBankError(f"{folder} holds no readings: {SETTINGS} cannot be read.") from None
    if isinstance(model := settings.get("model"), str):
        settings["model"] = public_name(model)  # earlier versions recorded a path
    return settings


def _without_path(path: Path, folder: Path) -> Path:
    """Return a reading's file, or a copy in `folder` if its image was named by an absolute path."""
    table_ = pq.read_table(path)
    head = json.loads((table_.schema.metadata or {}).get(b"reading", b"{}"))
    if not is_path(str(head.get("source", ""))):
        return path
    name = public_name(head["source"])
    column = table_.schema.get_field_index("source")
    table_ = table_.set_column(column, "source", pa.array([name] * len(table_), pa.string()))
    metadata = {**(table_.schema.metadata or {}), b"reading": json.dumps({**head, "source": name})}
    pq.write_table(table_.replace_schema_metadata(metadata), folder / path.name, compression="zstd")
    return folder / path.name


def _card(repository: str, settings: Mapping[str, Any], images: int) -> Card:
    facts = {
        "model": settings.get("model", "?"),
        "lenses": listed(settings.get("lenses", [])),
        "visual layers": listed(settings.get("visual_layers", [])),
        **(
            {"bank": f"{settings['bank']}, layers {listed(settings['bank_layers'])}"}
            if "bank" in settings
            else {}
        ),
        "neighbors of a token": settings.get("top_k", "?"),
        "images": f"{images:,}",
    }
    text = [
        "What each visual token of some images is nearest to, by layer and lens: a row for each neighbor.",
        table(facts),
        "`row`, `column` and `left` to `bottom` (pixels) say where a token looks. `rank` 0 is the nearest neighbor, "
        "`caption[start:end]` is the token in its sentence. The images are not included.",
        "## Read it",
        "```python\n"
        "from datasets import load_dataset\n\n"
        f'rows = load_dataset("{repository}", split="train").to_pandas()\n'
        'rows[(rows["rank"] == 0) & (rows["layer"] == 8)][["source", "row", "column", "word", "cosine"]]\n'
        "```",
        "`_settings.json` has everything that the readings depend on.",
        "## Paper",
        PAPER,
    ]
    metadata = {
        "pretty_name": f"Readings of {facts['model']}",
        "tags": ["latentbank", "latentlens", "interpretability", "readings"],
        "configs": [{"config_name": "default", "data_files": "*.parquet"}],
    }
    return Card(f"Readings of {facts['model']}", metadata, "\n\n".join(text))
