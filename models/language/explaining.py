"""Errors and reports of transformers, the hub and torch in plain words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers.utils import logging

from latentbank.errors import ModelError
from latentbank.text import public_reason

_LFS = b"version https://git-lfs.github.com/spec/"
_MOST = 300


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' report of unused weights, such as the unembedding and later blocks."""
    before = logging.get_verbosity()
    cast(Any, logging).set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextlib.contextmanager
def plain_errors(name: str) -> Iterator[None]:
    """Turn any error of transformers, the hub or torch into a ModelError of one sentence."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise _explained(name, error) from error


def _explained(name: str, error: Exception) -> ModelError:
    """Return an error that says what a user can do about `error`, raised while loading the model `name`."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    kinds = {type(e).__name__ for e in chain}
    text = " ".join(str(e) for e in chain)
    argument = None
    if isinstance(error, torch.OutOfMemoryError):
        advice = f"{name} does not fit into memory: use a GPU with more memory, bfloat16, or fewer layers."
    elif "GatedRepoError" in kinds:
        advice = f"{name} is gated: accept its licence on its hub page and set HF_TOKEN, then try again."
    elif "RevisionNotFoundError" in kinds:
        advice, argument = f"{name} has no such revision.", "revision"
    elif "RepositoryNotFoundError" in kinds or "HFValidationError" in kinds:
        advice = f"There is no model {name} on the hub, or it is private: check the name and HF_TOKEN."
    elif kinds & {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectionError", "ConnectError"}:
        advice = (
            f"{name} is not on this machine and the hub cannot be reached: check the name and the network."
        )
    elif "operator torchvision::" in text or "torchvision extension" in text:
        advice = "The installed torchvision does not fit the installed torch: install both anew, or neither."
    elif package := _missing_of_extra(text):
        advice = f"{name} needs {package}: pip install 'latentbank[vision]'."
    elif "bitsandbytes" in text and kinds & {"ImportError", "PackageNotFoundError"}:
        advice = f"{name} is quantized with bitsandbytes: pip install 'latentbank[quantized]'."
    elif "trust_remote_code" in text:
        advice = f"{name} comes with code of its own: if you trust its authors, allow it to run."
        argument = "trust_remote_code"
    else:
        advice = _of_files(name, text, kinds) or f"The model {name} cannot be loaded: {reason(error)}."
    return ModelError(advice, argument=argument)


def reason(error: BaseException) -> str:
    """Return what an error of a library says in whole sentences, at most some 300 characters, without the last dot."""
    said = public_reason(error)
    if isinstance(error, KeyError):
        said = f"there is no {said}"
    if len(said) > _MOST:
        end = max(said.rfind(mark, 0, _MOST) for mark in (". ", "; ", ": "))
        said = said[:end] if end > 0 else f"{said[:_MOST].rpartition(' ')[0]} …"
    return said.rstrip(".:!, ")


def _of_files(name: str, text: str, kinds: set[str]) -> str | None:
    """Return what is wrong with a model's files, or None if that is not known."""
    if (file := _pointer(Path(name).expanduser())) is not None:
        return f"{file} is a pointer of Git LFS, not the file itself: run git lfs pull in its folder."
    if "backend tokenizer from one of" in text:
        return (
            f"{name} has no tokenizer that can be read: it needs a tokenizer.json, or the packages sentencepiece and "
            "tiktoken, which read older ones."
        )
    if "SafetensorError" in kinds or "UnpicklingError" in kinds or "requires a buffer of" in text:
        return f"The weights of {name} are damaged or incomplete: download them again."
    if "JSONDecodeError" in kinds or "is not a valid JSON file" in text:
        return f"A JSON file of {name} is damaged: download it again."
    if "ignore_mismatched_sizes" in text:
        return (
            f"The weights of {name} have other sizes than its config.json states: download its files again."
        )
    if found := re.search(r"has model type `([^`]+)` but Transformers does not recognize", text):
        return (
            f"{name} has the type {found[1]}, which transformers {transformers.__version__} does not know: install a "
            "newer transformers."
        )
    return None


def _pointer(path: Path) -> Path | None:
    """Return the first file of a model that is a pointer of Git LFS, or None if there is none."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in files:
        if file.suffix in (".safetensors", ".json", ".gguf", ".bin", ".model", ".jinja"):
            with contextlib.suppress(OSError), file.open("rb") as opened:
                if opened.read(len(_LFS)) == _LFS:
                    return file
    return None


def _missing_of_extra(text: str) -> str | None:
    """Return the package of the extra `vision` that an error asks for, or None."""
    if "torchvision" in text.lower():
        return "torchvision"
    asked = re.search(
        r"(?i)(?:requires the |No module named '|install )(timm|torchaudio|mistral[-_]common|num2words)", text
    )
    return asked[1].replace("_", "-") if asked else None
