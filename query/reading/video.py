"""Reading videos: every visual token of some frames, with the time that it sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from latentbank.bank.bank import Bank
from latentbank.bank.layers import BankLayers
from latentbank.bank.merge import Unique
from latentbank.bank.planning import Way
from latentbank.bank.where import Filter
from latentbank.errors import ModelError
from latentbank.models.kinds import require_visual
from latentbank.models.vision.clips import FRAMES, Clip, open_clip
from latentbank.models.vision.tokens import VideoModel, VisualTokens
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
    from latentbank.query.silence.silence import Silence


def read_video(
    bank: Bank,
    model: VisualModel,
    video: Any,
    layers: Layers | None = None,
    *,
    frames: int = FRAMES,
    frame_rate: float | None = None,
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
    """Read every visual token of a video against a bank, and through other lenses.

    A tile of the reading is a step of time: a frame, or the frames that the model merges. `TokenReading.seconds` is the
    time of its step, and `reading.frames` has an image of each step.

    Args:
        bank: a bank of the VLM's own language model.
        model: a VLM that takes videos: Qwen2-VL, Qwen2.5-VL, Qwen3-VL, LLaVA-OneVision or Video-LLaVA.
        video: a video file, a folder of images in the order of their names, images or their paths, or an array
            [frames, height, width, 3] of uint8.
        layers: as for `read_image`.
        frames: how many frames the model sees: the first of each of so many equal parts.
        frame_rate: frames per second of a video that is no file; None: 1.
        bank_layers: as for `read_image`.
        top_k: as for `read_image`.
        where: as for `read_image`.
        unique: as for `read_image`.
        exact: as for `read_image`.
        search: as for `read_image`.
        prompt: the text beside the video; None: the model's own.
        query_mean: as for `read_images`.
        lenses: further lenses, such as a LogitLens.
        tokens: as for `read_images`.
        answer: as for `read_images`.
        silence: as for `read_images`; its nulls are tokens of still pictures. It chooses among all tokens of a video at
            a visual layer.

    Raises:
        BankMismatch: the bank belongs to another model.
        QueryError: the bank is only a bank's name, or the lenses are not a list of lenses.
        ImageError: the video cannot be read.
        ModelError: the model takes no videos, or a hidden state is not finite.

    Examples:
        >>> import latentbank as lb
        >>> vlm = lb.load_visual_model("Qwen/Qwen2.5-VL-7B-Instruct")
        >>> with lb.open_bank("Qwen2.5-VL-7B-Instruct") as bank:
        ...     reading = lb.read_video(bank, vlm, "cat.mp4", layers=8, frames=4)
        >>> start, end = reading.tokens[0].seconds
    """
    lens = LatentLens(bank, bank_layers, where, unique, exact, search=search)
    require_visual(model)
    require_lenses(lenses)
    chosen = chosen_layers(model.num_layers, bank, around_of(tokens, answer)) if layers is None else layers
    (reading,) = read_videos(
        model,
        [video],
        [lens, *lenses],
        chosen,
        frames=frames,
        frame_rate=frame_rate,
        top_k=top_k,
        prompt=prompt,
        query_mean=query_mean,
        tokens=tokens,
        answer=answer,
        silence=silence,
    )
    return reading


def read_videos(
    model: VisualModel,
    videos: Iterable[Any],
    lenses: Sequence[Lens],
    layers: Layers,
    *,
    frames: int = FRAMES,
    frame_rate: float | None = None,
    top_k: int = 5,
    prompt: str | None = None,
    query_mean: QueryMean | None = None,
    broken: Broken | None = None,
    warn: Callable[[str], None] | None = None,
    tokens: Which = "visual",
    answer: int = 0,
    silence: Silence | None = None,
) -> Iterator[Reading]:
    """Read many videos, one after the other; the arguments are those of `read_video` and `read_images`.

    Yields:
        A reading of each video through all lenses at all layers, in the videos' order.

    Raises:
        ImageError: a video cannot be read, and `broken` is None.
        ModelError: the model takes no videos, or a hidden state is not finite.
    """
    around = around_of(tokens, answer)
    chosen, mean = checked(model, lenses, layers, query_mean, around)
    choices = Choices(lenses, whole(top_k, "top_k", 1), prompt, mean, warn or python_warning, silence=silence)
    count = whole(frames, "frames", 1)
    if not isinstance(model, VideoModel):
        raise ModelError(f"{model.name} takes no videos: use a vision-language model that does.")

    def read(source: Any) -> ImageTokens:
        clip = open_clip(source, count, frame_rate)
        found = model.video_tokens(clip, chosen, prompt, around.answer)
        images = _frames(clip, found)
        return ImageTokens(clip.name, images[0], found, tuple(images), clip.end)

    batches = tokens_one_by_one(model, videos, read, broken, around)
    return read_batches(model, batches, [chosen], choices)


def _frames(clip: Clip, found: VisualTokens) -> list[Any]:
    """Return the first frame of each step of time, by the step's number."""
    assert found.seconds is not None
    images = clip.images()
    begins = {int(tile): float(start) for tile, (start, _) in zip(found.tiles, found.seconds, strict=True)}
    nearest = [int(np.abs(clip.starts - begins[step]).argmin()) for step in sorted(begins)]
    return [images[at] for at in nearest]
