"""Translators: for each layer of an LLM an affine map from its hidden states to what the last block would output.

The tuned lens learns them (Belrose et al. 2023, arXiv 2303.08112), the Jacobian lens computes them (Gurnee et al. 2026,
"Verbalizable Representations Form a Global Workspace in Language Models"). Files hold them with a card that says of
which LLM they are. What others have released is read without unpickling anything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from latentbank.errors import BankMismatch, LatentBankError, LayerNotFound, ModelError
from latentbank.files import write_whole
from latentbank.identity import Identity, difference, other_adapter
from latentbank.text import listed, public_name

if TYPE_CHECKING:
    from latentbank.models.language.model import LanguageModel

TranslatorKind = Literal["tuned", "jacobian"]
KINDS: tuple[TranslatorKind, ...] = ("tuned", "jacobian")
_KEY = "latentbank_translators"


@dataclass(frozen=True, eq=False)
class Translators:
    """Affine maps of an LLM's layers to its last layer.

    Attributes:
        kind: "tuned": the map's output is added to the hidden state, x + W x + b; "jacobian": it is J x + b.
        weights: W or J of each layer, float32 [hidden, hidden]; they multiply columns.
        biases: b of each layer that has one, float32 [hidden].
        card: what they are of and how they were made, JSON-ready: `model`, the identity of the LLM (`fingerprint`,
            `digests`) and more.
    """

    kind: TranslatorKind
    weights: Mapping[int, Tensor]
    biases: Mapping[int, Tensor]
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> list[int]:
        """The layers that have a map, ascending."""
        return sorted(self.weights)

    def require(self, layer: int) -> None:
        """Check that a layer has a map.

        Raises:
            LayerNotFound: it has none; the message names those that have one.
        """
        if layer not in self.weights:
            raise LayerNotFound(
                f"The {self.kind} lens of {self.card.get('model', 'this LLM')} has no layer {layer}; it has "
                f"{listed(self.layers)}. Train it with that layer."
            )

    def translate(self, states: Tensor, layer: int) -> Tensor:
        """Return hidden states [n, hidden] of a layer as the last block would output them, float32.

        Raises:
            LayerNotFound: the layer has no map.
        """
        self.require(layer)
        rows = states.float()
        bias = self.biases.get(layer)
        mapped = torch.nn.functional.linear(
            rows, self.weights[layer].to(rows.device), None if bias is None else bias.to(rows.device)
        )
        return rows + mapped if self.kind == "tuned" else mapped

    def check(self, language: LanguageModel) -> None:
        """Check that they are of an LLM, as far as it is loaded.

        Raises:
            BankMismatch: they are of another one.
        """
        found = language.identity()
        try:
            known = Identity.from_dict(self.card)
        except (ValueError, TypeError, LookupError):
            return  # as of maps that were released without one; importing them has compared what there is
        if (differs := difference(known, found)) is None:
            return
        name = self.card.get("model", "another LLM")
        advice = other_adapter(known, found, "the lens was made")
        raise BankMismatch(
            f"The {self.kind} lens is of {name}, not of {public_name(language.name)} as it is loaded: they differ in "
            f"{differs}; {advice or 'train it for this LLM'}."
        )


def card_of(language: LanguageModel, **about: Any) -> dict[str, Any]:
    """Return a card: the LLM's name and identity, and what else is known."""
    return {"model": public_name(language.name), **language.identity().to_dict(), **about}


def save_translators(path: str | os.PathLike[str], translators: Translators) -> None:
    """Write translators as a safetensors file, whole or not at all.

    Raises:
        LatentBankError: the file cannot be written.
    """
    from safetensors.torch import save

    parts = {"weight": translators.weights, "bias": translators.biases}
    tensors = {
        f"{layer}.{name}": part[layer].float().cpu().contiguous()
        for name, part in parts.items()
        for layer in sorted(part)
    }
    about = {"kind": translators.kind, "card": dict(translators.card)}
    write_whole(Path(path), save(tensors, {_KEY: json.dumps(about)}))


def load_translators(path: str | os.PathLike[str]) -> Translators:
    """Load translators that `save_translators` wrote.

    Raises:
        LatentBankError: the file holds none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            about = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if about["kind"] not in KINDS:
            raise ValueError(about["kind"])
        weights, biases = (
            {int(name.split(".")[0]): part for name, part in tensors.items() if name.endswith(ending)}
            for ending in (".weight", ".bias")
        )
        return Translators(about["kind"], weights, biases, about["card"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise LatentBankError(
            f"{path} holds no lens that this latentbank can read ({type(error).__name__}); train it again."
        ) from None


def read_released(source: str | os.PathLike[str], language: LanguageModel) -> Translators:
    """Read a lens that others have released for an LLM.

    - A folder with `config.json` and `params.pt`, as the library tuned-lens writes it. Its translator i reads what
      enters block i + 1, which is layer i here; its output is added to the hidden state.
    - A `.pt` file of the library jlens. Its matrix l reads the output of block l, counted from 0, which is layer l + 1
      here. It has no offset.

    Both use the LLM's own final norm and unembedding.

    Raises:
        ModelError: there is no such lens, or it is of an LLM of other sizes.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_tuned(path, language)
    if path.is_file() and path.suffix == ".pt":
        return _read_jacobian(path, language)
    raise ModelError(
        f"There is no released lens at {source}: give a folder with config.json and params.pt, or a .pt file of "
        "Jacobians."
    )


def _read_tuned(folder: Path, language: LanguageModel) -> Translators:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        width, count = int(config["d_model"]), int(config["num_hidden_layers"])
        name = str(config["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} holds no config.json of a tuned lens ({type(error).__name__}).") from None
    _check_sizes(folder, name, width, count, language)
    state = _unpickled(folder / "params.pt")
    layers = range(count)
    try:
        weights = {layer: _matrix(state[f"{layer}.weight"], width) for layer in layers}
        kept = [layer for layer in layers if f"{layer}.bias" in state]
        biases = {layer: state[f"{layer}.bias"].float().reshape(width) for layer in kept}
    except (KeyError, AttributeError, RuntimeError, ValueError):
        raise ModelError(
            f"{folder}/params.pt holds no maps of {count} layers, as config.json says."
        ) from None
    return Translators("tuned", weights, biases, card_of(language, source=folder.name, released_for=name))


def _read_jacobian(file: Path, language: LanguageModel) -> Translators:
    data = _unpickled(file)
    try:
        matrices = {int(layer) + 1: value for layer, value in data["J"].items()}
        width = int(data["d_model"])
        _check_sizes(file, str(data.get("model_id", "its LLM")), width, max(matrices), language, least=True)
        weights = {layer: _matrix(value, width) for layer, value in matrices.items()}
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ModelError(f"{file} holds no Jacobians, a mapping J from layers to matrices.") from None
    about = {"source": file.name, "sentences": data.get("n_prompts")}
    return Translators("jacobian", weights, {}, card_of(language, **about))


def _unpickled(file: Path) -> Any:
    """Return a dictionary of tensors and plain values that torch saved; nothing else is unpickled."""
    import pickle

    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"{file} cannot be read ({type(error).__name__}); download it again, or it holds more than tensors."
        ) from None
    if not isinstance(found, Mapping):
        raise ModelError(f"{file} holds no tensors by name.")
    return found


def _matrix(value: Tensor, width: int) -> Tensor:
    if value.shape != (width, width):
        raise ValueError("another shape")
    return value.float().contiguous()


def _check_sizes(
    source: Path, name: str, width: int, count: int, language: LanguageModel, *, least: bool = False
) -> None:
    """Check width and number of layers; with `least`, the LLM may have more layers."""
    fits = language.num_layers >= count if least else language.num_layers == count
    if width != language.hidden_size or not fits:
        raise ModelError(
            f"The lens in {source} is of {name}, with hidden states of {width:,} and {count} layers; "
            f"{public_name(language.name)} has {language.hidden_size:,} and {language.num_layers}."
        )
