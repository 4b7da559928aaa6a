"""Reading images: every visual token of a VLM, at the layers asked for, through one lens or several."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from latentbank.bank.bank import Bank
from latentbank.bank.layers import BankLayers
from latentbank.bank.merge import Unique
from latentbank.bank.planning import Way
from latentbank.bank.where import Filter
from latentbank.errors import QueryError
from latentbank.models.kinds import require_visual
from latentbank.models.vision.sources import Source
from latentbank.query.lenses.base import Lens, require_lenses
from latentbank.query.lenses.centring import QueryMean, kept_means
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.reading.around import Around, Which, around_of
from latentbank.query.reading.assembly import Choices, read_batches
from latentbank.query.reading.reading import Reading
from latentbank.query.reading.visual_tokens import Broken, image_tokens
from latentbank.values import Layers, layers_of, whole

if TYPE_CHECKING:
    from latentbank.models.vision.tokens import VisualModel
    from latentbank.query.silence.silence import Silence

BATCH = 8
"""Images in one forward pass."""


def default_visual_layers(num_layers: int) -> list[int]:
    """Return the visual layers that are read by default: the input, and an eighth, a quarter and half of the LLM."""
    return sorted({0, *(max(1, round(num_layers * eighths / 8)) for eighths in (1, 2, 4))})


def chosen_layers(num_layers: int, bank: Bank | None, around: Around) -> list[int]:
    """Return the layers that are read by default.

    Text beside an image needs the bank's mean of text if the bank is centred. Then these are the layers of
    `default_visual_layers` that the bank has, or the middle of its layers if it has none of them.
    """
    layers = default_visual_layers(num_layers)
    if bank is None or bank.metric != "centred" or not around:
        return layers
    return [layer for layer in layers if layer in bank.layers] or bank.choose_layers("mid")


def read_image(
    bank: Bank,
    model: VisualModel,
    image: Source,
    layers: Layers | None = None,
    *,
    bank_layers: BankLayers = "mid",
    top_k: int = 5,
    where: Filter | None = None,
    unique: Unique | None = None,
    exact: bool = False,
    search: Way | None = None,
    prompt: str | None = None,
    query_mean: QueryMean | None = None,
    lenses: Sequence[Lens] = (),
    tokens: Which = "visual",
    answer: int = 0,
    silence: Silence | None = None,
) -> Reading:
    """Read every visual token of one image against a bank, and through other lenses.

    Args:
        bank: a bank of the VLM's own language model.
        model: the VLM; its LLM must be the bank's, as its digests say.
        image: a path, a file's bytes, an open image, or an array or tensor of pixels (`open_image` says which).
        layers: the visual layers; None: the input, an eighth, a quarter and half of the LLM's layers.
        bank_layers: "mid", "all", "paper", one bank layer or several.
        top_k: neighbors per token.
        where: only contexts that this filter selects.
        unique: one neighbor per "context" or per "word".
        exact: the older name of `search="exact"`.
        search: "auto", "graph" or "exact", as `Bank.search` takes it; None: the bank's setting.
        prompt: the text beside the image; None: the model's own.
        query_mean: as for `read_images`.
        lenses: further lenses, such as a LogitLens.
        tokens: as for `read_images`.
        answer: as for `read_images`.
        silence: as for `read_images`.

    Raises:
        BankMismatch: the bank belongs to another model.
        QueryError: the bank is only a bank's name, or the lenses are not a list of lenses.
        ImageError: the image cannot be read.
        ModelError: a hidden state is not finite, or an answer is requested and only part of the model is loaded.

    Examples:
        >>> import latentbank as lb
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> with lb.open_bank("Qwen2.5-VL-7B-Instruct") as bank:
        ...     reading = lb.read_image(bank, vlm, "cat.jpg", layers=[0, 8], bank_layers="all")
        >>> words = reading.grid(8)
        >>> with lb.open_bank("Qwen2.5-VL-7B-Instruct") as bank:
        ...     told = lb.read_image(bank, vlm, "cat.jpg", tokens="all", answer=40)
        >>> caption = told.answer
    """
    latent = LatentLens(bank, bank_layers, where, unique, exact, search=search)
    require_visual(model)
    require_lenses(lenses)
    if layers is None:
        layers = chosen_layers(model.num_layers, bank, around_of(tokens, answer))
    (reading,) = read_images(
        model,
        [image],
        [latent, *lenses],
        layers,
        top_k=top_k,
        prompt=prompt,
        query_mean=query_mean,
        tokens=tokens,
        answer=answer,
        silence=silence,
    )
    return reading


def read_images(
    model: VisualModel,
    images: Iterable[Source],
    lenses: Sequence[Lens],
    layers: Layers,
    *,
    top_k: int = 5,
    prompt: str | None = None,
    batch: int = BATCH,
    query_mean: QueryMean | None = None,
    broken: Broken | None = None,
    warn: Callable[[str], None] | None = None,
    tokens: Which = "visual",
    answer: int = 0,
    silence: Silence | None = None,
) -> Iterator[Reading]:
    """Read many images, a batch at a time. Memory does not grow with their number.

    Each lens is called once per visual layer, with the visual tokens of all images of the batch.

    Args:
        model: the VLM.
        images: paths, bytes, open images or what `find_images` finds.
        lenses: the lenses to read through; a lens's bank must be of the VLM's own language model.
        layers: the visual layers.
        top_k: neighbors per token.
        prompt: the text beside the image; None: the model's own.
        batch: images in one forward pass.
        query_mean: for a centred bank, the mean that is subtracted from visual tokens: `Means` measured on many
            images, "batch" (each image's own at each layer), or an array `[hidden]`; None: the means kept with the
            VLM, else "batch". Lenses without a bank read visual tokens as they are.
        broken: called with the name of an image that cannot be read or that the model refuses, and the error; such an
            image is left out. None: the error is raised.
        warn: called once with a warning if visual norms are beyond what the model's dtype can hold; None: a Python
            warning is issued.
        tokens: "visual", or "all" to read the prompt's text tokens as well, special ones included. In a centred bank,
            text has the bank's mean of text.
        answer: the largest number of tokens that the model writes after the prompt, by greedy decoding, and that are
            read as well; 0: none. It needs the whole model.
        silence: which visual tokens fall silent, as what a lens finds for them is no more than chance; None: none.

    Yields:
        A reading of each image through all lenses at all layers, in the images' order.

    Raises:
        BankMismatch: a lens's bank belongs to another model, or its calibration is of another VLM or for another bank.
        QueryError: there is no lens or no layer, or a layer is not calibrated for a corrected lens.
        LayerNotFound: text is read at a layer whose mean of text a centred bank does not know.
        ImageError: an image cannot be read.
        ModelError: a hidden state is not finite, or an answer is requested and only part of the model is loaded.

    Examples:
        >>> import latentbank as lb
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> with lb.open_bank("Qwen2.5-VL-7B-Instruct") as bank:
        ...     for reading in lb.read_images(vlm, lb.find_images(["photos"]), [lb.LatentLens(bank)], layers=[0, 8]):
        ...         path = lb.save_reading(reading, f"{reading.source}.png")
    """
    top_k, batch = whole(top_k, "top_k", 1), whole(batch, "batch", 1)
    around = around_of(tokens, answer)
    chosen, query_mean = checked(model, lenses, layers, query_mean, around)
    batches = image_tokens(model, images, chosen, prompt, batch, broken, around)
    choices = Choices(lenses, top_k, prompt, query_mean, warn or python_warning, silence=silence)
    return read_batches(model, batches, [chosen], choices)


def read_layers(
    model: VisualModel,
    image: Source,
    lenses: Sequence[Lens],
    layers: Sequence[int],
    *,
    top_k: int = 5,
    prompt: str | None = None,
    query_mean: QueryMean | None = None,
    warn: Callable[[str], None] | None = None,
    between: Callable[[int], None] | None = None,
    tokens: Which = "visual",
    answer: int = 0,
    silence: Silence | None = None,
) -> Iterator[Reading]:
    """Read one image layer by layer, so that the first layer can be shown before the last is read.

    The other arguments and the errors are those of `read_images`.

    Args:
        between: called between pieces of a layer, as `read_in_pieces` says; None: a layer is read at once.

    Yields:
        A reading of each visual layer alone, in the layers' order; `join_layers` joins them.
    """
    around = around_of(tokens, answer)
    chosen, query_mean = checked(model, lenses, layers, query_mean, around)
    found = image_tokens(model, [image], chosen, prompt, 1, None, around)
    choices = Choices(lenses, top_k, prompt, query_mean, warn or python_warning, between, silence=silence)
    return read_batches(model, found, [[layer] for layer in chosen], choices)


def join_layers(readings: Sequence[Reading]) -> Reading:
    """Return the readings that `read_layers` yields as one, equal to what `read_images` yields."""
    tokens = {
        lens: [token for reading in readings for token in reading.tokens if token.lens == lens]
        for lens in readings[0].lenses
    }
    return replace(
        readings[0],
        layers=tuple(layer for reading in readings for layer in reading.layers),
        tokens=tuple(token for of_lens in tokens.values() for token in of_lens),
    )


def checked(
    model: VisualModel,
    lenses: Sequence[Lens],
    layers: Layers,
    query_mean: QueryMean | None,
    around: Around,
) -> tuple[list[int], QueryMean | None]:
    """Check model, lenses and layers; return each layer once, and the mean for a centred bank."""
    require_visual(model)
    require_lenses(lenses)
    chosen = layers_of(layers)
    if not chosen or not lenses:
        raise QueryError(f"Name at least one {'lens' if chosen else 'visual layer'}.")
    if len({lens.name for lens in lenses}) != len(lenses):
        raise QueryError("Two lenses have the same name; read the images twice instead.")
    for lens in lenses:
        lens.check(model)
        lens.check_layers(chosen)
        if lens.correction is not None:
            lens.correction.require(chosen)
        if lens.bank is not None and lens.bank.metric == "centred" and query_mean is None:
            query_mean = kept_means(model) or "batch"
        if lens.bank is not None and lens.bank.metric == "centred" and around:
            for layer in chosen:
                lens.bank.text_mean(layer)  # a layer without one fails before anything is computed
    return chosen, query_mean


def python_warning(text: str) -> None:
    """Issue a warning as Python's own."""
    warnings.warn(text, RuntimeWarning, stacklevel=3)
