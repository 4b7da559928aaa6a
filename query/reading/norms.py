"""Norms of visual tokens and of text, layer by layer, and whether the model's dtype can hold them.

The paper describes the mismatch: visual norms lie far above those of text, most of all at the LLM's input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from latentbank.errors import QueryError
from latentbank.models.vision.checks import dtype_name, overflow_error, wider_dtypes
from latentbank.models.vision.sources import Source
from latentbank.query.reading.visual_tokens import Broken, image_tokens
from latentbank.text import public_name
from latentbank.values import Layers, layers_of, whole

if TYPE_CHECKING:
    from latentbank.models.language.model import LanguageModel
    from latentbank.models.vision.tokens import VisualModel, VisualTokens

SENTENCES = (
    "A woman in a red coat walks her dog along the beach.",
    "The museum keeps a collection of clocks from the nineteenth century.",
    "Two boys are playing football on the grass behind the school.",
    "Prices rose by three percent in March, more than economists had expected.",
    "He fixed the leaking pipe with a wrench and some tape.",
    "The soup is made of tomatoes, onions and a little garlic.",
    "Mountains covered with snow can be seen from the window of the train.",
    "If the signal is lost, the device tries to connect again after ten seconds.",
    "She wrote her first novel at night, while her children slept.",
    "A small brown bird sits on the branch of an apple tree.",
    "The river divides the city into an old part and a new one.",
    "Nobody knew why the lights in the office had been on all weekend.",
)
"""The text whose norms are measured if no other is given."""


@dataclass(frozen=True)
class Spread:
    """The norms of many tokens: their number, the median, the 5th and the 95th percentile, and the largest."""

    tokens: int
    median: float
    low: float
    high: float
    largest: float


@dataclass(frozen=True)
class LayerNorms:
    """Visual norms and text norms at one layer; `ratio` is that of their medians."""

    layer: int
    visual: Spread
    text: Spread
    ratio: float


@dataclass(frozen=True)
class Norms:
    """Visual norms and text norms at every layer asked for; `limit` is the largest number the dtype can hold."""

    model: str
    dtype: str
    limit: float
    images: int
    layers: tuple[LayerNorms, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the norms as JSON-ready data (docs/json.md describes it)."""
        return {**asdict(self), "layers": [asdict(layer) for layer in self.layers]}


def measure_norms(
    model: VisualModel,
    images: Iterable[Source],
    layers: Layers,
    *,
    sentences: Sequence[str] = SENTENCES,
    prompt: str | None = None,
    batch: int = 8,
    broken: Broken | None = None,
    warn: Callable[[str], None] | None = None,
) -> Norms:
    """Compare the norms of visual tokens with those of text at each layer.

    Of a sentence, only tokens that could be contexts count: no special tokens, and not the first real token, which is
    the attention sink. Norms are computed in float32.

    Args:
        model: the VLM; text runs through its language model.
        images: paths, bytes, open images or what `find_images` finds.
        layers: the layers to compare.
        sentences: the text.
        prompt: the text beside the image; None: the model's own.
        batch: images in one forward pass.
        broken: as for `read_images`.
        warn: called once with a warning if visual norms are beyond what the model's dtype can hold.

    Raises:
        QueryError: no image, no layer, or no text.
        ModelError: a hidden state is not finite.

    Examples:
        >>> import latentbank as lb
        >>> from latentbank.query.reading.norms import measure_norms
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> norms = measure_norms(vlm, lb.find_images(["photos"]), layers=[0, 8])
    """
    layers, batch = layers_of(layers), whole(batch, "batch", 1)
    if not layers:
        raise QueryError("Name at least one layer.")
    visual: dict[int, list[npt.NDArray[np.float32]]] = {layer: [] for layer in layers}
    count, warned = 0, False
    for part in image_tokens(model, images, layers, prompt, batch, broken):
        found = [image.tokens for image in part]
        for tokens in found:
            for layer in layers:
                visual[layer].append(tokens.norms(layer))
        if not warned and warn is not None and (warning := beyond_range(model, found)):
            warned = True
            warn(warning)
        count += len(part)
    if not count:
        raise QueryError("There is no image to measure; name one that can be read.")
    text = text_norms(model.language, sentences, layers)
    dtype = model.language.dtype
    by_layer = []
    for layer in layers:
        of_images, of_text = _spread(np.concatenate(visual[layer])), _spread(text[layer])
        by_layer.append(LayerNorms(layer, of_images, of_text, of_images.median / of_text.median))
    return Norms(public_name(model.name), dtype_name(dtype), torch.finfo(dtype).max, count, tuple(by_layer))


def text_norms(
    language: LanguageModel, sentences: Sequence[str], layers: Sequence[int], batch: int = 16
) -> dict[int, npt.NDArray[np.float32]]:
    """Return the norms of text at each layer, of the tokens that `measure_norms` counts: float32 `[tokens]`.

    Raises:
        QueryError: the sentences have no such token.
        ModelError: a hidden state is not finite.
    """
    special = set(language.tokenizer.all_special_ids)
    ids = [language.encode(sentence)[: language.max_length] for sentence in sentences]
    norms: dict[int, list[npt.NDArray[np.float32]]] = {layer: [] for layer in layers}
    for start in range(0, len(ids), batch):
        part = ids[start : start + batch]
        for sentence, states in zip(part, language.hidden_states(part, layers), strict=True):
            places = [place for place, token in enumerate(sentence) if token not in special][1:]
            for layer in layers:
                if not states[layer].isfinite().all():
                    raise overflow_error(language.name, layer, "hidden states of text", language.dtype)
                norms[layer].append(states[layer][places].float().norm(dim=-1).cpu().numpy())
    joined = {layer: np.concatenate(found or [np.empty(0, np.float32)]) for layer, found in norms.items()}
    if not all(len(found) for found in joined.values()):
        raise QueryError("The text has no token to compare with; give sentences of several words.")
    return joined


def beyond_range(model: VisualModel, images: Sequence[VisualTokens]) -> str | None:
    """Return a warning if visual norms are larger than the largest number of the model's dtype, else None.

    Such a model is about to overflow in its next blocks: the largest float16 is 65,504.
    """
    dtype = model.language.dtype
    limit = torch.finfo(dtype).max
    if dtype == torch.float32:
        return None
    largest = {
        layer: max(float(tokens.norms(layer).max(initial=0)) for tokens in images)
        for layer in (images[0].states if images else ())
    }
    beyond = {layer: norm for layer, norm in largest.items() if not norm <= limit}
    if not beyond:
        return None
    layer = max(beyond, key=lambda layer: beyond[layer])
    return (
        f"Visual norms of {model.name} reach {beyond[layer]:,.0f} at layer {layer}, beyond what "
        f"{dtype_name(dtype)} holds ({limit:,.0f}): load it in {wider_dtypes(dtype)}."
    )


def _spread(norms: npt.NDArray[np.float32]) -> Spread:
    low, median, high = np.percentile(norms, (5, 50, 95))
    return Spread(len(norms), float(median), float(low), float(high), float(norms.max()))
