"""A calibration as readings use it: reference tokens, and the numbers of contexts, read where they are needed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentbank.bank.manifest import Manifest
from latentbank.bank.rotation import rotate
from latentbank.errors import BankMismatch, QueryError
from latentbank.models.vision.tokens import visual_fingerprint
from latentbank.query.calibration.folder import (
    Part,
    Pictures,
    bank_fingerprint,
    calibration_folder,
    read_about,
    read_array,
    read_references,
)
from latentbank.query.calibration.numbers import Centre, Ids, Kept, places_of
from latentbank.query.calibration.references import ReferenceTokens
from latentbank.text import listed

if TYPE_CHECKING:
    from latentbank.bank.bank import Bank
    from latentbank.models.vision.tokens import VisualModel

FEWEST_OWN = 20
"""Pictures that may be corrected by numbers computed from themselves; fewer do more harm than good."""


class Calibration:
    """What was measured of a VLM's visual tokens for a bank; `load_calibration` opens it.

    Attributes:
        folder: where its files are.
        model: the VLM's name.
        kind: what its pictures are, for people, such as "visual tokens of 80 scenes".
        pictures: digests of its pictures (`references.picture_digest`).
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Open the files in a folder; `about` is what `read_about` returned."""
        self.folder = folder
        self.model: str = about["model"]
        self.kind: str = about["kind"]
        self.pictures: frozenset[str] = frozenset(about["pictures"])
        self._visual, self._bank_name, self._bank = about["visual"], about["bank"], about["bank_fingerprint"]
        self._files = Pictures(folder / about["use"])
        self._references: dict[int, ReferenceTokens] = {}
        self._centres: dict[tuple[int, int], Centre] = {}
        self._tables: dict[tuple[Path, int], _Table] = {}
        self._guard = threading.Lock()

    @property
    def pictures_folder(self) -> Path:
        """The folder of what was computed with its pictures; other pictures have another one."""
        return self._files.folder

    @property
    def visual_layers(self) -> list[int]:
        """The visual layers that are calibrated, ascending."""
        return self._files.visual_layers()

    def require(self, model: VisualModel, bank: Bank | None = None) -> None:
        """Check that the calibration is of a VLM, and for a bank if one is given.

        Raises:
            BankMismatch: it is of another VLM, or for another bank.
        """
        if visual_fingerprint(model) != self._visual:
            raise BankMismatch(
                f"The calibration is of {self.model}, not of {model.name}; calibrate that one, too."
            )
        if bank is not None and bank_fingerprint(bank.manifest) != self._bank:
            raise BankMismatch(
                f"The calibration is for the bank '{self._bank_name}', not for '{bank.name}' as it is now; calibrate "
                "the VLM for that one, too."
            )

    def require_layer(self, layer: int | None) -> int:
        """Return a visual layer that is calibrated.

        Raises:
            QueryError: it is not, or not known; the message names those that are.
        """
        known = self.visual_layers
        if layer in known:
            return layer
        which = (
            "A visual layer that is not known" if layer is None else f"Visual layer {layer} of {self.model}"
        )
        raise QueryError(
            f"{which} is not calibrated for the bank '{self._bank_name}' (calibrated: {listed(known)}); calibrate it, "
            "or read without correction.",
            argument="correct",
        )

    def references(self, layer: int) -> ReferenceTokens:
        """Return the reference tokens of a visual layer.

        Raises:
            QueryError: it is not calibrated.
            LatentBankError: its file cannot be read.
        """
        self.require_layer(layer)
        with self._guard:
            if layer not in self._references:
                self._references[layer] = read_references(self._files.reference_file(layer))[0]
            return self._references[layer]

    def is_own(self, digest: str) -> bool:
        """Return whether a picture is one of too few that the calibration was computed from."""
        return self.few and digest in self.pictures

    @property
    def few(self) -> bool:
        """Whether its pictures are too few to be read with corrections that were computed from themselves."""
        return len(self.pictures) < FEWEST_OWN

    def centre(self, manifest: Manifest, bank_layer: int, visual_layer: int) -> Centre:
        """Return what queries of a visual layer need for a bank layer.

        Raises:
            QueryError: one of the layers is not calibrated.
        """
        tokens = self.references(visual_layer)
        file = self._files.mean_file(bank_layer)
        if not file.is_file():
            raise self._not_calibrated(f"Bank layer {bank_layer}")
        with self._guard:
            if (bank_layer, visual_layer) not in self._centres:
                mean = rotate(tokens.mean, manifest.rotation_seed)
                text_mean = np.array(read_array(file, [manifest.hidden_size], "float32"))
                self._centres[bank_layer, visual_layer] = Centre(mean, text_mean)
            return self._centres[bank_layer, visual_layer]

    def numbers(self, manifest: Manifest, bank_layer: int, visual_layer: int, wanted: Ids) -> Kept:
        """Return the numbers of contexts, by their ids `[2, n]`.

        Args:
            manifest: that of the bank as it was searched.
            bank_layer: the contexts' layer.
            visual_layer: the queries' layer.
            wanted: the ids, see `numbers.pack_ids`.

        Raises:
            QueryError: contexts have no numbers, as their corpus was added later, or is not complete.
        """
        count = wanted.shape[1]
        spread, numbers = np.zeros(count, np.float32), np.zeros((count, 3), np.float32)
        missing = np.ones(count, np.bool_)
        for entry in manifest.corpora.values():
            for part in self._files.parts(entry, bank_layer):
                if not missing.any() or not entry.complete or part.missing([visual_layer]):
                    continue
                table = self._table(part, visual_layer)
                left = np.flatnonzero(missing)
                places = places_of(wanted[:, left], table.ids)
                found = places >= 0
                spread[left[found]] = table.spread[places[found]]
                numbers[left[found]] = table.numbers[places[found]]
                missing[left[found]] = False
        if missing.any():
            raise self._without_numbers(manifest, bank_layer, visual_layer)
        return Kept(spread, numbers)

    def _table(self, part: Part, visual_layer: int) -> _Table:
        with self._guard:
            if (part.stem, visual_layer) not in self._tables:
                count = part.count
                self._tables[part.stem, visual_layer] = _Table(
                    read_array(part.ids_file, [2, count], "uint64"),
                    read_array(part.spread_file, [count], "float32"),
                    read_array(part.numbers_file(visual_layer), [count, 3], "float32"),
                )
            return self._tables[part.stem, visual_layer]

    def _without_numbers(self, manifest: Manifest, bank_layer: int, visual_layer: int) -> QueryError:
        late = [
            entry.name
            for entry in manifest.corpora.values()
            if not entry.complete
            or any(part.missing([visual_layer]) for part in self._files.parts(entry, bank_layer))
        ]
        which = f"The corpus {listed(late)} in bank layer" if late else "A context of bank layer"
        return self._not_calibrated(f"{which} {bank_layer}")

    def _not_calibrated(self, what: str) -> QueryError:
        return QueryError(
            f"{what} of the bank '{self._bank_name}' is not calibrated for {self.model}; calibrate again, which "
            "computes what is missing, or read without correction.",
            argument="correct",
        )


@dataclass(frozen=True)
class _Table:
    """The numbers of one part: ids uint64 `[2, n]` sorted, spread float32 `[n]`, numbers float32 `[n, 3]`."""

    ids: Ids
    spread: np.ndarray[Any, np.dtype[np.float32]]
    numbers: np.ndarray[Any, np.dtype[np.float32]]


def require_metric(bank: Bank, argument: str | None = None) -> None:
    """Check that a bank can be calibrated: it is of plain cosine, or centred by means of unit vectors.

    Args:
        bank: the bank.
        argument: the argument that asks for a calibration.

    Raises:
        QueryError: it is a centred bank of an earlier version.
    """
    if bank.metric == "centred" and not bank.manifest.unit_means:
        raise QueryError(
            f"The centred bank '{bank.name}' is of an earlier version, which subtracted other means than corrections "
            "need: make it again, use a bank of plain cosine, or read without.",
            argument=argument,
        )


def load_calibration(bank: Bank, model: VisualModel) -> Calibration:
    """Open the calibration of a VLM for a bank, which `calibrate` made.

    Args:
        bank: an open bank of the VLM's own language model.
        model: the VLM.

    Raises:
        QueryError: there is none, or the bank cannot be calibrated.
        LatentBankError: its files cannot be read.
    """
    return calibration_of(bank, visual_fingerprint(model), model.name)


def calibration_of(bank: Bank, fingerprint: str, name: str) -> Calibration:
    """Open the calibration of the VLM of a fingerprint for a bank; see `load_calibration`.

    Args:
        bank: an open bank.
        fingerprint: the VLM's, 32 hex digits.
        name: the VLM's name, for messages.

    Raises:
        QueryError: there is none, or the bank cannot be calibrated.
        LatentBankError: its files cannot be read.
    """
    require_metric(bank, "correct")
    folder = calibration_folder(bank.settings.data_dir, fingerprint, bank.manifest)
    about = read_about(folder)
    if about is None:
        raise QueryError(
            f"{name} is not calibrated for the bank '{bank.name}'; calibrate it on other pictures than those "
            "that are read, or read without correction.",
            argument="correct",
        )
    return Calibration(folder, about)
