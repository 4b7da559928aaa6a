"""Words of a collection: a second pass that reads stored visual tokens through a bank's lens and keeps their words."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from latentbank.bank.images.points import patch_ids
from latentbank.bank.rotation import unrotate
from latentbank.bank.store.captions import Ids
from latentbank.bank.where import WhereImage
from latentbank.progress import Progress, Silent
from latentbank.query.calibration.calibration import calibration_of
from latentbank.query.calibration.correction import Correction, Mode
from latentbank.query.images.space import require_same_space
from latentbank.query.lenses.base import Queries
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.silence.significance import significant
from latentbank.query.silence.silence import Silence
from latentbank.values import whole

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.bank.images.bank import ImageBank
    from latentbank.bank.images.points import StoredImage
    from latentbank.bank.layers import BankLayers
    from latentbank.bank.points import Stored
    from latentbank.bank.where import Filter

Floats = npt.NDArray[np.float32]
_SECONDS = 10.0  # between two commits
NO_WORD = ""
"""What is stored for a visual token that was read and shows no word."""


@dataclass(frozen=True)
class Naming:
    """What a pass over a collection did.

    Attributes:
        layer: the visual layer.
        images: images of which tokens were read now.
        read: visual tokens that were read now.
        kept: visual tokens that had words before.
        silent: of those that were read now, how many show no word.
    """

    layer: int
    images: int
    read: int
    kept: int
    silent: int


def lens_for(
    images: ImageBank,
    bank: Bank,
    bank_layers: BankLayers = "mid",
    correct: Mode | None = None,
    fdr: float | None = None,
) -> tuple[LatentLens, Silence | None]:
    """Return the lens that gives stored tokens their words, and which of them fall silent (None: none).

    Args:
        images: the bank of images.
        bank: the bank of the same LLM.
        bank_layers: as for `Bank.search`.
        correct: how scores are corrected, by the VLM's calibration for this bank.
        fdr: as for `Silence`; it needs the calibration, too.

    Raises:
        QueryError: the VLM is not calibrated for the bank, or `fdr` is no number between 0 and 1.
    """
    calibration = None
    if correct is not None or fdr is not None:
        calibration = calibration_of(bank, images.fingerprint, images.model)
    correction = None if correct is None or calibration is None else Correction(calibration, correct)
    silence = None if fdr is None or calibration is None else Silence(calibration, fdr)
    return LatentLens(bank, bank_layers, correction=correction), silence


def name_patches(
    images: ImageBank,
    lens: LatentLens,
    layer: int,
    *,
    silence: Silence | None = None,
    where: Filter | None = None,
    again: bool = False,
    batch: int = 32,
    progress: Progress | None = None,
) -> Naming:
    """Read stored visual tokens of a layer through a lens, and store the word of each one's best neighbor with it.

    A killed pass, run again, continues: tokens that have a word are not read again. What was read is made durable every
    few seconds. Words are in lower case.

    Args:
        images: the bank of images; it is written to.
        lens: LatentLens over the bank of the same LLM, corrected or not.
        layer: the visual layer.
        silence: tokens that say no more than chance get no word (`NO_WORD`); None: all tokens get one.
        where: only images that this filter of `WhereImage` selects, by corpus, name or digest.
        again: read all tokens anew, such as with another lens.
        batch: images whose tokens are read at once.
        progress: receives the number of images done.

    Raises:
        BankMismatch: the lens's bank has another rotation or width.
        LayerNotFound: the visual layer is not stored.
        QueryError: with a correction or silence, the layer is not calibrated.
    """
    require_same_space(images, lens.bank)
    chosen, progress = images.choose_layer(layer), progress or Silent()
    first: Filter = WhereImage(token=0)
    total = images.count(where=first if where is None else where & first)
    done = changed = read = kept = silent = 0
    committed = time.monotonic()
    for some in _batches(images.images(where), whole(batch, "batch", 1)):
        found = _tokens(images, chosen, some, again=again)
        kept += sum(one.tokens for one in some) - sum(len(own) for own in found.values())
        words = _words(images, lens, chosen, found, silence)
        if words:
            images.set_words(chosen, words, [point for own in found.values() for point in own])
        if time.monotonic() - committed > _SECONDS:
            images.commit()
            committed = time.monotonic()
        read += len(words)
        silent += sum(word == NO_WORD for word in words.values())
        changed += sum(bool(own) for own in found.values())
        done += len(some)
        progress.update(done, total)
    images.commit()
    if read and images.store.info(chosen).waiting:  # what has a word now was written anew
        progress.stage("indexing", "layers")
        images.store.index(chosen)
    return Naming(chosen, changed, read, kept, silent)


def _batches(images: Iterator[StoredImage], size: int) -> Iterator[list[StoredImage]]:
    while some := list(itertools.islice(images, size)):
        yield some


def _tokens(
    images: ImageBank, layer: int, some: Sequence[StoredImage], *, again: bool
) -> dict[str, list[Stored]]:
    """Return the stored tokens without a word, with vectors and payloads, by image."""
    owners = {
        id_: f"{one.corpus}/{one.digest}"
        for one in some
        for id_ in patch_ids(one.corpus, one.digest, one.tokens)
    }
    found: dict[str, list[Stored]] = {}
    for point in images.store.scroll(layer, Ids(frozenset(owners)), vectors=True, payloads=True):
        payload = cast("Mapping[str, Any]", point.payload or {})
        if point.vector is not None and (again or "word" not in payload):
            found.setdefault(owners[point.id], []).append(point)
    return found


def _words(
    images: ImageBank,
    lens: LatentLens,
    layer: int,
    found: Mapping[str, Sequence[Stored]],
    silence: Silence | None,
) -> dict[str, str]:
    """Return the word of each token by its id."""
    ids = [point.id for own in found.values() for point in own]
    if not ids:
        return {}
    rows = np.stack([cast("Floats", point.vector) for own in found.values() for point in own])
    queries = Queries(unrotate(rows, images.manifest.rotation_seed), layer, "visual")
    neighbors = lens.read(queries, 1)
    words = [own[0].word.strip().casefold() if own else NO_WORD for own in neighbors]
    if silence is not None:
        values = [1.0 if value is None else value for value in silence.p_values(lens, queries, neighbors)]
        start = 0
        for own in found.values():  # the procedure is for the tokens of one image
            stop = start + len(own)
            heard = significant(values[start:stop], silence.fdr)
            words[start:stop] = [
                word if loud else NO_WORD
                for word, loud in zip(words[start:stop], heard.tolist(), strict=True)
            ]
            start = stop
    return dict(zip(ids, words, strict=True))
