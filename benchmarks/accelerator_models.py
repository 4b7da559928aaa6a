"""Random language models of real shapes, with a tokenizer and sentences of their own; nothing is read from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentbank.ingest.corpus import corpus_from_sentences
from latentbank.ingest.plan import Plan, PlanSettings
from latentbank.ingest.planning import make_plan
from latentbank.models.language.model import LanguageModel

CORPUS = "random"
_WORDS = 8_000


@dataclass(frozen=True)
class Size:
    """The shape of an LLM.

    Attributes:
        name: for people.
        hidden: width of a hidden state.
        mlp: width inside the MLP.
        blocks: number of blocks.
        heads: heads of the queries.
        pairs: heads of keys and values.
        vocabulary: rows of the input embedding.
        window: positions that a sliding window shows; None: all.
    """

    name: str
    hidden: int
    mlp: int
    blocks: int
    heads: int
    pairs: int
    vocabulary: int
    window: int | None = None

    def windowed(self, window: int) -> Size:
        """Return the same shape whose blocks all have a sliding window."""
        return replace(self, name=f"{self.name}, window {window}", window=window)


SMALL = Size("SmolLM2-135M's shape", 576, 1536, 30, 9, 3, 49_152)
LARGE = Size("LLaMA-7B's shape", 4096, 11_008, 32, 32, 32, 32_000)
TINY = Size("a tiny shape", 32, 48, 3, 4, 2, _WORDS + 8)
TINY_LARGE = Size("a tiny wider shape", 64, 96, 2, 4, 4, _WORDS + 8)


def random_model(
    size: Size, device: str, dtype: torch.dtype, *, blocks: int | None = None, attention: str = "sdpa"
) -> LanguageModel:
    """Return an LLM with random weights, the same for the same shape and dtype.

    Args:
        size: its shape.
        device: where it is made; nothing passes through the CPU.
        dtype: of its weights.
        blocks: only the first so many blocks are made; None: all.
        attention: transformers' name of how attention is computed.
    """
    from transformers import AutoModel, LlamaConfig, MistralConfig

    kind: Any = LlamaConfig if size.window is None else MistralConfig
    given = {} if size.window is None else {"sliding_window": size.window}
    config = kind(
        hidden_size=size.hidden,
        intermediate_size=size.mlp,
        num_hidden_layers=blocks or size.blocks,
        num_attention_heads=size.heads,
        num_key_value_heads=size.pairs,
        head_dim=size.hidden // size.heads,
        vocab_size=size.vocabulary,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=None,
        **given,
    )
    torch.manual_seed(19)
    with torch.device(device):
        decoder = AutoModel.from_config(config, dtype=dtype, attn_implementation=attention)
    return LanguageModel(size.name, decoder.eval(), _tokenizer(), num_layers=size.blocks)


def _tokenizer() -> Any:
    """Return a tokenizer whose tokens are the words of `sentences`."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unknown>": 0} | {f"word{number}": number + 1 for number in range(_WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, "<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unknown>", pad_token="<unknown>")


def sentences(count: int) -> list[str]:
    """Return sentences of 5 to 24 words; frequent words are far more frequent, and many sentences begin alike."""
    random = np.random.default_rng(19)
    openings = [_words(random, 1 + number % 6) for number in range(max(1, count // 8))]
    ends = (_words(random, int(length)) for length in random.integers(4, 19, count))
    return [
        " ".join(f"word{word}" for word in [*openings[int(at)], *end])
        for at, end in zip(random.integers(0, len(openings), count), ends, strict=True)
    ]


def _words(random: np.random.Generator, count: int) -> list[int]:
    return [int(word) for word in _WORDS * random.random(count) ** 3]


def plan_of(model: LanguageModel, lines: Sequence[str], folder: Path) -> Plan:
    """Return the plan of sentences."""
    return make_plan(corpus_from_sentences(CORPUS, lines), model, folder, PlanSettings())
