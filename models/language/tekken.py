"""Tokenizers of Mistral's models: a `tekken.json`, which mistral-common reads without the offsets of characters.

transformers takes mistral-common's tokenizer for such a model wherever that package is installed, even beside a
`tokenizer.json`. The fast tokenizers here give the same ids, with offsets, and need no mistral-common.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
from pathlib import Path
from typing import Any, cast

from tokenizers import Regex, Tokenizer, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.utils.hub import cached_file

_FILE = "tekken.json"
_TEMPLATE = "chat_template.jinja"
_SOME = 300  # tokens that are compared
_SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def load_tokenizer(source: str, options: dict[str, Any]) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model; that of a `tekken.json` as a fast one.

    Args:
        source: a directory or hub id.
        options: further arguments of `from_pretrained`: `revision`, `trust_remote_code`, `gguf_file`.
    """
    tekken = tekken_file(source, options)
    if tekken is None:
        return cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(source, **options))
    if _file(source, "tokenizer.json", options) is not None:
        fast: Any = PreTrainedTokenizerFast.from_pretrained(source, **options)
        _split_as(tekken, fast.backend_tokenizer)
        return cast(PreTrainedTokenizerBase, fast)
    status = os.stat(tekken)
    backend = _converted(tekken, status.st_mtime_ns, status.st_size)
    template = _file(source, _TEMPLATE, options)
    known = backend.get_vocab()
    made = cast(Any, PreTrainedTokenizerFast)(
        tokenizer_object=backend,  # of which it makes a copy
        name_or_path=source,
        chat_template=None if template is None else Path(template).read_text(encoding="utf-8"),
        **{key: token for key, token in _SPECIAL.items() if token in known},
    )
    return cast(PreTrainedTokenizerBase, made)


def tekken_file(source: str, options: dict[str, Any]) -> str | None:
    """Return the path of a model's `tekken.json`; None if it has none, or if its tokenizer is in a GGUF file."""
    return None if "gguf_file" in options else _file(source, _FILE, options)


def tekken_template(path: str) -> str | None:
    """Return the chat template that mistral-common writes for a `tekken.json`; None if it cannot."""
    with contextlib.suppress(Exception):  # not installed, too old, or the file is not to its taste
        from mistral_common.integrations.chat_templates.chat_templates import (
            convert_tokenizer_to_chat_template,
        )

        return str(convert_tokenizer_to_chat_template(path))
    return None


def _file(source: str, name: str, options: dict[str, Any]) -> str | None:
    """Return the path of one of a model's files, or None if there is no such file."""
    found: str | None = cached_file(
        source,
        name,
        revision=options.get("revision"),
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found


def _split_as(path: str, backend: Tokenizer) -> None:
    """Let the tokenizer of a `tokenizer.json` split texts as the `tekken.json` beside it does, if it has its tokens.

    Those that releases of transformers before 5 wrote split words in another way.
    """
    data = json.loads(Path(path).read_text(encoding="utf-8"))
    known, letters = backend.get_vocab(), cast(Any, bytes_to_unicode)()
    first = int(data["config"]["default_num_special_tokens"])
    some = data["vocab"][: int(data["config"]["default_vocab_size"]) - first][-_SOME:]
    tokens = {
        "".join(letters[byte] for byte in base64.b64decode(entry["token_bytes"])): entry for entry in some
    }
    if all(known.get(token) == entry["rank"] + first for token, entry in tokens.items()):
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(data["config"]["pattern"]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )


# The conversion takes some seconds, and a vision-language model and its processor each need the tokenizer.
@functools.lru_cache(maxsize=1)
def _converted(path: str, _changed: int, _size: int) -> Tokenizer:
    """Return a `tekken.json` as a tokenizer that begins each text with the BOS, as mistral-common does."""
    from transformers.integrations import mistral

    backend: Tokenizer = cast(Any, mistral).MistralConverter(vocab_file=path).converted()
    start = _SPECIAL["bos_token"]
    begin = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, backend.token_to_id(start))]
    )
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begin])
    return backend
