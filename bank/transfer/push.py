"""Pushing a bank to the hub: an export as a dataset repository, with a card made from the manifest."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from latentbank.bank.bank import Bank
from latentbank.bank.transfer.card import bank_card, licenses_of
from latentbank.bank.transfer.export import DESCRIPTION, SUMS, ExportReport, export_bank, read_sums
from latentbank.bank.transfer.receive import complete_corpora
from latentbank.errors import BankMismatch
from latentbank.files import make_folder
from latentbank.hub import Listing, Pushed, fetch_files, prepare_push, push_files
from latentbank.locks import alone_in
from latentbank.places import data_folder
from latentbank.progress import Progress, Silent


def push_bank(
    bank: Bank,
    repository: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    public: bool = False,
    licenses: Sequence[str] = (),
    data_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> tuple[ExportReport, Pushed]:
    """Export a bank's complete corpora and push them to a dataset repository on the hub, in one commit.

    Called again after an interruption, it continues: files that were exported stay, and what the hub has is not sent
    again. A repository that holds an earlier state of the bank gets a new commit, and keeps the earlier ones.

    Args:
        bank: the bank.
        repository: "USER/NAME"; it is created if it does not exist.
        folder: where the export is kept; None: beside the embedded banks until it is pushed.
        public: whether everybody may read a repository that is created. A public one is refused without it.
        licenses: "cc-by-4.0" for all corpora, or "CORPUS=cc-by-4.0" for one, as the hub names licences.
        data_dir: folder of embedded banks; None: that of the settings.
        progress: counts the contexts exported of those in all layers, then the MiB sent.

    Raises:
        CorpusError: no corpus is complete, or a licence is given for one that does not exist.
        BankMismatch: the repository or the folder holds another bank.
        LatentBankError: nobody is logged in, the login may not write there, or the hub cannot be reached.
    """
    progress = progress or Silent()
    bank.reload()
    entries = complete_corpora(bank.manifest)
    licensed = licenses_of(licenses, [entry.name for entry in entries])
    listing = prepare_push(repository, "dataset", public=public, holds=DESCRIPTION)
    _check_same_bank(listing, bank)
    own = data_folder(data_dir) / ".exports" / bank.name
    with nullcontext() if folder is not None else alone_in(own, f"pushes the bank '{bank.name}'"):
        if folder is not None:
            report = export_bank(bank, folder, progress)
        else:
            report = _fresh_export(bank, own / "files", progress)
        exported = Path(report.directory)
        names = [*(read_sums(exported) or ()), SUMS]
        manifest = replace(bank.manifest.without_path(), corpora={entry.name: entry for entry in entries})
        progress.stage("uploading", "MiB")
        pushed = push_files(
            listing,
            {name: exported / name for name in names},
            bank_card(manifest, listing.repository.id, report.bytes, licensed),
            progress,
            _stale(listing, names),
        )
        if folder is None:
            shutil.rmtree(exported, ignore_errors=True)
            report = replace(report, directory="")
    return report, pushed


def _fresh_export(bank: Bank, folder: Path, progress: Progress) -> ExportReport:
    """Export to a folder of our own, which an earlier push may have left with another state of the bank."""
    try:
        return export_bank(bank, folder, progress)
    except BankMismatch:
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)
        return export_bank(bank, folder, progress)


def _check_same_bank(listing: Listing, bank: Bank) -> None:
    """Check that a repository holds no bank of another LLM.

    Raises:
        BankMismatch: it does.
    """
    if DESCRIPTION not in listing.sizes:
        return
    text = (fetch_files(listing, [DESCRIPTION]) / DESCRIPTION).read_text("utf-8")
    try:
        known = json.loads(text)["manifest"]
        found = known["bank"], known["model"], known["fingerprint"]
    except (ValueError, LookupError, TypeError):
        found = "?", "?", ""
    if found[2] != bank.manifest.fingerprint:
        raise BankMismatch(
            f"{listing.repository.id} on the hub holds the bank '{found[0]}' of another model ({found[1]}); choose "
            "another repository.",
            argument="push",
        )


def _stale(listing: Listing, names: Collection[str]) -> list[str]:
    """Return files of an earlier export in a repository that the new one does not have."""
    folders = {name.partition("/")[0] for name in listing.sizes if name.endswith("/contexts-00000.parquet")}
    return [
        name
        for name in listing.sizes
        if name not in names
        and name.partition("/")[0] in folders
        and name.endswith((".parquet", ".safetensors"))
    ]
