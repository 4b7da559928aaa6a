"""Calibrating: the numbers that correct a lens, computed for every context of a bank from a VLM's visual tokens."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentbank.bank.layers import BankLayers
from latentbank.bank.manifest import CorpusEntry
from latentbank.bank.points import Stored
from latentbank.bank.vectors import unit_mean
from latentbank.bank.where import Where
from latentbank.errors import BankMismatch, ImageError, LatentBankError, QueryError
from latentbank.locks import alone_in
from latentbank.models.vision.sources import Source, opened
from latentbank.models.vision.tokens import visual_fingerprint
from latentbank.progress import Progress, Silent
from latentbank.query.calibration.calibration import require_metric
from latentbank.query.calibration.folder import (
    Part,
    Pictures,
    bank_fingerprint,
    calibration_folder,
    read_array,
    read_references,
    write_about,
    write_array,
    write_references,
)
from latentbank.query.calibration.numbers import Comparison, Floats, Ids, pack_ids, spread_of
from latentbank.query.calibration.references import MOST, ReferenceTokens, measure_references, picture_digest
from latentbank.query.lenses.centring import Means
from latentbank.query.reading.visual import default_visual_layers
from latentbank.query.reading.visual_tokens import Broken
from latentbank.query.silence.null_tokens import keep_null_tokens
from latentbank.text import public_name
from latentbank.values import Layers, layers_of, whole

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.models.vision.tokens import VisualModel

BLOCK = 2048
"""Contexts that are compared with the reference tokens at once (by 4,096 tokens in float32: 32 MiB)."""
_SOME = 64  # pictures, spread over all, of which pictures with nothing to see are made


@dataclass(frozen=True)
class Calibrated:
    """What a calibration holds now.

    Attributes:
        folder: where it is.
        kind: what its pictures are, for people.
        pictures: their number.
        tokens: reference tokens at each visual layer.
        nearest: over how many of the nearest means were taken.
        visual_layers: those that were asked for.
        bank_layers: those that were asked for.
        contexts: of each bank layer.
        computed: contexts, of all bank layers together, whose numbers were computed now.
        means: the mean of all visual tokens of the pictures at each of the visual layers.
    """

    folder: Path
    kind: str
    pictures: int
    tokens: int
    nearest: int
    visual_layers: list[int]
    bank_layers: list[int]
    contexts: int
    computed: int
    means: Means


def calibrate(
    bank: Bank,
    model: VisualModel,
    images: Iterable[Source],
    layers: Layers | None = None,
    *,
    bank_layers: BankLayers = "all",
    what: str = "images",
    prompt: str | None = None,
    batch: int = 8,
    broken: Broken | None = None,
    progress: Progress | None = None,
) -> Calibrated:
    """Compute what corrects LatentLens for a VLM's visual tokens and a bank, and keep it beside the banks.

    Called again, it computes what is missing: after a kill, for a corpus that was added, for further layers. Other
    pictures replace those of before once all is computed.

    Args:
        bank: an open bank of the VLM's own language model; in a centred one, only hubs can be corrected.
        model: the VLM.
        images: pictures like those that will be read, but others; some 80 of them.
        layers: the visual layers; None: those that are read by default.
        bank_layers: the bank layers.
        what: what the pictures are, for people.
        prompt: the text beside the picture; None: the model's own.
        batch: pictures in one forward pass.
        broken: as for `read_images`.
        progress: receives the pictures, then the contexts that are done.

    Raises:
        QueryError: the bank is a centred one of an earlier version, or holds no complete corpus; or there are no
            pictures or layers.
        BankMismatch: the bank belongs to another model, or was changed meanwhile.
        ImageError: a picture cannot be read, and `broken` is None; or none can be read.
        LatentBankError: the files cannot be written, or another job calibrates the same.
    """
    progress, batch = progress or Silent(), whole(batch, "batch", 1)
    chosen = layers_of(default_visual_layers(model.num_layers) if layers is None else layers)
    bank.require_model(model.name, model.language.identity())
    require_metric(bank)
    searched = bank.choose_layers(bank_layers)
    entries = [entry for entry in bank.corpora.values() if entry.complete]
    if not entries:
        raise QueryError(f"The bank '{bank.name}' holds no complete corpus; ingest one first.")
    # They are looked at more than once; those of a dataset are streamed each time.
    pictures = list(images) if isinstance(images, Iterator) else images
    folder = calibration_folder(bank.settings.data_dir, visual_fingerprint(model), bank.manifest)
    with alone_in(folder, f"calibrates {public_name(model.name)} for the bank '{bank.name}'"):
        progress.stage("looking", "images")
        named = set[str]()
        digests = _digests(pictures, broken, named)
        told = repr((sorted(digests), prompt, MOST))
        files = Pictures(folder / hashlib.blake2b(told.encode(), digest_size=8).hexdigest())
        seen = _Seen(model, pictures, len(digests), prompt, batch, progress, _unnamed(broken, named))
        kind = f"visual tokens of {len(digests):,} {what}"
        means = _look(files, seen, chosen, kind)
        some = list(itertools.islice(pictures, 0, None, max(1, len(digests) // _SOME)))
        keep_null_tokens(files.folder, model, some, chosen, prompt=prompt, batch=batch, progress=progress)
        computed = _Numbers(bank, files, entries, chosen, progress).compute(searched)
        write_about(folder, _about(bank, model, files, kind, digests))
        _remove_others(folder, files.folder)
    tokens = read_references(files.reference_file(chosen[0]))[0]
    return Calibrated(
        folder=folder,
        kind=kind,
        pictures=len(digests),
        tokens=len(tokens.states),
        nearest=tokens.nearest,
        visual_layers=sorted(chosen),
        bank_layers=searched,
        contexts=sum(entry.contexts for entry in entries),
        computed=computed,
        means=means,
    )


def _about(
    bank: Bank, model: VisualModel, files: Pictures, kind: str, digests: Sequence[str]
) -> dict[str, Any]:
    """Return what the calibration's description holds."""
    return {
        "use": files.folder.name,
        "kind": kind,
        "pictures": list(digests),
        "model": public_name(model.name),
        "visual": visual_fingerprint(model),
        "bank": bank.name,
        "bank_fingerprint": bank_fingerprint(bank.manifest),
    }


def _digests(images: Iterable[Source], broken: Broken | None, named: set[str]) -> list[str]:
    """Return the digest of each picture that can be read, and add the names of the others to `named`.

    Raises:
        ImageError: one cannot be read, and `broken` is None; or none can be read.
    """

    def unreadable(name: str, error: LatentBankError) -> None:
        if broken is None:
            raise error
        named.add(name)
        broken(name, error)

    digests = [picture_digest(image) for _, image in opened(images, unreadable)]
    if not digests:
        raise ImageError("None of the pictures can be read; calibrate on pictures like those that are read.")
    return digests


def _unnamed(broken: Broken | None, named: set[str]) -> Broken | None:
    """Return `broken` for pictures that the model refuses; those that cannot be read were named already."""
    if broken is None:
        return None
    return lambda name, error: None if name in named else broken(name, error)


@dataclass(frozen=True)
class _Seen:
    """The pictures, and how a VLM looks at them; see `calibrate`."""

    model: VisualModel
    images: Iterable[Source]
    total: int
    prompt: str | None
    batch: int
    progress: Progress
    broken: Broken | None

    def counted(self) -> Iterator[Source]:
        """Yield the pictures while progress is reported."""
        for number, image in enumerate(self.images):
            self.progress.update(number, self.total)
            yield image


def _look(files: Pictures, seen: _Seen, layers: Sequence[int], kind: str) -> Means:
    """Keep the reference tokens of the layers that have none, and return the means of all layers asked for."""
    missing = [layer for layer in layers if not _is_readable(files.reference_file(layer))]
    if missing:
        found = measure_references(
            seen.model,
            seen.counted(),
            missing,
            prompt=seen.prompt,
            batch=seen.batch,
            broken=seen.broken,
        )
        for layer, tokens in found.by_layer.items():
            write_references(
                files.reference_file(layer),
                tokens,
                found.means.at(layer),
                found.means.at(layer, units=True),
                found.means.count,
            )
    kept = {layer: read_references(files.reference_file(layer)) for layer in layers}
    identity = seen.model.language.identity()
    return Means(
        kind=kind,
        fingerprint=identity.fingerprint,
        count=next(iter(kept.values()))[3],
        by_layer={layer: mean for layer, (_, mean, _, _) in kept.items()},
        digests=identity.digests,
        units_by_layer={layer: mean for layer, (_, _, mean, _) in kept.items()},
    )


def _is_readable(file: Path) -> bool:
    """Return whether a file holds reference tokens; what is damaged is measured again."""
    if not file.is_file():
        return False
    try:
        read_references(file)
    except LatentBankError:
        return False
    return True


class _Numbers:
    """The numbers of a bank's contexts for some visual layers, computed part by part."""

    def __init__(
        self,
        bank: Bank,
        files: Pictures,
        entries: Sequence[CorpusEntry],
        visual_layers: Sequence[int],
        progress: Progress,
    ) -> None:
        self._bank, self._files, self._entries = bank, files, entries
        self._visual_layers, self._progress = visual_layers, progress
        self._seed = bank.manifest.rotation_seed

    def compute(self, bank_layers: Sequence[int]) -> int:
        """Compute and write what is missing, and return how many contexts of all layers that was."""
        self._progress.stage("comparing", "contexts")
        done, computed = 0, 0
        total = len(bank_layers) * sum(entry.contexts for entry in self._entries)
        for bank_layer in bank_layers:
            mean: Floats | None = None
            comparisons: dict[int, Comparison] = {}
            for entry in self._entries:
                previous: Part | None = None
                for part in self._files.parts(entry, bank_layer):
                    missing = part.missing(self._visual_layers)
                    if missing:
                        mean = self._text_mean(bank_layer) if mean is None else mean
                        for layer in missing:
                            if layer not in comparisons:
                                comparisons[layer] = Comparison(self._tokens(layer), mean, self._seed)
                        chosen = {layer: comparisons[layer] for layer in missing}
                        self._compute_part(part, previous, entry, bank_layer, mean, chosen, done, total)
                        computed += part.count
                    done += part.count
                    self._progress.update(done, total)
                    previous = part
        return computed

    def _compute_part(
        self,
        part: Part,
        previous: Part | None,
        entry: CorpusEntry,
        bank_layer: int,
        mean: Floats,
        comparisons: dict[int, Comparison],
        done: int,
        total: int,
    ) -> None:
        """Compute and write the numbers of the contexts that follow those of the `previous` part."""
        import torch

        ids: list[str] = []
        spread = np.empty(part.count, np.float32)
        numbers = {layer: np.empty((part.count, 3), np.float32) for layer in comparisons}
        points = itertools.islice(self._points(entry, bank_layer, previous), part.count)
        while block := list(itertools.islice(points, BLOCK)):
            vectors = np.stack([point.vector for point in block if point.vector is not None])
            place = slice(len(ids), len(ids) + len(block))
            ids += [point.id for point in block]
            spread[place] = spread_of(vectors, mean)
            given = torch.from_numpy(vectors), torch.from_numpy(spread[place])
            for layer, comparison in comparisons.items():
                numbers[layer][place] = comparison.numbers(*given)
            self._progress.update(done + len(ids), total)
        if len(ids) != part.count:
            raise BankMismatch(
                f"Layer {bank_layer} of the bank '{self._bank.name}' holds fewer contexts of '{entry.name}' than the "
                "ledger says: it was changed meanwhile, or is damaged; verify the bank, then calibrate again."
            )
        packed = pack_ids(ids)
        order = np.lexsort((packed[1], packed[0]))
        for layer, rows in numbers.items():
            write_array(part.numbers_file(layer), rows[order])
        write_array(part.spread_file, spread[order])
        write_array(part.ids_file, packed[:, order])

    def _points(self, entry: CorpusEntry, bank_layer: int, previous: Part | None) -> Iterator[Stored]:
        """Iterate over a corpus's contexts with vectors, from the one after the last of the `previous` part on."""
        where, store = Where(corpus=entry.stored), self._bank.store
        if previous is None:
            return store.scroll(bank_layer, where, vectors=True)
        last = _last_id(read_array(previous.ids_file, [2, previous.count], "uint64"))
        return itertools.islice(store.scroll(bank_layer, where, vectors=True, start=last), 1, None)

    def _tokens(self, layer: int) -> ReferenceTokens:
        return read_references(self._files.reference_file(layer))[0]

    def _text_mean(self, bank_layer: int) -> Floats:
        """Return the mean of a bank layer's unit vectors, rotated; it is computed once and then stays.

        Contexts of a centred bank lack theirs already: it is zero.
        """
        file = self._files.mean_file(bank_layer)
        if not file.is_file():
            centred = self._bank.metric == "centred"
            zero = np.zeros(self._bank.hidden_size, np.float32)
            write_array(file, zero if centred else unit_mean(self._bank, bank_layer))
        mean: Floats = np.array(read_array(file, [self._bank.hidden_size], "float32"))
        return mean


def _last_id(ids: Ids) -> str:
    high, low = ids[:, -1].tolist()
    return str(uuid.UUID(int=(high << 64) | low))


def _remove_others(folder: Path, used: Path) -> None:
    """Remove the files of other pictures; what another process still reads may stay."""
    for path in folder.iterdir():
        if path.is_dir() and path != used:
            with suppress(OSError):
                shutil.rmtree(path)
