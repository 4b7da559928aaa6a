"""Tiny random models of every type that transformers loads as a causal language model."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

LAYERS = 4
VOCABULARY = 64
MOST = 8_000_000  # parameters

# What a configuration gets if it has a setting of the name.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "is_decoder": True,
    "hidden_size": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "decoder_layers": LAYERS,
    "decoder_ffn_dim": 48,
    "encoder_ffn_dim": 48,
    "decoder_attention_heads": 4,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "sliding_window": 5,
    # images and sound
    "image_size": 16,
    "patch_size": 8,
    "num_channels": 3,
    "embed_dim": 32,
    "num_heads": 4,
    "depth": 1,
    # experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    # latent attention
    "kv_lora_rank": 8,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    # linear attention and state spaces
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mamba_d_state": 8,
    "mamba_d_head": 8,
    "mamba_n_heads": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
    "ssm_state_size": 8,
    "n_groups": 1,
    "chunk_size": 8,
}
_LATENT = {"num_key_value_heads": 4}
# Settings of types for which the sizes above do not do, or leave out what is special in them.
SETTINGS: dict[str, dict[str, Any]] = {
    "axk1": _LATENT,
    "axk2": _LATENT,
    "codegen": {"rotary_dim": 4},
    "blt": {"encoder_hash_byte_group_vocab": 16},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "deepseek_v32": _LATENT,
    "dots3_note_text": {
        "num_key_value_heads": 4,
        "head_dim": 16,
        "index_head_dim": 8,
        "index_n_heads": 2,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 8,
        "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 8,
    },
    "dots3_note_vision_encoder": {
        "mlp_layer_types": ["dense"] * LAYERS,
        "adapter_in_dim": 32,
        "adapter_out_dim": 32,
    },
    "dots3_note_audio_encoder": {"adapter_input_size": 32, "adapter_out_dim": 32},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
    },
    "gemma4_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 8,
        "global_head_dim": 16,
        "use_double_wide_mlp": True,
    },
    "gemma4_unified_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "global_head_dim": 16,
    },
    "gemma4_unified_vision": {"mm_embed_dim": 32, "mm_posemb_size": 16, "output_proj_dims": 32},
    "glm4_moe_lite": _LATENT,
    "glm_moe_dsa": _LATENT,
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gptj": {"rotary_dim": 4},
    "kimi_linear": {**_LATENT, "linear_head_dim": 8, "linear_num_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {
        **_LATENT,
        "num_layers": LAYERS,
        "ffn_hidden_size": 48,
        "expert_ffn_hidden_size": 16,
        "moe_topk": 2,
        "zero_expert_num": 2,
    },
    "mamba2": {"num_heads": 8},
    "minicpm3": _LATENT,
    "mllama_text_model": {"cross_attention_layers": [1]},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"]},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
    },
    "phi4_multimodal_audio": {"num_blocks": 1},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "lsh"] * 2},
    "xlnet": {"d_head": 8},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "roc_bert": {"pronunciation_vocab_size": 8, "shape_vocab_size": 8},
    "youtu": _LATENT,
    "zamba": {"layers_block_type": ["linear_attention", "linear_attention", "hybrid", "hybrid"]},
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_key_value_heads": 4,
    },
    "zaya": {"num_experts_per_tok": 1},
}


# Types that cannot be built tiny, and why.
UNBUILT = {
    "gemma3n": "its vision model, which timm makes, comes in one size; gemma3n_text is refused",
    "gemma4_assistant": "it drafts for another model, whose keys and values it reads",
    "gemma4_unified_assistant": "it drafts for another model, whose keys and values it reads",
    "musicgen": "its configuration is of three models, and that of its decoder belongs to no type",
    "musicgen_melody": "its configuration is of three models, and that of its decoder belongs to no type",
}
# Types that latentbank refuses, and words of the error.
_STREAMS = "more than one residual stream"
REFUSED = {
    "blt": "has no number of layers",  # bytes and patches: four models in one
    "cpmant": _STREAMS,  # it puts a prompt of its own before every text
    "deepseek_v4": f"{_STREAMS}|lacks",
    "gemma3n_text": _STREAMS,
    "hrm_text": "no list of 32 blocks",  # it runs two stacks of blocks in turns
    "hy_v4": _STREAMS,
    "prophetnet": "does not support the setting of `num_hidden_layers`",
    "qwen4_exp": _STREAMS,
    "qwen4_exp_text": _STREAMS,
    "xlm": "several lists of 4 blocks",  # attentions in one list, the rest of the blocks in others
    "xlnet": "depend on later ones",
}
# Types whose causal LLMs have another type when they are saved, which transformers loads by no Auto class.
SAVED_OTHERWISE = {"emu3", "mllama"}
# Types whose `hidden_states` in transformers are the outputs of their blocks, or leave out blocks that were skipped.
RECORDED_OTHERWISE = {"falcon_mamba", "mamba", "mamba2", "mllama_text_model", "rwkv"}


def types() -> list[str]:
    """Return all types, by name."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(model_type: str) -> PreTrainedConfig:
    """Return a tiny configuration of a type, with tiny configurations of its parts."""
    return _tiny(CONFIG_MAPPING[model_type])


def _tiny(config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    own = SETTINGS.get(config_class.model_type, {})
    known = inspect.signature(config_class).parameters
    names = {config_class.attribute_map.get(name, name): value for name, value in SIZES.items()}
    settings = {name: value for name, value in names.items() if name in known}
    settings = {name: value for name, value in settings.items() if not callable(value)}
    for name, part in (config_class.sub_configs or {}).items():
        if part is AutoConfig:
            part = type(getattr(config_class(), name))
        settings[name] = _tiny(part)
    return config_class(**{**settings, **own})


def tiny_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Return a random model in evaluation mode, whose weights are large enough for attention to matter.

    Raises:
        ValueError: it is not tiny.
    """
    with torch.device("meta"):
        size = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST:
        raise ValueError(f"it has {size:,} parameters")
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() >= 2:
                nn.init.normal_(weight, 0, weight.shape[-1] ** -0.5)
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0  # as in trained models; some are loaded so
    return model
