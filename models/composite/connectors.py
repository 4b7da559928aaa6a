"""Connectors that the authors of LatentLens released (arXiv 2602.00462), as projectors of ours."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from latentbank.errors import ModelError
from latentbank.files import existing, make_folder
from latentbank.found_models import remember
from latentbank.hub import fetch_files, list_files, repository_of
from latentbank.identity import Identity
from latentbank.models.composite.model import CompositeVLM
from latentbank.models.composite.projector import Projector, load_projector, save_projector
from latentbank.models.composite.released import Released, read_config
from latentbank.models.language.model import load_language_model
from latentbank.models.vision.encoders import load_encoder
from latentbank.places import data_folder
from latentbank.progress import Progress, Silent
from latentbank.text import listed, public_name

WEIGHTS, CONFIG, RESULT = "connector.pt", "config.yaml", "projector.safetensors"
PAPERS = "McGill-NLP/latentlens-connectors"
# Names of the released weights, and ours. The first matrix of the SwiGLU is its gate.
_NAMES = {
    "vision_backbone.image_projector.w1.weight": "layers.gate.weight",
    "vision_backbone.image_projector.w3.weight": "layers.up.weight",
    "vision_backbone.image_projector.w2.weight": "layers.down.weight",
    "vision_backbone.pad_embed": "pad",
    "transformer.wte.new_embedding": "added",
}


def import_connector(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    source: str | None = None,
    vision: str | None = None,
    llm: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make a projector from a connector that the authors of LatentLens released.

    Nothing is rounded: the weights stay float32. Nothing is unpickled but tensors. With the projector's file,
    `load_visual_model` gives the paper's model.

    Args:
        folder: a folder with `connector.pt` and `config.yaml`.
        output: gets `projector.safetensors` and its card `projector.json`.
        source: where the connector is from, for the card; None: the folder's name.
        vision: the vision encoder; None: the one that the configuration names, on the hub.
        llm: the LLM; None: the one that the configuration names, on the hub.
        data_dir: the folder of embedded banks, in which this machine remembers where local models are. None: that of
            the settings.
        progress: counts three steps: the weights are read, local models are checked, the file is written.

    Returns:
        The projector's file.

    Raises:
        ModelError: a file is missing or damaged, describes another kind of model, or does not fit the encoder and the
            LLM if they are local; or `output` holds another projector.
        LatentBankError: a file cannot be written.

    Examples:
        >>> import latentbank as lb
        >>> from latentbank.models.composite.connectors import PAPERS, find_connector, import_connector
        >>> found = find_connector(PAPERS, "olmo-vit")
        >>> file = import_connector(found.folder, found.name, source=found.source)
        >>> vlm = lb.load_visual_model(file)
    """
    folder, output, progress = Path(folder).expanduser(), Path(output).expanduser(), progress or Silent()
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(f"There is no {name} in {folder}: give the folder of one connector.")
    released = read_config(folder / CONFIG)
    vision, llm = vision or released.vision, llm or released.llm
    for what, name in (("vision", vision), ("llm", llm)):
        if not name:
            raise ModelError(
                f"{folder / CONFIG} names none of the paper's models as its {'LLM' if what == 'llm' else 'encoder'}: "
                "name it.",
                argument=what,
            )
    vision, llm = (str(existing(name) or name) for name in (vision, llm))
    projector = _projector(folder / WEIGHTS, released)
    progress.update(1, 3)
    card: dict[str, Any] = {
        "encoder": {
            "name": public_name(vision),
            "features": projector.features,
            "layer": list(released.layers),
            "cls": False,
            "pictures": released.pictures.to_dict(),
        },
        "llm": {"name": public_name(llm)},
        "image_tokens": asdict(released.tokens),
        "prompt": released.prompt,
        "connector": source or folder.name,
    }
    _check_local(card, projector, released, vision, llm, data_folder(data_dir))
    progress.update(2, 3)
    file = output / RESULT
    _check_free(file, card)
    make_folder(output)
    save_projector(file, projector, card, torch.float32)
    progress.update(3, 3)
    return file


@dataclass(frozen=True)
class Found:
    """Where a connector is.

    Attributes:
        folder: its folder on this machine.
        name: its name, such as "olmo-vit".
        source: where it is from, for the card.
    """

    folder: Path
    name: str
    source: str


def find_connector(source: str, name: str | None = None, progress: Progress | None = None) -> Found:
    """Return where a connector is, downloaded if it is on the hub.

    Of a repository only the files of this connector are downloaded, to the hub's own cache.

    Args:
        source: a folder with a connector's files, or one with a folder for each connector; or a model repository of
            this kind on the hub, "USER/NAME" or "USER/NAME@REVISION", such as `PAPERS`.
        name: the connector, such as "olmo-vit"; None: the only one.
        progress: counts the MiB that are downloaded.

    Raises:
        ModelError: there is none, or several of which none is named.
        LatentBankError: the repository cannot be read.
    """
    if folder := existing(source):
        if name is None and (folder / WEIGHTS).is_file():
            return Found(folder, folder.name, folder.name)
        found = choose(sorted(path.parent.name for path in folder.glob(f"*/{WEIGHTS}")), name, source)
        return Found(folder / found, found, found)
    repository = repository_of(source, "model")
    if repository is None:
        raise ModelError(f"There is no folder {source}: name a folder, or a repository on the hub.")
    listing = list_files(repository)
    if name is None and WEIGHTS in listing.sizes:
        within, found = "", repository.id.rpartition("/")[2]
    else:
        there = [file.rpartition("/")[0] for file in sorted(listing.sizes) if file.endswith(f"/{WEIGHTS}")]
        within = found = choose(there, name, source)
    files = [str(PurePosixPath(within, file)) for file in (WEIGHTS, CONFIG)]
    folder = fetch_files(listing, [file for file in files if file in listing.sizes], progress)
    return Found(folder / within, found, f"{listing.repository}{f', {within}' if within else ''}")


def choose(names: list[str], name: str | None, where: str) -> str:
    """Return the name of the connector that is meant among those that are there.

    Raises:
        ModelError: there is none, or several of which none is named, or not the one that is named.
    """
    if not names:
        raise ModelError(
            f"{where} holds no connector: give a folder or repository with {WEIGHTS} and {CONFIG}."
        )
    if name in names or (name is None and len(names) == 1):
        return name or names[0]
    raise ModelError(
        f"{where} holds the connectors {listed(names)}{'' if name is None else f', not {name}'}: name one.",
        argument="name",
    )


def _projector(path: Path, released: Released) -> Projector:
    """Return the projector with the weights of a file."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise ModelError(f"{path} is damaged, or holds more than tensors: download it again.") from error
    if not isinstance(weights, Mapping) or not all(isinstance(part, Tensor) for part in weights.values()):
        raise ModelError(f"{path} holds no tensors by name: give a connector that the authors released.")
    if unlike := sorted(set(weights) ^ set(_NAMES)):
        has = "has" if unlike[0] in weights else "lacks"
        raise ModelError(
            f"{path} {has} the weights {unlike[0]}, unlike the connectors that the authors released."
        )
    tensors = {ours: weights[theirs].float() for theirs, ours in _NAMES.items()}
    inputs = released.features * len(released.layers)
    padding = released.pictures.pads
    if not padding:  # no patch of a squeezed picture is padding
        del tensors["pad"]
    with torch.device("meta"):
        projector = Projector(
            "swiglu",
            inputs + 2 * padding,
            released.hidden_size,
            released.width,
            padding=padding,
            added=released.added,
        )
    try:
        projector.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise ModelError(f"The weights in {path} do not have the sizes of its {CONFIG}.") from error
    return projector.eval().requires_grad_(False)


def _check_local(
    card: dict[str, Any], projector: Projector, released: Released, vision: str, llm: str, data_dir: Path
) -> None:
    """Add to the card what identifies an encoder and an LLM that are local, and remember where they are.

    If both are, the model is put together, which checks that they fit. Those on the hub are not loaded: the LLM alone
    has 14 GB.
    """
    encoder = language = None
    if existing(vision):
        encoder = load_encoder(vision, layer=released.layers, pictures=released.pictures, device="cpu")
        entry = card["encoder"]
        entry |= {"local": True, "fingerprint": encoder.fingerprint()}
        settings = {key: encoder.settings()[key] for key in sorted(encoder.settings())}
        remember(data_dir, encoder.name, Identity(entry["fingerprint"]), f"encoder {settings}")
    if existing(llm):
        language = load_language_model(llm, device="cpu", deepest_layer=1)
        card["llm"] |= {"local": True, **language.identity().to_dict()}
        remember(data_dir, language.name, language.identity())
    if encoder is not None and language is not None:
        CompositeVLM(encoder, projector, language, card)


def _check_free(file: Path, card: Mapping[str, Any]) -> None:
    """Check that a file that would be replaced is the same connector's."""
    if file.exists() and load_projector(file)[1].get("connector") != card["connector"]:
        raise ModelError(f"{file} is another projector: choose another folder.", argument="output")
