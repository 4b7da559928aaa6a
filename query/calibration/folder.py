"""The files of a calibration: where they are, and how they are written and read. None of them is a pickle.

    {data_dir}/.calibrations/{VLM's fingerprint}-{bank's}/
        calibration.json            which pictures are in use, and what was calibrated, for people
        {digest of the pictures}/
            V08.safetensors         the reference tokens of a visual layer
            B12.npy                 the mean of the unit vectors of a bank layer
            {digest of a corpus}/
                B12-00000.ids.npy   contexts, `PART` in a file, in the order of their ids
                B12-00000.spread.npy, B12-00000.V08.npy     their numbers

Each file is written whole or not at all, so a job that was killed continues with the files that are missing. The
numbers of other pictures get a folder of their own, and are in use once they are complete.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latentbank.bank.manifest import CorpusEntry, Manifest
from latentbank.errors import LatentBankError
from latentbank.files import write_whole
from latentbank.query.calibration.references import ReferenceTokens

Floats = npt.NDArray[np.float32]

PART = 1 << 17
"""Contexts in a file."""
ABOUT = "calibration.json"
FORMAT = 1


def bank_fingerprint(manifest: Manifest) -> str:
    """Return what tells a bank from others: 32 hex digits. Another version of a bank is another bank."""
    name = manifest.bank.partition("@")[0]
    told = f"{name} {manifest.created} {manifest.fingerprint} {manifest.metric}"
    return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


def corpus_digest(entry: CorpusEntry) -> str:
    """Return what tells the contexts of a corpus from others of the same name: 16 hex digits."""
    told = json.dumps([entry.stored, entry.content_hash, entry.contexts, dict(entry.plan)], sort_keys=True)
    return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()


def calibration_folder(data_dir: Path, visual_fingerprint: str, manifest: Manifest) -> Path:
    """Return the folder of a VLM's calibration for a bank."""
    return data_dir / ".calibrations" / f"{visual_fingerprint[:16]}-{bank_fingerprint(manifest)[:16]}"


@dataclass(frozen=True)
class Pictures:
    """The files that were computed with one set of pictures.

    Attributes:
        folder: where they are.
    """

    folder: Path

    def reference_file(self, layer: int) -> Path:
        """Return the file of the reference tokens of a visual layer."""
        return self.folder / f"V{layer:02d}.safetensors"

    def mean_file(self, bank_layer: int) -> Path:
        """Return the file of the mean of a bank layer's unit vectors."""
        return self.folder / f"B{bank_layer:02d}.npy"

    def parts(self, entry: CorpusEntry, bank_layer: int) -> list[Part]:
        """Return the parts of a corpus in a bank layer, also those that have no files yet."""
        folder = self.folder / corpus_digest(entry)
        return [
            Part(folder / f"B{bank_layer:02d}-{number:05d}", min(PART, entry.contexts - number * PART))
            for number in range(-(-entry.contexts // PART))
        ]

    def visual_layers(self) -> list[int]:
        """Return the visual layers that have reference tokens, ascending."""
        found = (re.fullmatch(r"V(\d+)\.safetensors", file.name) for file in self.folder.glob("V*"))
        return sorted(int(match[1]) for match in found if match)


@dataclass(frozen=True)
class Part:
    """The files of some contexts of a corpus in a bank layer.

    Attributes:
        stem: their path, without what is in them.
        count: how many contexts these are.
    """

    stem: Path
    count: int

    @property
    def ids_file(self) -> Path:
        """The file of the ids: uint64 `[2, n]`, see `numbers.pack_ids`."""
        return self.stem.with_name(f"{self.stem.name}.ids.npy")

    @property
    def spread_file(self) -> Path:
        """The file of ‖c − μ‖: float32 `[n]`."""
        return self.stem.with_name(f"{self.stem.name}.spread.npy")

    def numbers_file(self, visual_layer: int) -> Path:
        """Return the file of the numbers for a visual layer: float32 `[n, 3]`."""
        return self.stem.with_name(f"{self.stem.name}.V{visual_layer:02d}.npy")

    def missing(self, visual_layers: Iterable[int]) -> list[int]:
        """Return the visual layers whose numbers are missing; all of them if the ids are."""
        if not (self.ids_file.is_file() and self.spread_file.is_file()):
            return list(visual_layers)
        return [layer for layer in visual_layers if not self.numbers_file(layer).is_file()]


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array as a .npy file, whole or not at all.

    Raises:
        LatentBankError: the file cannot be written.
    """
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_whole(path, buffer.getvalue())


def read_array(path: Path, shape: Sequence[int | None], dtype: str) -> npt.NDArray[Any]:
    """Return an array that `write_array` wrote; it is read from the disk where it is used.

    Args:
        path: the file.
        shape: the shape it must have; None: any length.
        dtype: the dtype it must have.

    Raises:
        LatentBankError: the file cannot be read, or holds something else.
    """
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _damaged(path, type(error).__name__) from None
    fits = len(array.shape) == len(shape) and all(
        length is None or length == own for length, own in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype != dtype:
        raise _damaged(path, f"{array.dtype} {list(array.shape)}")
    return array


def write_references(
    path: Path, tokens: ReferenceTokens, mean: Floats, unit_mean: Floats, count: int
) -> None:
    """Write the reference tokens of a visual layer, with the means of all visual tokens and their number.

    Args:
        path: the file.
        tokens: the reference tokens.
        mean: the mean of all visual tokens `[hidden]`.
        unit_mean: the mean of all visual tokens scaled to length 1 `[hidden]`.
        count: the number of all visual tokens.

    Raises:
        LatentBankError: the file cannot be written.
    """
    from safetensors.numpy import save

    tensors = {"states": tokens.states, "mean": tokens.mean, "all_mean": mean, "unit_mean": unit_mean}
    write_whole(path, save(tensors, {"tokens": str(count)}))


def read_references(path: Path) -> tuple[ReferenceTokens, Floats, Floats, int]:
    """Return what `write_references` wrote: reference tokens, both means, and the number of tokens.

    Raises:
        LatentBankError: the file cannot be read, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            states, mean = file.get_tensor("states"), file.get_tensor("mean")
            all_mean, unit_mean = file.get_tensor("all_mean"), file.get_tensor("unit_mean")
            count = int((file.metadata() or {})["tokens"])
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise _damaged(path, type(error).__name__) from None
    if (
        states.ndim != 2
        or not len(states)
        or {mean.shape, all_mean.shape, unit_mean.shape} != {states.shape[1:]}
    ):
        raise _damaged(path, f"{list(states.shape)}")
    return ReferenceTokens(states, mean), all_mean, unit_mean, count


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write what a calibration is; from then on it is in use.

    Raises:
        LatentBankError: the file cannot be written.
    """
    write_whole(
        folder / ABOUT, json.dumps({"format": FORMAT, **about}, indent=1, ensure_ascii=False).encode()
    )


def read_about(folder: Path) -> dict[str, Any] | None:
    """Return what a calibration is; None if there is none.

    Raises:
        LatentBankError: the file cannot be read.
    """
    path = folder / ABOUT
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path, type(error).__name__) from None
    if not isinstance(about, dict) or about.get("format") != FORMAT or not isinstance(about.get("use"), str):
        raise _damaged(path, "another format")
    return about


def _damaged(path: Path, how: str) -> LatentBankError:
    return LatentBankError(f"{path} cannot be read as a part of a calibration ({how}); calibrate again.")
