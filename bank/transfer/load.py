"""Import of an exported bank (bank/transfer/export.py), file by file, each checked against its sum."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Unpack

from latentbank.bank.bank import Bank
from latentbank.bank.layers import BankLayers, choose
from latentbank.bank.manifest import CorpusEntry
from latentbank.bank.rotation import rotated_units
from latentbank.bank.settings import Settings, SettingsGiven, settings_from
from latentbank.bank.store.base import Points
from latentbank.bank.transfer.export import check_folder, parts_of
from latentbank.bank.transfer.exported import Export, open_export
from latentbank.bank.transfer.receive import (
    BATCH,
    MoveReport,
    Receiver,
    complete_corpora,
    receiving_bank,
    verify_corpora,
)
from latentbank.progress import Progress, Silent
from latentbank.values import whole


def import_bank(
    folder: str | os.PathLike[str],
    settings: Settings | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    sample: int = 1000,
    layers: BankLayers = "all",
    **given: Unpack[SettingsGiven],
) -> MoveReport:
    """Import an export into a bank, which is created if it does not exist, and verify the bank.

    After a kill, call it again: it continues where it stopped. Corpora that the bank has already stay. One file of
    payloads and one of vectors are in memory at a time.

    Args:
        folder: the export's folder, or its dataset repository on the hub: "USER/NAME" or "USER/NAME@REVISION". Of a
            repository, only what is imported is downloaded, to the hub's own cache.
        settings: where the bank is; None: read from `given` and the environment.
        name: the bank's name; None: as when it was exported.
        progress: counts the MiB downloaded, the contexts stored of those in all layers, layers indexed, and contexts
            compared.
        sample: how many vectors of each layer are verified.
        layers: which of the export's layers the bank has.
        given: single settings (`url=…`, `data_dir=…`), instead of `settings`.

    Raises:
        CorpusError: the export is unfinished, a file is damaged, or the bank has another corpus of that name.
        BankMismatch: the bank exists with another LLM or other layers.
        LayerNotFound: the export does not have a layer.
        LatentBankError: the hub cannot be reached, or has no such repository or revision.

    Examples:
        >>> import latentbank as lb
        >>> with lb.open_bank("captions") as bank:
        ...     report = lb.export_bank(bank, "exported")
        >>> report = lb.import_bank("exported", name="copied")
    """
    settings = settings_from(settings, **given)
    progress, sample = progress or Silent(), whole(sample, "sample", 0)
    export = open_export(folder)
    manifest = export.manifest
    chosen = tuple(choose(manifest, layers))
    means = {layer: mean for layer, mean in manifest.means.items() if layer in chosen}
    imported = replace(manifest, bank=name or manifest.bank, layers=chosen, means=means)
    entries = complete_corpora(manifest)
    for entry in entries:
        check_folder(entry.name)
    with receiving_bank(imported, settings) as target:
        receiver = Receiver(target, entries, progress)
        export.fetch(receiver.todo, target.layers, progress)
        for entry in receiver.todo:
            begun = any(receiver.stored_contexts(layer, entry.stored) for layer in target.layers)
            for number, count in parts_of(entry, export.part):
                _import_part(target, export, entry, number, count, receiver, check=begun)
        receiver.finish()
        wrong = verify_corpora(target, target.layers, entries, sample, progress)
    return MoveReport(
        bank=target.name,
        layers=target.layers,
        corpora=[entry.name for entry in entries],
        contexts=sum(entry.contexts for entry in entries),
        written=receiver.written,
        left_out=[],
        wrong=wrong,
    )


def _import_part(
    target: Bank,
    export: Export,
    entry: CorpusEntry,
    number: int,
    count: int,
    receiver: Receiver,
    *,
    check: bool,
) -> None:
    ids, payloads = export.contexts(entry, number, count, target.layers[0])
    for layer in target.layers:
        if export.images:
            ids, payloads = export.contexts(entry, number, count, layer)
        if check and target.store.present(layer, ids) == set(ids):
            receiver.skip(count)
            continue
        rows = export.vectors(entry, layer, number, ids)
        for at in range(0, count, BATCH):
            part = slice(at, at + BATCH)
            stored = rotated_units(rows[part], target.manifest.rotation_seed)
            receiver.put(layer, Points(ids[part], stored, payloads[part]))
