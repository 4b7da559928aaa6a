"""Sound for language models that hear: their inputs, and the span of seconds of each token."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from latentbank.errors import ModelError, SoundError
from latentbank.models.audio import voxtral
from latentbank.models.audio.sounds import RATE, Sound
from latentbank.models.language.explaining import quiet, reason
from latentbank.text import listed

REQUEST = "Describe this sound."
Seconds = npt.NDArray[np.float32]


def audio_token(name: str, config: Any, processor: Any) -> tuple[int, str]:
    """Return the id that stands for a token of sound in the sequence, and the text that stands for a sound.

    Raises:
        ModelError: there is no rule for models of this type.
    """
    if config.model_type not in RULES:
        raise ModelError(
            f"Sound cannot be read with {name} (its type is {config.model_type}); models of these types hear: "
            f"{listed(RULES)}."
        )
    keys = ("audio_token_id", "audio_token_index")
    token = next(value for key in keys if isinstance(value := getattr(config, key, None), int))
    return token, str(
        getattr(processor, "audio_token", None) or processor.tokenizer.convert_ids_to_tokens(token)
    )


def sound_inputs(name: str, processor: Any, sound: Sound, text: str) -> Any:
    """Return a processor's output for one sound and the text around it.

    Raises:
        SoundError: the sound is longer than the processor takes, or it cannot take it.
    """
    longest = getattr(getattr(processor, "feature_extractor", None), "chunk_length", None)
    if isinstance(processor, voxtral.VoxtralProcessor):
        longest = None  # it takes any number of chunks
    if longest and sound.duration > longest:
        raise SoundError(
            f"The sound {sound.name} has {sound.duration:,.1f} seconds, and {name} hears {longest}: cut it into parts."
        )
    start = processor.tokenizer.bos_token
    options = {"add_special_tokens": False} if start and text.startswith(start) else {}
    try:
        with quiet():
            return processor(text=[text], audio=[sound.samples], text_kwargs=options, return_tensors="pt")
    except (ValueError, TypeError, IndexError, ZeroDivisionError, RuntimeError, OSError, KeyError) as error:
        raise SoundError(
            f"The processor of {name} cannot take {sound.duration:.2f} seconds of sound: {reason(error)}."
        ) from error


def seconds_of(name: str, config: Any, processor: Any, sound: Sound, count: int) -> Seconds:
    """Return start and end in seconds of each position of a sound in the sequence, [positions, 2] float32.

    Args:
        name: the model's name.
        config: its configuration.
        processor: its processor.
        sound: what is heard.
        count: the number of positions.

    Raises:
        ModelError: the positions by the rule of the model's type do not fit the sound.
    """
    if not count:
        raise ModelError(f"The sound is too short for a token of {name}: give a longer one.")
    seconds = RULES[config.model_type](config, processor, count)
    end, step = float(seconds[-1, 1]), 1.01 * float(np.diff(seconds).max())
    heard = sound.duration
    if config.model_type == voxtral.KIND:
        chunk = voxtral.seconds_per_chunk(processor)
        heard = chunk * math.ceil(sound.duration / chunk)
    # The last token may reach beyond what is heard, or end before it by less than a token.
    if not -step <= heard - end <= step:
        raise ModelError(
            f"The sound has {count} tokens in {name}, which by the rule for its type are {end:.2f} of its "
            f"{heard:.2f} seconds: use the processor that belongs to the model."
        )
    return seconds


def _pooled(_config: Any, processor: Any, count: int) -> Seconds:
    """Return the spans of Qwen's models: a convolution and an average that each halve the frames of the spectrogram.

    Frame f is centred on f hops. Token t sees frames 4 t - 2 to 4 t + 4, so it is centred on 4 t + 1 hops.
    """
    hop = int(processor.feature_extractor.hop_length) / RATE
    return _spans(np.arange(count) * 4 * hop - hop, 4 * hop)


def _queried(config: Any, processor: Any, count: int) -> Seconds:
    """Return the spans of Granite Speech: a window of pairs of frames, which several queries share and mix."""
    window = int(config.window_size)
    hop = int(processor.audio_processor.melspec_kwargs["hop_length"]) / RATE
    number = np.arange(count) // (window // int(config.downsample_rate))
    return _spans(
        number * 2 * window * hop - hop / 2, 2 * window * hop
    )  # half a frame lies before its centre


def _stacked(config: Any, processor: Any, count: int) -> Seconds:
    """Return the spans of Voxtral: a convolution that halves the frames, and some positions of it side by side.

    Frame f is centred on f hops. With four positions, token t sees frames 8 t - 2 to 8 t + 8, so it is centred on
    8 t + 3 hops.
    """
    hop = int(processor.feature_extractor.hop_length) / RATE
    frames = 2 * (int(config.audio_config.intermediate_size) // int(config.audio_config.hidden_size))
    return _spans(np.arange(count) * frames * hop - hop, frames * hop)


def _spans(starts: npt.NDArray[np.floating[Any]], length: float) -> Seconds:
    """Return spans of equal length; the first begins with the sound."""
    return np.stack([starts.clip(min=0), starts + length], axis=-1).astype(np.float32)


RULES: Mapping[str, Callable[[Any, Any, int], Seconds]] = {
    "qwen2_audio": _pooled,
    "qwen2_5_omni_thinker": _pooled,
    "granite_speech": _queried,
    voxtral.KIND: _stacked,
}
