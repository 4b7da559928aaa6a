"""Silence: a lens gives words only to the visual tokens for which it says more than chance."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from latentbank.errors import LatentBankError, QueryError
from latentbank.models.vision.tokens import visual_fingerprint
from latentbank.progress import Progress, Silent
from latentbank.query.calibration.calibration import Calibration, load_calibration, require_metric
from latentbank.query.calibration.folder import (
    calibration_folder,
    corpus_digest,
    read_about,
    read_array,
    write_array,
)
from latentbank.query.lenses.base import Queries
from latentbank.query.silence.evidence import evidence_of
from latentbank.query.silence.null_tokens import null_tokens
from latentbank.query.silence.significance import checked_fdr, p_values, significant

if TYPE_CHECKING:
    from pathlib import Path

    from latentbank.bank.bank import Bank
    from latentbank.bank.points import Neighbor
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.lenses.base import Lens
    from latentbank.query.reading.reading import TokenReading

_ROWS = 512  # visual tokens of nothing that a lens reads at once
_OWN = "latentbank."  # lenses whose options are known to be all that their neighbors depend on


class Silence:
    """Which visual tokens fall silent: those whose best neighbor says no more than what a lens finds by chance.

    The nulls are the visual tokens of pictures with nothing to see, which a calibration keeps. They are read once,
    through the very lens that reads a picture, and what it finds is kept beside them.

    Args:
        calibration: of the VLM for the bank.
        fdr: the largest share of the words given that may be false: among the tokens of one image at one visual layer,
            by one lens.

    Raises:
        QueryError: `fdr` is no number between 0 and 1, or the calibration has no nulls.

    Examples:
        >>> import latentbank as lb
        >>> from latentbank.query.silence.silence import open_silence
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> with lb.open_bank("Qwen2.5-VL-7B-Instruct") as bank:
        ...     silence = open_silence(bank, vlm, 0.05)
        ...     reading = lb.read_image(bank, vlm, "cat.jpg", layers=[8], silence=silence)
    """

    def __init__(self, calibration: Calibration, fdr: float) -> None:
        """Check the number; the nulls are read when they are needed."""
        self.calibration = calibration
        self._folder = calibration.pictures_folder
        self.fdr = checked_fdr(fdr)
        self._nulls: dict[tuple[str, int], npt.NDArray[np.float32]] = {}
        self._guard = threading.Lock()
        self._seen: list[Lens] = []  # they stay alive, so that no other lens gets the id of one

    def prepare(
        self, lenses: Sequence[Lens], layers: Sequence[int], progress: Progress | None = None
    ) -> None:
        """Read the nulls through lenses at visual layers, where that was not done before.

        Args:
            lenses: the lenses that will read pictures.
            layers: the visual layers.
            progress: receives the number of visual tokens read.

        Raises:
            QueryError: a layer has no nulls, or is not calibrated.
        """
        progress = progress or Silent()
        pairs = [(lens, layer) for lens in lenses for layer in layers]
        missing = [(lens, layer) for lens, layer in pairs if self._kept(lens, layer) is None]
        progress.stage("measuring chance", "tokens")
        done, total = 0, sum(len(null_tokens(self._folder, layer)) for _, layer in missing)
        for lens, layer in missing:
            for count in self._measure(lens, layer):
                progress.update(done + count, total)
            done += len(null_tokens(self._folder, layer))

    def is_measured(self, lens: Lens, layers: Sequence[int]) -> bool:
        """Return whether the nulls of all these visual layers were read through a lens before: it costs no time."""
        try:
            return all(
                self._kept(lens, self.calibration.require_layer(layer)) is not None for layer in layers
            )
        except QueryError:
            return False

    def nulls(self, lens: Lens, layer: int) -> npt.NDArray[np.float32]:
        """Return the evidence of a lens for the nulls of a visual layer, ascending, `[tokens]`.

        Raises:
            QueryError: the layer has no nulls, or is not calibrated.
        """
        if self._kept(lens, layer) is None:
            for _ in self._measure(lens, layer):
                pass
        kept = self._kept(lens, layer)
        assert kept is not None
        return kept

    def p_values(
        self, lens: Lens, queries: Queries, found: Sequence[Sequence[Neighbor]]
    ) -> list[float | None]:
        """Return the p-value of each visual token's best neighbor; None for a token without neighbors.

        Args:
            lens: the lens that found the neighbors.
            queries: the visual tokens of one layer.
            found: the neighbors of each, best first.

        Raises:
            QueryError: the layer has no nulls, or is not calibrated.
        """
        layer = self.calibration.require_layer(queries.layer)
        evidence = evidence_of(lens, self.calibration, queries, found)
        values = p_values(evidence, self.nulls(lens, layer)).tolist()
        return [
            None if math.isnan(own) else value for own, value in zip(evidence.tolist(), values, strict=True)
        ]

    def _kept(self, lens: Lens, layer: int) -> npt.NDArray[np.float32] | None:
        if lens.bank is not None and lens.bank.metric == "centred" and lens.correction is None:
            raise QueryError(
                f"The bank '{lens.bank.name}' is centred: there, words are kept back by corrected scores alone, so "
                "correct hubs as well.",
                argument="correct",
            )
        key = (_told(lens), layer)
        with self._guard:
            if key not in self._nulls and (file := self._file(*key)) is not None and file.is_file():
                self._nulls[key] = np.array(read_array(file, [None], "float32"))
            return self._nulls.get(key)

    def _measure(self, lens: Lens, layer: int) -> Iterator[int]:
        """Read the nulls of a layer through a lens and keep what it finds; yield how many are done."""
        states = null_tokens(self._folder, layer)
        parts = []
        for start in range(0, len(states), _ROWS):
            queries = Queries(states[start : start + _ROWS], layer, "visual")
            parts.append(evidence_of(lens, self.calibration, queries, lens.read(queries, 1)))
            yield start + len(parts[-1])
        evidence = np.concatenate(parts)
        ordered = np.sort(evidence[~np.isnan(evidence)]).astype(np.float32)
        key = (_told(lens), layer)
        with self._guard:
            self._nulls[key] = ordered
            self._seen.append(lens)
        if (file := self._file(*key)) is not None:
            # Others may keep a calibration where this user cannot write; then it is measured anew each time.
            with suppress(LatentBankError):
                write_array(file, ordered)

    def _file(self, told: str, layer: int) -> Path | None:
        if not told.startswith(_OWN):
            return None
        digest = hashlib.blake2b(told.encode(), digest_size=8).hexdigest()
        return self._folder / f"N{layer:02d}-{digest}.npy"


def open_silence(bank: Bank, model: VisualModel, fdr: float) -> Silence:
    """Return which visual tokens of a VLM fall silent, by its calibration for a bank.

    Args:
        bank: an open bank of the VLM's own language model.
        model: the VLM.
        fdr: as for `Silence`.

    Raises:
        QueryError: `fdr` is no number between 0 and 1, or the VLM is not calibrated for the bank.
        LatentBankError: files of the calibration cannot be read.
    """
    level = checked_fdr(fdr)
    require_metric(bank, "fdr")
    folder = calibration_folder(bank.settings.data_dir, visual_fingerprint(model), bank.manifest)
    if read_about(folder) is None:
        raise QueryError(
            f"It was not measured what {model.name} finds in the bank '{bank.name}' where there is nothing to see; "
            "calibrate it for this bank, or give words to all tokens.",
            argument="fdr",
        )
    return Silence(load_calibration(bank, model), level)


def silenced(tokens: Sequence[TokenReading], fdr: float) -> list[TokenReading]:
    """Return the tokens of one image, those without significant neighbors silent.

    Benjamini and Hochberg's procedure chooses among the tokens that have a p-value, for each lens and visual layer.
    """
    groups: dict[tuple[str, int], dict[int, float]] = {}
    for place, token in enumerate(tokens):
        if token.p_value is not None:
            groups.setdefault((token.lens, token.layer), {})[place] = token.p_value
    kept = list(tokens)
    for values in groups.values():
        heard = significant(list(values.values()), fdr)
        for place, loud in zip(values, heard.tolist(), strict=True):
            if not loud:
                kept[place] = replace(tokens[place], neighbors=(), silent=True)
    return kept


def _told(lens: Lens) -> str:
    """Return what the neighbors of a lens depend on, besides the model and the visual layer."""
    kind = f"{type(lens).__module__}.{type(lens).__qualname__}"
    if not kind.startswith(_OWN):
        return f"{kind} {id(lens)}"
    correction = getattr(lens, "correction", None)
    told: list[Any] = [lens.version(), None if correction is None else correction.mode]
    bank = lens.bank
    if bank is not None:
        corpora = sorted(corpus_digest(entry) for entry in bank.shown_corpora.values())
        chosen = [repr(getattr(lens, name, None)) for name in ("where", "exact", "ef", "search")]
        told += [lens.searched_layers(), *chosen, bank.settings.ef_visual, bank.settings.search, corpora]
    return f"{kind} {json.dumps(told)}"
