"""Voxtral's processor: transformers' own takes sound in a conversation alone, by mistral-common and soundfile."""

from __future__ import annotations

from typing import Any, cast

from transformers import AutoFeatureExtractor, BatchFeature

from latentbank.models.audio.sounds import RATE
from latentbank.models.language.tekken import load_tokenizer

KIND = "voxtral"
_BEGIN = "[BEGIN_AUDIO]"
# One message of a user, as mistral-common writes it.
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[INST]{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'audio' %}"
    + _BEGIN
    + "AUDIO{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %}{% endif %}[/INST]{% endfor %}"
)


class VoxtralProcessor:
    """Turns one sound and the text around it into Voxtral's inputs.

    A sound is filled up with silence to whole chunks of 30 seconds. Each is a spectrogram of its own and has the same
    number of tokens, which stand in the sequence one after the other.

    Attributes:
        feature_extractor: makes the spectrograms.
        tokenizer: a fast tokenizer.
        audio_token: the text that stands for a token of sound; in a prompt, for the whole sound.
        chat_template: a conversation as mistral-common writes it.
    """

    def __init__(self, source: str, config: Any, options: dict[str, Any]) -> None:
        """Load the parts; see `load_processor` for the arguments."""
        self.feature_extractor: Any = cast(Any, AutoFeatureExtractor).from_pretrained(source, **options)
        self.tokenizer: Any = load_tokenizer(source, options)
        self.audio_token = str(self.tokenizer.convert_ids_to_tokens(config.audio_token_id))
        self.chat_template = _TEMPLATE.replace("AUDIO{%", f"{self.audio_token}{{%")
        encoder = config.audio_config
        self._per_chunk = encoder.max_source_positions * encoder.hidden_size // encoder.intermediate_size

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Return a conversation as text."""
        return self.tokenizer.apply_chat_template(conversation, **options)

    def __call__(
        self, text: list[str], audio: list[Any], text_kwargs: Any = None, return_tensors: str = "pt"
    ) -> Any:
        """Return the inputs of one prompt with one sound [samples]: ids, mask, spectrograms [chunks, mels, frames]."""
        extractor = self.feature_extractor
        whole = extractor(
            audio[0],
            sampling_rate=RATE,
            padding=True,
            truncation=False,
            pad_to_multiple_of=extractor.n_samples,
            return_tensors=return_tensors,
        )["input_features"]
        chunks = whole.reshape(extractor.feature_size, -1, extractor.nb_max_frames).transpose(0, 1)
        tokens = self.audio_token * (len(chunks) * self._per_chunk)
        told = self.tokenizer(
            [text[0].replace(self.audio_token, tokens)], return_tensors=return_tensors, **(text_kwargs or {})
        )
        return BatchFeature({**told, "input_features": chunks.contiguous()})


def seconds_per_chunk(processor: Any) -> float:
    """Return the seconds of a chunk."""
    return float(processor.feature_extractor.n_samples / RATE)
