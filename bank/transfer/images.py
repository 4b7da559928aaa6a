"""Moving a bank's images with it: the collections of each VLM, as those of a bank."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from latentbank.bank.bank import Bank
from latentbank.bank.images.opening import open_collections, stored_images
from latentbank.bank.settings import Settings
from latentbank.bank.store.names import images_name, split_images
from latentbank.bank.transfer.copy import copy_bank
from latentbank.bank.transfer.export import DESCRIPTION, ExportReport, export_bank
from latentbank.bank.transfer.exported import open_export
from latentbank.bank.transfer.load import import_bank
from latentbank.bank.transfer.receive import MoveReport
from latentbank.bank.transfer.snapshots import Way
from latentbank.bank.versions import split_name
from latentbank.progress import Progress, Silent

FOLDER = "images"
"""The folder of an export in which the exports of images are."""


def copy_images(
    name: str,
    source: Settings,
    target: Settings,
    progress: Progress | None = None,
    sample: int = 1000,
    by: Way | None = None,
) -> list[MoveReport]:
    """Copy what a bank holds of images to the bank of the same name in another place; see `copy_bank`.

    Args:
        name: the bank's name.
        source: where the images are.
        target: where the copy is.
        progress: counts visual tokens.
        sample: how many vectors of each layer are compared.
        by: as for `copy_bank`.

    Returns:
        A report for each VLM that has a complete corpus of images.
    """
    progress, reports = progress or Silent(), []
    for images in _complete(name, source):
        progress.stage("copying images", "visual tokens")
        reports.append(copy_bank(images, target, "all", None, progress, sample, by))
    return reports


def export_images(
    name: str, settings: Settings, folder: str | os.PathLike[str], progress: Progress | None = None
) -> list[ExportReport]:
    """Write what a bank holds of images below the folder of its export; see `export_bank`.

    Args:
        name: the bank's name.
        settings: where it is.
        folder: the export's folder; each VLM gets a folder of its own in `images`.
        progress: counts visual tokens.
    """
    progress, reports = progress or Silent(), []
    for images in _complete(name, settings):
        progress.stage("exporting images", "visual tokens")
        own = f"V{(split_images(images.name) or ('', ''))[1]}"
        reports.append(export_bank(images, Path(folder).expanduser() / FOLDER / own, progress))
    return reports


def import_images(
    folder: str | os.PathLike[str],
    settings: Settings,
    name: str,
    progress: Progress | None = None,
    sample: int = 1000,
) -> list[MoveReport]:
    """Import the images of an export in a folder into a bank; see `import_bank`.

    Args:
        folder: the export's folder; one on the hub holds no images.
        settings: where the bank is.
        name: the bank's name.
        progress: counts visual tokens.
        sample: how many vectors of each layer are verified.
    """
    progress, reports = progress or Silent(), []
    for description in sorted((Path(folder).expanduser() / FOLDER).glob(f"V*/{DESCRIPTION}")):
        progress.stage("importing images", "visual tokens")
        exported = open_export(description.parent).manifest
        stored = images_name(split_name(name)[0], exported.fingerprint)
        reports.append(import_bank(description.parent, settings, stored, progress, sample))
    return reports


def _complete(name: str, settings: Settings) -> Iterator[Bank]:
    """Yield the images of each VLM that has a complete corpus, open."""
    for stored in stored_images(split_name(name)[0], settings):
        with open_collections(stored, settings) as images:
            if any(entry.complete for entry in images.corpora.values()):
                yield images
