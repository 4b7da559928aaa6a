"""What a decoder's configuration and modules say: its blocks, how to keep only the first, its positions."""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
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


# Gemma 3n and Gemma 4 give each block its own embedding of the token, all of them from one table and one projection,
# whose outputs stand in the order of the blocks.
PER_BLOCK = ("embed_tokens_per_layer", "per_layer_model_projection")

_EYES = (
    "vision_config",
    "vision",
    "visual",
    "vision_tower",
    "vision_backbone",
    "mm_vision_tower",
    "img_processor",
    "vlm_config",
)


def setting(config: Any, key: str) -> Any:
    """Return a value of a configuration; None if it has none, or if it differs between blocks."""
    try:
        return getattr(config, key, None)
    except RuntimeError:  # how transformers refuses a value that differs between blocks
        return None


def count_blocks(config: Any) -> int | None:
    """Return the number of blocks that a text model's configuration states, or None if it states none."""
    computed = isinstance(inspect.getattr_static(type(config), "num_hidden_layers", None), property)
    if computed and isinstance(count := setting(config, "num_layers"), int):
        return count  # LongCat counts the two attentions of each block
    count = setting(config, "num_hidden_layers")
    return count if isinstance(count, int) else None


def cut_config(config: PretrainedConfig, blocks: int) -> None:
    """Change the text model's `config`, in place, to only its first `blocks` blocks, if that is known to be safe.

    Lists with one entry per block, such as `layer_types`, are cut too. Other model types are left as they are;
    `keep_blocks` cuts them once they are loaded.
    """
    whole = cast(int, count_blocks(config))
    if config.model_type in _CUT_BEFORE_LOADING and blocks < whole:
        _cut_lists(config, whole, blocks)
        config.num_hidden_layers = blocks


def decoder_of(model: Any) -> PreTrainedModel:
    """Return the decoder of a model: its blocks and input embedding, without unembedding and vision tower."""
    decoder = model.get_decoder()
    # ModernBERT calls its unembedding `decoder`.
    return cast(PreTrainedModel, decoder if isinstance(decoder, PreTrainedModel) else model.base_model)


def find_blocks(decoder: PreTrainedModel) -> nn.ModuleList:
    """Return the list of the decoder's blocks.

    Raises:
        ModelError: there is no list of as many modules as the configuration has layers, or there are several.
    """
    count = count_blocks(decoder.config)
    lists = [
        (name.count("."), module)
        for name, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and any(part for block in module for part in block.children())  # not so rotary embeddings
    ]
    shallowest = [module for depth, module in lists if depth == min(lists, key=lambda item: item[0])[0]]
    if len(shallowest) != 1:
        found = "several lists" if shallowest else "no list"
        raise ModelError(
            f"{type(decoder).__name__} keeps {found} of {count} blocks to collect hidden states from: "
            "use a decoder-only language model."
        )
    return shallowest[0]


def keep_blocks(decoder: PreTrainedModel, blocks: int) -> None:
    """Remove all but the first `blocks` blocks of a decoder from memory, in place.

    Raises:
        ModelError: weights that hold a part for each block are quantized, so that they cannot be cut.
    """
    whole = cast(int, count_blocks(decoder.config))
    del find_blocks(decoder)[blocks:]
    for name in PER_BLOCK:
        if isinstance(module := getattr(decoder, name, None), nn.Embedding | nn.Linear):
            _cut_outputs(module, blocks, whole)
    config: Any = decoder.config
    config.num_hidden_layers = blocks
    if count_blocks(config) != blocks and isinstance(setting(config, "num_layers"), int):
        config.num_layers = blocks
    if count_blocks(config) != blocks:  # Nemotron-H counts the entries of a list
        _cut_lists(config, whole, blocks)


def _cut_lists(config: PretrainedConfig, whole: int, blocks: int) -> None:
    for key, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and len(value) == whole:
            setattr(config, key, value[:blocks])


def _cut_outputs(module: nn.Embedding | nn.Linear, blocks: int, whole: int) -> None:
    """Keep the first blocks' share of the outputs."""
    dim = 1 if isinstance(module, nn.Embedding) else 0
    if not module.weight.is_floating_point() and blocks < whole:
        raise ModelError("Its embeddings of each block are quantized, so that it can only be loaded whole")
    width = module.weight.shape[dim] // whole * blocks
    with torch.no_grad():
        kept = module.weight.narrow(dim, 0, width).clone()
    module.weight = nn.Parameter(kept, requires_grad=module.weight.requires_grad)
    if isinstance(module, nn.Embedding):
        module.embedding_dim = width
    else:
        module.out_features = width


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


def has_eyes(config: Any) -> bool:
    """Return whether a configuration has settings of a vision tower; Molmo's says nothing of it."""
    return config.model_type == "molmo" or any(getattr(config, name, None) is not None for name in _EYES)


def first_position(decoder: PreTrainedModel) -> int:
    """Return the position id of a sentence's first token: RoBERTa and its kin begin after that of padding."""
    for module in decoder.modules():
        padding = getattr(module, "padding_idx", None)
        if hasattr(module, "create_position_ids_from_input_ids") and isinstance(padding, int):
            return padding + 1
    return 0


def max_positions(config: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the configuration's number of positions, or the tokenizer's limit (ALiBi, recurrent models)."""
    for key in ("max_position_embeddings", "n_positions", "seq_length"):
        value = setting(config, key)
        if isinstance(value, int) and value > 0:
            return value
    return min(int(tokenizer.model_max_length), 1_000_000)
