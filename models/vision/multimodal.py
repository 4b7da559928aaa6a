"""What all models with an LLM inside share that take more than text: one sequence run, and its tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from latentbank.errors import ModelError, QueryError
from latentbank.models.audio.listening import REQUEST, audio_token, seconds_of, sound_inputs
from latentbank.models.audio.sounds import Sound
from latentbank.models.language.collecting import check_layers
from latentbank.models.language.explaining import reason
from latentbank.models.language.fingerprint import fingerprint
from latentbank.models.language.model import LanguageModel
from latentbank.models.language.prepacked import weights
from latentbank.models.language.unembedding import Unembedding, unembedding_of_model
from latentbank.models.vision.answers import check_whole, text_tokens, with_answer
from latentbank.models.vision.prompts import default_prompt
from latentbank.models.vision.tokens import TextTokens, VisualTokens

# Outputs of processors that are not inputs of the forward pass.
_NOT_FOR_THE_MODEL = ("labels", "num_crops", "video_metadata", "num_audio_tokens", "audio_embed_sizes")


class Multimodal:
    """A model of transformers with an LLM inside, whose processor turns images, videos or sound into its inputs.

    Attributes:
        name: the name it was loaded by; a path is absolute.
        revision: the commit on the hub, where known.
        language: the LLM inside; it shares the decoder, and its fingerprint is that of the LLM loaded alone.
        num_layers: number of layers of the whole LLM, also if only part of it is loaded.
        hidden_size: width of a hidden state.
        means_file: the file for the measured means of its visual tokens; None if it was not loaded from a folder.
        model: the transformers model, cut after its deepest block if it was loaded that way.
        processor: turns images, videos, sound and text into the model's inputs.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, language: LanguageModel) -> None:
        """Wrap a model, its processor, and a language model that shares the decoder."""
        self.name = language.name
        self.revision = language.revision
        self.language = language
        self.num_layers = language.num_layers
        self.hidden_size = language.hidden_size
        folder = Path(self.name)
        self.means_file = folder / "latentbank-means.safetensors" if folder.is_dir() else None
        self.model = model
        self.processor = processor

    def fingerprint(self) -> str:
        """Return the LLM's fingerprint."""
        return self.language.fingerprint()

    def visual_fingerprint(self) -> str:
        """See `latentbank.models.vision.tokens.visual_fingerprint`."""
        head: torch.nn.Module | None = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]  # as in transformers
        language = [part for part in (self.language.decoder, head) if part is not None]
        visual = (weight for weight in weights(self.model, without=language) if not weight.is_meta)
        parts = f"{self.fingerprint()} {self.language.identity().adapter} {fingerprint({}, [], visual)}"
        return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()

    def unembedding(self) -> Unembedding:
        """Return the model's unembedding, for LogitLens; it shares the weights.

        Raises:
            ModelError: the model has no unembedding.
        """
        return unembedding_of_model(self.name, self.model, self.language.lock)

    def audio_tokens(
        self, sound: Sound, layers: Sequence[int], prompt: str | None = None, answer: int = 0
    ) -> VisualTokens:
        """Return the tokens of a sound, with `seconds` and the text around them, from one forward pass.

        They have no boxes, and their size is 0 x 0. Tokens that show only the padding after the sound are left out.

        Args:
            sound: at the rate of the model's processor.
            layers: which layers' hidden states to return.
            prompt: the exact text, with the model's placeholder of a sound once; None: its chat template.
            answer: the largest number of tokens of the answer; 0: none is written.

        Raises:
            LayerNotFound: the model does not have a layer, or the layer is not loaded.
            SoundError: the model's processor cannot take the sound.
            QueryError: the prompt has no placeholder, or several.
            ModelError: the model's type takes no sound, or fails on it; also if an answer is requested and only part of
                the model is loaded.
        """
        token, placeholder = audio_token(self.name, self.model.config, self.processor)
        requested = self._check(layers)
        if answer:
            check_whole(self.language)
        if prompt is None:
            prompt = default_prompt(self.name, self.processor, placeholder, "audio", REQUEST)
        if prompt.count(placeholder) != 1:
            raise QueryError(
                f"The prompt has {prompt.count(placeholder)} times {placeholder}: put it there once.",
                argument="prompt",
            )
        inputs = self._ready(sound_inputs(self.name, self.processor, sound, prompt))
        states, positions, around = self._told(inputs, token, requested, answer)
        seconds = seconds_of(self.name, self.model.config, self.processor, sound, len(positions))
        heard = np.flatnonzero(seconds[:, 0] < sound.duration)
        here = positions[torch.from_numpy(heard)]
        none = np.full(len(heard), -1)
        return VisualTokens(
            states={layer: state[here.to(state.device)] for layer, state in states.items()},
            boxes=np.full((len(heard), 4), np.nan, np.float32),
            rows=none,
            columns=none,
            tiles=np.zeros(len(heard), np.int64),
            size=(0, 0),
            positions=here.numpy(),
            text=around,
            seconds=seconds[heard].clip(max=sound.duration),
        )

    def _told(
        self, inputs: Mapping[str, Any], token: int, requested: list[int], answer: int
    ) -> tuple[dict[int, Tensor], Tensor, TextTokens]:
        """Return the states of one sequence by layer, the positions of `token` before the answer, and the text."""
        inputs = self._for_model(inputs)
        length = inputs["input_ids"].shape[1]
        if answer:
            inputs = with_answer(self.model, self.language, inputs, answer)
        states = self._run(inputs, requested)
        positions = (inputs["input_ids"][0, :length] == token).nonzero().flatten().cpu()
        own = {layer: states[layer][0] for layer in requested}
        return own, positions, text_tokens(inputs, states, token, length)

    def _check(self, layers: Sequence[int]) -> list[int]:
        loaded = self.language.loaded_layers
        # What a model adds after a block enters only the next block, so one more block has to be loaded.
        deepest = loaded if loaded == self.num_layers else loaded - 1
        return check_layers(self.name, layers, self.num_layers, deepest)

    def _ready(self, inputs: Any) -> Mapping[str, Any]:
        """Return a processor's output on the model's device, in its dtype, if it fits into the model's positions."""
        tokens = inputs["input_ids"].shape[-1]
        if tokens > self.language.max_length:
            raise ModelError(
                f"The prompt and its images make {tokens:,} tokens, but {self.name} has {self.language.max_length:,} "
                "positions: use smaller or fewer images."
            )
        return cast(Mapping[str, Any], inputs.to(self.language.device, self.language.dtype))

    def _for_model(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of a processor's outputs that the forward pass takes."""
        return {key: value for key, value in inputs.items() if key not in _NOT_FOR_THE_MODEL}

    def _run(self, inputs: Mapping[str, Any], requested: list[int]) -> dict[int, Tensor]:
        inputs = self._for_model(inputs)
        try:
            return self.language.collect(
                lambda: self.model(**inputs, use_cache=False), requested, inputs["input_ids"].numel()
            )
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            # Mistral 3, for example, fails on an image of a single token.
            raise ModelError(f"{self.name} fails on these images: {reason(error)}.") from error
