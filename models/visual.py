"""Loading any model whose visual tokens can be read, by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentbank.errors import ModelError
from latentbank.files import existing
from latentbank.found_models import find
from latentbank.identity import Identity
from latentbank.models.vision.registry import LoadOptions, language_loader, model_loader
from latentbank.places import data_folder
from latentbank.text import is_path, public_name

if TYPE_CHECKING:
    from latentbank.models.language.model import LanguageModel
    from latentbank.models.language.unembedding import Unembedding
    from latentbank.models.vision.tokens import VisualModel


def load_visual_model(
    name: str | os.PathLike[str],
    *,
    device: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    deepest_layer: int | Callable[[int], int] | None = None,
    load_in: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    trust_remote_code: bool = False,
    folder: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] | None = None,
) -> VisualModel:
    """Load a model whose visual tokens can be read, or the tokens of sound.

    Args:
        name: a hub id or directory of an image-text-to-text model, or of a model that hears; a projector's .safetensors
            file, whose card names the encoder and the LLM to load with it; or the name of a model of a family, such as
            `demo`.
        device: as for `load_language_model`.
        dtype: as for `load_language_model`. The demo runs in float32 only.
        revision: branch, tag or commit on the hub.
        deepest_layer: as for `load_language_model`.
        load_in: as for `load_language_model`.
        adapter: as for `load_language_model`, trained on this model. Composite models take none.
        trust_remote_code: run the Python code that comes with the model. Only for authors you trust.
        folder: where a family may keep converted weights, so that later loads are faster; None: nowhere. The demo keeps
            its LLM there.
        data_dir: the folder of embedded banks, in which this machine remembers where local models are: those of a
            projector are found so. None: that of the settings.
        say: called with one line of text before something that takes long.

    Raises:
        ModelError: the model cannot be loaded, or takes no images.
        LayerNotFound: the model has no layer `deepest_layer`.

    Examples:
        >>> import latentbank as lb
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct", device="cpu")
        >>> with lb.open_bank("Qwen2.5-VL-7B-Instruct") as bank:
        ...     reading = lb.read_image(bank, vlm, "cat.jpg")
    """
    name = str(os.fspath(name))
    options = LoadOptions(
        device, dtype, revision, deepest_layer, trust_remote_code, folder, say, load_in, adapter
    )
    if load := model_loader(name):
        return load(options)
    if name.endswith(".safetensors"):
        return _load_composite(name, options, data_folder(data_dir))
    from latentbank.models.vision.vision_language import load_vision_language_model

    return load_vision_language_model(
        name,
        device=device,
        dtype=dtype,
        revision=revision,
        deepest_layer=deepest_layer,
        load_in=load_in,
        adapter=adapter,
        trust_remote_code=trust_remote_code,
    )


def why_no_images(
    name: str | os.PathLike[str], *, revision: str | None = None, trust_remote_code: bool = False
) -> str:
    """Return why no images can be read with a model, as a sentence; "" if they can. Its weights are not read.

    Args:
        name: as for `load_visual_model`, or the name of an LLM.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run the Python code that comes with the model. Only for authors you trust.

    Raises:
        ModelError: there is no such model.
    """
    name = str(os.fspath(name))
    if model_loader(name) or name.endswith(".safetensors"):
        return ""
    from latentbank.models.audio.model import hears_only
    from latentbank.models.language.loading import find_model
    from latentbank.models.vision.refusals import check_takes_images

    files = find_model(name, revision=revision, trust_remote_code=trust_remote_code)
    if hears_only(files):
        return f"{files.name} takes sound and text, no images."
    try:
        check_takes_images(files)
    except ModelError as error:
        return str(error)
    return ""


def unembedding_of(model: VisualModel) -> Unembedding:
    """Return the unembedding of the LLM inside a vision-language model, for LogitLens.

    It shares the weights that are loaded already. Of a composite model, which keeps only the decoder of its LLM, it is
    loaded if it is not tied to the input embeddings, or if transformers has no causal LLM around such a decoder.

    Raises:
        ModelError: the LLM has no unembedding, or it cannot be loaded.
    """
    from latentbank.models.language.unembedding import unembedding_of_language
    from latentbank.models.vision.multimodal import Multimodal

    if isinstance(model, Multimodal):
        return model.unembedding()
    return unembedding_of_language(model.language)


def _load_composite(path: str, options: LoadOptions, data_dir: Path) -> VisualModel:
    """Load a projector's file, and the encoder and the LLM that its card names."""
    from latentbank.models.composite.model import CompositeVLM
    from latentbank.models.composite.projector import load_projector
    from latentbank.models.composite.push import found_projector
    from latentbank.models.vision.encoders import DEFAULT_LAYER, load_encoder
    from latentbank.models.vision.pictures import Pictures

    if options.adapter is not None:
        raise ModelError(
            f"The projector {path} was trained for its LLM without an adapter: leave the adapter out.",
            argument="adapter",
        )
    path = found_projector(path)
    projector, card = load_projector(path)
    if not card.get("encoder") or not card.get("llm"):
        raise ModelError(f"The card of {path} names no encoder and LLM: train the projector with latentbank.")
    vision, llm = card["encoder"], card["llm"]
    language = _load_language(_here(llm, path, data_dir), replace(options, revision=llm.get("revision")))
    encoder = load_encoder(
        _here(vision, path, data_dir),
        layer=vision.get("layer", DEFAULT_LAYER),
        cls=vision.get("cls", False),
        pictures=Pictures.from_dict(vision["pictures"]) if vision.get("pictures") else None,
        device=options.device,
        dtype=options.dtype,
        revision=vision.get("revision"),
        trust_remote_code=options.trust_remote_code,
    )
    return CompositeVLM(encoder, projector, language, card, path)


def _here(part: Mapping[str, Any], projector: str, data_dir: Path) -> str:
    """Return what a projector's encoder or LLM is loaded by on this machine.

    A local one may be beside the projector, or where this machine has used it. Cards of earlier versions hold its path,
    which is used if it exists.

    Args:
        part: the card's entry of the encoder or the LLM.
        projector: the projector's file.
        data_dir: the folder of embedded banks.

    Raises:
        ModelError: it is a local model, and this machine does not know where it is.
    """
    name = str(part["name"])
    if not part.get("local") and (not is_path(name) or existing(name)):
        return name
    last = public_name(name)
    if beside := existing(str(Path(projector).expanduser().parent / last)):
        return str(beside)
    if known := find(data_dir, last, Identity.from_dict(part)):
        return known
    raise ModelError(
        f"{projector} was trained with the local model {last}, which this machine has not used yet, or which has "
        "moved: put it beside that file."
    )


def _load_language(name: str, options: LoadOptions) -> LanguageModel:
    from latentbank.models.language.model import load_language_model

    if load := language_loader(name):
        return load(options)
    return load_language_model(
        name,
        device=options.device,
        dtype=options.dtype,
        revision=options.revision,
        deepest_layer=options.deepest_layer,
        load_in=options.load_in,
        trust_remote_code=options.trust_remote_code,
    )
