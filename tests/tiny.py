"""Tiny random models of real architectures, with a tokenizer of their own, for the tests."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import PreTrainedModel, PreTrainedTokenizerFast

TEXTS = (
    "A dog runs over the green grass after a red ball.",
    "A dog sleeps on the porch while the rain falls.",
    "A cat sits on the window sill and watches the birds.",
    "The cat and the dog share a bowl of cold water.",
    "Two children build a castle of sand near the sea.",
    "The old fisherman mends his nets in the morning light.",
    "A train crosses the long bridge over the wide river.",
    "The baker pulls warm bread out of the stone oven.",
    "Snow covers the roofs of the small mountain village.",
    "A woman reads the newspaper in a crowded café.",
    "Das Kind läuft über die Straße.",
    "猫が窓の外を見ている。",
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
_NO_GROUPS = {k: v for k, v in _SIZES.items() if k != "num_key_value_heads"}
_GPT2 = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
_QWEN_VISION = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4}
_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}

# name -> (prefix of the transformers classes, class ending, settings). Windows are shorter than the tests' sentences.
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("Llama", "ForCausalLM", _SIZES),
    "qwen2": ("Qwen2", "ForCausalLM", _SIZES),
    "qwen2-window": (
        "Qwen2",
        "ForCausalLM",
        {**_SIZES, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
    ),
    "qwen3": ("Qwen3", "ForCausalLM", {**_SIZES, "head_dim": 16}),
    "olmo2": ("Olmo2", "ForCausalLM", _SIZES),
    "gemma2": ("Gemma2", "ForCausalLM", {**_SIZES, "head_dim": 8, "sliding_window": 5}),
    "gemma3": (
        "Gemma3",
        "ForCausalLM",
        {**_SIZES, "head_dim": 8, "sliding_window": 5, "sliding_window_pattern": 2},
    ),
    "mistral": ("Mistral", "ForCausalLM", {**_SIZES, "sliding_window": 5}),
    "phi3": ("Phi3", "ForCausalLM", {**_SIZES, "sliding_window": 7}),
    "cohere": ("Cohere", "ForCausalLM", _SIZES),
    "granite": ("Granite", "ForCausalLM", _SIZES),
    "gpt2": ("GPT2", "LMHeadModel", _GPT2),
    "gpt_neox": ("GPTNeoX", "ForCausalLM", _NO_GROUPS),
    "gptj": ("GPTJ", "ForCausalLM", {**_GPT2, "rotary_dim": 4}),
    # Its residual stream is scaled by the number of blocks.
    "minicpm3": (
        "MiniCPM3",
        "ForCausalLM",
        {**_NO_GROUPS, "q_lora_rank": 16, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4},
    ),
    "bloom": ("Bloom", "ForCausalLM", {"hidden_size": 32, "n_layer": 4, "n_head": 4}),
    # Half of OPT's sizes read a narrower embedding.
    "opt": ("OPT", "ForCausalLM", {**_NO_GROUPS, "ffn_dim": 48, "word_embed_proj_dim": 16}),
    "mamba": ("Mamba", "ForCausalLM", {"hidden_size": 32, "num_hidden_layers": 4, "state_size": 4}),
    "bert": ("Bert", "Model", _NO_GROUPS),
    "t5": ("T5", "ForConditionalGeneration", {"d_model": 32, "d_ff": 32, "num_layers": 2, "d_kv": 8}),
    "llava": (
        "Llava",
        "ForConditionalGeneration",
        {
            "text_config": {"model_type": "llama", **_SIZES},
            "vision_config": {"model_type": "clip_vision_model", **_VISION},
            "image_token_index": 3,
        },
    ),
    "qwen2_vl": (
        "Qwen2VL",
        "ForConditionalGeneration",
        {
            "text_config": {**_SIZES, "head_dim": 8, "rope_parameters": _MROPE},
            "vision_config": _QWEN_VISION,
            "image_token_id": 3,
        },
    ),
}


@functools.cache
def _backend(bos: bool) -> str:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    # As in real tokenizers, offsets leave the leading space out in one kind and keep it in the other.
    post: Any = processors.ByteLevel(trim_offsets=bos)
    if bos:
        start = processors.TemplateProcessing(
            single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], tokenizer.token_to_id(SPECIAL[0]))]
        )
        post = processors.Sequence([post, start])
    tokenizer.post_processor = post
    return tokenizer.to_str()


def tiny_tokenizer(bos: bool = False, pad: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most 400 tokens, with `<|im_start|>` and `<|im_end|>`.

    Args:
        bos: whether it puts `<|endoftext|>` before every text.
        pad: whether it has a padding token.
    """
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend(bos)),
        bos_token=SPECIAL[0] if bos else None,
        eos_token=SPECIAL[0],
        pad_token=SPECIAL[3] if pad else None,
        additional_special_tokens=list(SPECIAL[1:3]),
    )


def tiny_model(architecture: str, seed: int = 0, **config_overrides: Any) -> PreTrainedModel:
    """A random model of one of `ARCHITECTURES`, float32, in evaluation mode.

    Its weights are large enough for attention to matter. `config_overrides` go into the configuration; for a
    VLM, into that of its language model.
    """
    prefix, ending, settings = ARCHITECTURES[architecture]
    settings = {key: dict(value) if isinstance(value, dict) else value for key, value in settings.items()}
    vocabulary = {
        "vocab_size": len(tiny_tokenizer()),
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 3,
    }
    text = settings.get("text_config", settings)
    text.update({**vocabulary, **config_overrides})
    config_name = "Gemma3TextConfig" if architecture == "gemma3" else f"{prefix}Config"
    config = getattr(transformers, config_name)(**settings)
    torch.manual_seed(seed)
    model: PreTrainedModel = getattr(transformers, prefix + ending)(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and not name.endswith(("A_log", "conv1d.weight")):
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
            elif "norm" in name or "ln_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.get_input_embeddings().weight.normal_(0, 1)
    return model


# The files of tiny models, and the state of random numbers after they were made: many tests ask for the same one.
_saved: dict[str, tuple[dict[str, bytes], torch.Tensor]] = {}


def save_tiny(
    directory: str | Path,
    architecture: str = "llama",
    bos: bool = False,
    pad: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **config_overrides: Any,
) -> Path:
    """Write a tiny model and its tokenizer to `directory`, so that `load_language_model(str(path))` works."""
    given = (architecture, bos, pad, seed, dtype, config_overrides)
    if repr(given) not in _saved:
        with tempfile.TemporaryDirectory() as folder:
            tiny_model(architecture, seed, **config_overrides).to(dtype).save_pretrained(folder)
            tiny_tokenizer(bos, pad).save_pretrained(folder)
            files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
        _saved[repr(given)] = files, torch.get_rng_state()
    files, state = _saved[repr(given)]
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (path / name).write_bytes(data)
    torch.set_rng_state(state)  # as if the model had been made now
    return path


def save_tiny_gguf(path: str | Path, seed: int = 0) -> Path:
    """Write the tiny Llama and its tokenizer as a float32 GGUF file, the way llama.cpp's converter does."""
    from gguf import GGUFWriter

    model = tiny_model("llama", seed, tie_word_embeddings=True)
    config, tokenizer = model.config, tiny_tokenizer()
    writer = GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in vocabulary])
    merges = json.loads(_backend(False))["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(3)
    short = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    writer.add_tensor("token_embd.weight", model.model.embed_tokens.weight.detach().numpy())
    writer.add_tensor("output_norm.weight", model.model.norm.weight.detach().numpy())
    for number, block in enumerate(model.model.layers):
        for name, parameter in block.named_parameters():
            values = parameter.detach().numpy()
            heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
            if count := heads.get(name.split(".")[1]):  # llama.cpp pairs neighbouring rotary dimensions
                shape = (count, 2, values.shape[0] // count // 2, values.shape[1])
                values = values.reshape(shape).swapaxes(1, 2).reshape(values.shape)
            writer.add_tensor(
                f"blk.{number}.{short[name.removesuffix('.weight')]}.weight", np.ascontiguousarray(values)
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path)
