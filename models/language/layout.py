"""What a decoder's configuration and modules say: its blocks, how to keep only the first, its positions."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from latentbank.errors import ModelError

# Model types whose block l does not depend on the number of blocks, checked in transformers' source: with fewer blocks
# the first ones are unchanged. Some other types scale their residual stream by the number of blocks or share keys and
# values between blocks; those are loaded whole, then cut.
_CUT_BEFORE_LOADING = {
    "apertus", "arcee", "bloom", "cohere", "cohere2", "exaone4", "falcon", "gemma", "gemma2", "gemma3_text",
    "glm", "glm4", "gpt2", "gpt_neox", "gpt_oss", "granite", "helium", "llama", "ministral", "mistral",
    "mixtral", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "phi", "phi3", "qwen2", "qwen2_5_vl_text",
    "qwen2_moe", "qwen2_vl_text", "qwen3", "qwen3_moe", "qwen3_vl_text", "seed_oss", "smollm3", "stablelm",
    "starcoder2",
}  # fmt: skip


def cut_config(config: PretrainedConfig, blocks: int) -> None:
    """Change the text model's `config`, in place, to only its first `blocks` blocks, if that is known to be safe.

    Lists with one entry per block, such as `layer_types`, are cut too. Other model types are left as they are;
    `keep_blocks` cuts them once they are loaded.
    """
    whole = config.num_hidden_layers
    if config.model_type not in _CUT_BEFORE_LOADING or blocks >= whole:
        return
    for key, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and len(value) == whole:
            setattr(config, key, value[:blocks])
    config.num_hidden_layers = blocks


def find_blocks(decoder: PreTrainedModel) -> nn.ModuleList:
    """Return the list of the decoder's blocks.

    Raises:
        ModelError: there is no list of `num_hidden_layers` modules.
    """
    count = decoder.config.num_hidden_layers
    for _, module in sorted(decoder.named_modules(), key=lambda item: item[0].count(".")):
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(
        f"{type(decoder).__name__} keeps no list of {count} blocks to collect hidden states from: "
        "use a decoder-only language model."
    )


def keep_blocks(blocks: nn.ModuleList, count: int) -> None:
    """Remove all but the first `count` blocks from memory, in place."""
    del blocks[count:]


def without_mask_causal(decoder: PreTrainedModel) -> None:
    """Make the attention of a VLM's language model causal if it gets no mask, in place.

    PaliGemma's attention is marked as not causal, because tokens of a prompt and its image attend to each other. For
    prompts it gets a mask. Without a mask, as for a sentence alone, tokens would attend to later ones.
    """
    for module in decoder.modules():
        if vars(module).get("is_causal") is False:
            vars(module)["is_causal"] = True


def text_config(config: Any) -> Any:
    """Return the configuration of the language model inside `config`; for a plain LLM that is `config` itself."""
    return config.get_text_config(decoder=True)


def max_positions(config: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the configuration's number of positions, or the tokenizer's limit (ALiBi, recurrent models)."""
    for key in ("max_position_embeddings", "n_positions", "seq_length"):
        if isinstance(value := getattr(config, key, None), int):
            return value
    return min(int(tokenizer.model_max_length), 1_000_000)
