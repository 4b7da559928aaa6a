"""Tokenizers in a `tekken.json`: the ids of mistral-common, with offsets."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import transformers
from tokenizers import Regex, pre_tokenizers

from latentbank.models.language.model import load_language_model
from latentbank.models.language.tekken import load_tokenizer, tekken_file
from latentbank.models.vision.vision_language import load_vision_language_model
from tests.models.tiny_vlm import FAMILIES, TEXT, save_tiny_vlm
from tests.models.vision.test_vision_language import noise
from tests.tekken import CONTROL, save_tekken
from tests.tiny import TEXTS, tiny_tokenizer

VARIED = (
    *TEXTS,
    "",
    " ",
    "  two  spaces\n\n and\ttabs \r\n",
    "HTTPServer2024 costs $1,234.56, don't it? DON'T!",
    "ภาษาไทย and مرحبا بالعالم",
    "café cafe\u0301",
    "👩‍👩‍👧‍👦 🇩🇪",
    "a" * 300,
)


def _texts() -> list[str]:
    """Return varied texts, and random ones of many scripts."""
    pick = random.Random(0)
    blocks = [
        (32, 127),
        (0x80, 0x250),
        (0x300, 0x36F),
        (0x370, 0x600),
        (0x900, 0xE80),
        (0x3040, 0x9FFF),
        (10, 14),
    ]
    return [
        *VARIED,
        *("".join(chr(pick.randrange(*pick.choice(blocks))) for _ in range(30)) for _ in range(200)),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny Mistral with a `tekken.json` alone."""
    path = tmp_path_factory.mktemp("tekken") / "mistral"
    config = transformers.MistralConfig(**TEXT, vocab_size=save_tekken(path))
    transformers.MistralForCausalLM(config).save_pretrained(path)
    return path


def test_ids_are_those_of_mistral_common(folder: Path) -> None:
    module = pytest.importorskip("mistral_common.tokens.tokenizers.tekken")
    theirs, ours = module.Tekkenizer.from_file(folder / "tekken.json"), load_tokenizer(str(folder), {})
    for text in _texts():
        assert ours(text)["input_ids"] == theirs.encode(text, bos=True, eos=False), text


def test_offsets_and_special_tokens(folder: Path) -> None:
    tokenizer = load_language_model(folder, device="cpu").tokenizer
    assert tokenizer.is_fast
    assert [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id] == [1, 2, 11]
    for text in VARIED:
        found = tokenizer(text, return_offsets_mapping=True)
        assert found["input_ids"][0] == tokenizer.bos_token_id
        assert tokenizer.decode(found["input_ids"][1:]) == text
        ends = [end for _, end in found["offset_mapping"]]
        assert ends == sorted(ends)
        assert ends[-1] == len(text)
    (number,) = tokenizer("[AUDIO]", add_special_tokens=False)["input_ids"]
    assert number == CONTROL.index("[AUDIO]")


def test_a_tokenizer_json_beside_it_splits_as_mistral_does(folder: Path, tmp_path: Path) -> None:
    """Files of releases before transformers 5 hold another pattern; mistral-common would have no offsets."""
    right = load_tokenizer(str(folder), {})
    wrong = load_tokenizer(str(folder), {})
    wrong.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}{1,3}|[^\s]+|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    wrong.save_pretrained(tmp_path)
    save_tekken(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"transformers_version": "4.50.0"}))
    found = load_tokenizer(str(tmp_path), {})
    assert found.is_fast
    text = "HTTPServer2024 over the green grass."
    assert wrong(text)["input_ids"] != right(text)["input_ids"]
    assert found(text)["input_ids"] == right(text)["input_ids"]


def test_a_model_without_one_keeps_its_tokenizer(tmp_path: Path) -> None:
    path = save_tiny_vlm(tmp_path / "llava", "llava")
    assert tekken_file(str(path), {}) is None
    assert (
        load_tokenizer(str(path), {}).bos_token == transformers.AutoTokenizer.from_pretrained(path).bos_token
    )


def test_images_of_a_model_with_a_tekken_json(tmp_path: Path) -> None:
    """Its processor would take mistral-common's tokenizer, or one without special tokens."""
    path = save_tiny_vlm(tmp_path / "mistral3", FAMILIES["mistral3"])
    config = json.loads((path / "config.json").read_text())
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (path / name).unlink()
    size = save_tekken(path)
    config["image_token_index"] = CONTROL.index("[IMG]")
    config["text_config"] |= {"vocab_size": size}
    (path / "config.json").write_text(json.dumps(config))
    again = transformers.AutoModelForImageTextToText.from_config(
        transformers.AutoConfig.from_pretrained(path)
    )
    again.save_pretrained(path)
    vlm = load_vision_language_model(str(path), device="cpu")
    (found,) = vlm.visual_tokens([noise((40, 24))], [0, 2])  # type: ignore[union-attr]
    assert found.rows.max() > 0
    assert vlm.placeholder == "[IMG]"  # type: ignore[union-attr]
    assert vlm.fingerprint() == load_language_model(str(path), device="cpu").fingerprint()


def test_a_tokenizer_json_of_other_tokens_stays_as_it_is(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    save_tekken(tmp_path)
    found = load_tokenizer(str(tmp_path), {})
    for text in VARIED:
        assert found(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]
