"""Where a decoder keeps its blocks, and how to load or keep only the first of them."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from latentbank.errors import ModelError

# Model types whose block l does not depend on how many blocks there are, checked in transformers' source:
# building them with fewer blocks leaves the first ones as they were. Some others scale their residual
# stream by the number of blocks or share keys and values between blocks; those are loaded whole, then cut.
_CUT_BEFORE_LOADING = {
    "apertus", "arcee", "bloom", "cohere", "cohere2", "exaone4", "falcon", "gemma", "gemma2", "gemma3_text",
    "glm", "glm4", "gpt2", "gpt_neox", "gpt_oss", "granite", "helium", "llama", "ministral", "mistral",
    "mixtral", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "phi", "phi3", "qwen2", "qwen2_5_vl_text",
    "qwen2_moe", "qwen2_vl_text", "qwen3", "qwen3_moe", "qwen3_vl_text", "seed_oss", "smollm3", "stablelm",
    "starcoder2",
}  # fmt: skip


def cut_config(config: PretrainedConfig, blocks: int) -> None:
    """Make `config` (of the text model) build only its first `blocks` blocks, where that is known to be safe.

    Lists with one entry per block, such as `layer_types`, are cut along. Other model types are left as
    they are; `keep_blocks` shortens them once they are loaded.
    """
    whole = config.num_hidden_layers
    if config.model_type not in _CUT_BEFORE_LOADING or blocks >= whole:
        return
    for key, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and len(value) == whole:
            setattr(config, key, value[:blocks])
    config.num_hidden_layers = blocks


def find_blocks(decoder: PreTrainedModel) -> nn.ModuleList:
    """The list of the decoder's blocks.

    Raises:
        ModelError: there is no list of `num_hidden_layers` modules.
    """
    wanted = decoder.config.num_hidden_layers
    for _, module in sorted(decoder.named_modules(), key=lambda item: item[0].count(".")):
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return module
    raise ModelError(
        f"{type(decoder).__name__} keeps no list of {wanted} blocks to collect hidden states from: "
        "use a decoder-only language model."
    )


def keep_blocks(blocks: nn.ModuleList, count: int) -> None:
    """Drop all but the first `count` blocks from memory, in place."""
    del blocks[count:]


def without_mask_causal(decoder: PreTrainedModel) -> None:
    """Let the attention of a VLM's language model be causal where it is given no mask, in place.

    PaliGemma's says it is not: its prompts, image and all, are one prefix that sees itself. But it passes a mask for
    those; without one, that is for a sentence alone, only padding decided whether tokens saw later ones.
    """
    for module in decoder.modules():
        if vars(module).get("is_causal") is False:
            vars(module)["is_causal"] = True


def text_config(config: Any) -> Any:
    """The configuration of the language model inside `config`; `config` itself for a plain LLM."""
    return config.get_text_config(decoder=True)
