"""A tiny `tekken.json`, as Mistral's models have them, with the merges of the tests' tokenizer."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.tiny import SPECIAL, tiny_tokenizer

# As in Mistral's files since Voxtral.
CONTROL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "<SPECIAL_20>", "<SPECIAL_21>",
    "<SPECIAL_22>", "<SPECIAL_23>", "[AUDIO]", "[BEGIN_AUDIO]", "[TRANSCRIBE]",
)  # fmt: skip
NUMBER = 40  # of special tokens, with those that have no name
PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)


def save_tekken(folder: Path, **more: Any) -> int:
    """Write a `tekken.json` into a folder, and return its number of tokens; `more` are further settings."""
    known = tiny_tokenizer().get_vocab()
    bytes_of = {char: bytes([byte]) for byte, char in bytes_to_unicode().items()}
    words = [
        b"".join(bytes_of[char] for char in token)
        for token, _ in sorted(known.items(), key=lambda item: item[1])
        if token not in SPECIAL
    ]
    single = [bytes([byte]) for byte in range(256)]
    ranked = single + [word for word in words if len(word) > 1]
    special = [{"rank": n, "token_str": text, "is_control": True} for n, text in enumerate(CONTROL)]
    data = {
        "config": {
            "pattern": PATTERN,
            "num_vocab_tokens": len(ranked),
            "default_vocab_size": len(ranked) + NUMBER,
            "default_num_special_tokens": NUMBER,
            "version": "v7",
        },
        "vocab": [
            {"rank": n, "token_bytes": base64.b64encode(word).decode(), "token_str": None}
            for n, word in enumerate(ranked)
        ],
        "special_tokens": special,
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tekken.json").write_text(json.dumps(data), encoding="utf-8")
    return len(ranked) + NUMBER
