"""Reading sound: every token of it, with the seconds that it hears."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from latentbank.bank.bank import Bank
from latentbank.bank.layers import BankLayers
from latentbank.bank.merge import Unique
from latentbank.bank.planning import Way
from latentbank.bank.where import Filter
from latentbank.errors import ModelError
from latentbank.models.audio.sounds import open_sound
from latentbank.models.kinds import require_visual
from latentbank.models.vision.tokens import AudioModel
from latentbank.query.lenses.base import Lens, require_lenses
from latentbank.query.lenses.centring import QueryMean
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.reading.around import Which, around_of
from latentbank.query.reading.assembly import Choices, read_batches
from latentbank.query.reading.reading import Reading
from latentbank.query.reading.visual import checked, chosen_layers, python_warning
from latentbank.query.reading.visual_tokens import Broken, ImageTokens, tokens_one_by_one
from latentbank.values import Layers, whole

if TYPE_CHECKING:
    from latentbank.models.vision.tokens import VisualModel


def read_audio(
    bank: Bank,
    model: VisualModel,
    audio: Any,
    layers: Layers | None = None,
    *,
    rate: int | None = None,
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
) -> Reading:
    """Read every token of a sound against a bank, and through other lenses.

    Tokens of sound have `seconds`, their start and end, and no place; `reading.duration` is the sound's length.

    Args:
        bank: a bank of the model's own language model.
        model: from `load_visual_model`: Qwen2-Audio, Granite Speech, Qwen2.5-Omni or Voxtral.
        audio: an audio file (or the sound of a video file), or samples [samples] or [samples, channels], floats from -1
            to 1 or int16.
        layers: as for `read_image`.
        rate: samples per second of an array; a file says it itself.
        bank_layers: as for `read_image`.
        top_k: as for `read_image`.
        where: as for `read_image`.
        unique: as for `read_image`.
        exact: as for `read_image`.
        search: as for `read_image`.
        prompt: the text beside the sound; None: the model's own.
        query_mean: for a centred bank, the mean that is subtracted from the sound's tokens: `Means` measured on sounds,
            an array `[hidden]`, or "batch", their own; None: "batch".
        lenses: further lenses, such as a LogitLens.
        tokens: "visual" for those of the sound alone, or "all"; as for `read_images`.
        answer: as for `read_images`.

    Raises:
        BankMismatch: the bank belongs to another model.
        QueryError: the bank is only a bank's name, or the lenses are not a list of lenses.
        SoundError: the sound cannot be read.
        ModelError: the model takes no sound, or a hidden state is not finite.

    Examples:
        >>> import latentbank as lb
        >>> model = lb.load_visual_model("Qwen/Qwen2-Audio-7B-Instruct")
        >>> with lb.open_bank("Qwen2-Audio-7B-Instruct") as bank:
        ...     reading = lb.read_audio(bank, model, "cat.wav", layers=8)
        >>> start, end = reading.tokens[0].seconds
    """
    lens = LatentLens(bank, bank_layers, where, unique, exact, search=search)
    require_visual(model)
    require_lenses(lenses)
    chosen = chosen_layers(model.num_layers, bank, around_of(tokens, answer)) if layers is None else layers
    (reading,) = read_sounds(
        model,
        [audio],
        [lens, *lenses],
        chosen,
        rate=rate,
        top_k=top_k,
        prompt=prompt,
        query_mean=query_mean,
        tokens=tokens,
        answer=answer,
    )
    return reading


def read_sounds(
    model: VisualModel,
    sounds: Iterable[Any],
    lenses: Sequence[Lens],
    layers: Layers,
    *,
    rate: int | None = None,
    top_k: int = 5,
    prompt: str | None = None,
    query_mean: QueryMean | None = None,
    broken: Broken | None = None,
    warn: Callable[[str], None] | None = None,
    tokens: Which = "visual",
    answer: int = 0,
) -> Iterator[Reading]:
    """Read many sounds, one after the other; the arguments are those of `read_audio` and `read_images`.

    Yields:
        A reading of each sound through all lenses at all layers, in the sounds' order.

    Raises:
        SoundError: a sound cannot be read, and `broken` is None.
        ModelError: the model takes no sound, or a hidden state is not finite.
    """
    around = around_of(tokens, answer)
    # Means that are kept with a VLM are those of images.
    centred = any(lens.bank is not None and lens.bank.metric == "centred" for lens in lenses)
    own: QueryMean | None = "batch" if centred and query_mean is None else query_mean
    chosen, mean = checked(model, lenses, layers, own, around)
    choices = Choices(lenses, whole(top_k, "top_k", 1), prompt, mean, warn or python_warning)
    if not isinstance(model, AudioModel):
        raise ModelError(f"{model.name} takes no sound: use a model that does, such as Qwen2-Audio.")

    def read(source: Any) -> ImageTokens:
        sound = open_sound(source, rate)
        found = model.audio_tokens(sound, chosen, prompt, around.answer)
        return ImageTokens(sound.name, None, found, (), sound.duration)

    batches = tokens_one_by_one(model, sounds, read, broken, around)
    return read_batches(model, batches, [chosen], choices)
