"""Language models: hidden states of whole, cut, padded and packed models; loading; fingerprints."""

from __future__ import annotations

import functools
import json
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, ByT5Tokenizer

from latentbank.errors import LayerNotFound, ModelError
from latentbank.models.language.model import LanguageModel, load_language_model
from tests.tiny import TEXTS, save_tiny, save_tiny_gguf, tiny_model, tiny_tokenizer

PACKING = (
    "llama", "qwen2", "qwen2-window", "qwen3", "olmo2", "gemma2", "gemma3", "mistral", "phi3", "gpt2",
    "gpt_neox", "gptj", "minicpm3", "llava", "qwen2_vl",
)  # fmt: skip
PADDING = ("bloom", "mamba")
ALL = PACKING + PADDING
PLAIN = tuple(name for name in ALL if name not in ("llava", "qwen2_vl"))
FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "norm_f")

Saved = Callable[[str], str]
Rows = tuple[Tensor, Tensor, Tensor, list[list[int]]]


def some_sentences(count: int = 12, vocab_size: int = 400, seed: int = 1) -> list[list[int]]:
    """Return sentences of 1 to 24 random ids; most share a prefix with another."""
    chance = random.Random(seed)
    sentences: list[list[int]] = [[chance.randrange(vocab_size) for _ in range(24)]]
    while len(sentences) < count:
        start = chance.choice(sentences)
        kept = start[: chance.randrange(len(start))] if chance.random() < 0.8 else []
        sentences.append(
            kept + [chance.randrange(vocab_size) for _ in range(chance.randint(1, 24 - len(kept)))]
        )
    return sentences


def packed(sentences: Sequence[Sequence[int]], padding: int = 0) -> Rows:
    """Return one row: the sentences' prefix tree, with tokens of equal depth shuffled, and padding.

    Returns ids, positions, sees and, for each sentence, the column of each of its tokens.
    """
    distinct = {tuple(s[: n + 1]) for s in sentences for n in range(len(s))}
    prefixes = sorted(distinct, key=lambda prefix: (len(prefix), hash(prefix)))
    ids = [prefix[-1] for prefix in prefixes] + [0] * padding
    positions = [len(prefix) - 1 for prefix in prefixes] + [0] * padding
    sees = torch.eye(len(ids), dtype=torch.bool)
    ancestors = [[prefix[: len(other)] == other for other in prefixes] for prefix in prefixes]
    sees[: len(prefixes), : len(prefixes)] = torch.tensor(ancestors)
    where = {prefix: column for column, prefix in enumerate(prefixes)}
    columns = [[where[tuple(s[: n + 1])] for n in range(len(s))] for s in sentences]
    return torch.tensor([ids]), torch.tensor([positions]), sees[None], columns


def assert_same(got: Tensor, expected: Tensor, far: float = 1e-4) -> None:
    """Check that all rows agree: 1 - cosine below `far`, and equal norms."""
    got, expected = got.detach().double(), expected.detach().double()
    assert got.shape == expected.shape
    assert float((1 - torch.cosine_similarity(got, expected, dim=-1)).max()) < far
    torch.testing.assert_close(got.norm(dim=-1), expected.norm(dim=-1), rtol=far**0.5, atol=1e-6)


def poison(model: LanguageModel, layer: int) -> None:
    """Make every block above `layer` and the final norm produce NaN."""
    bad = [*model._blocks[layer:], *(m for n, m in model._decoder.named_children() if n in FINAL_NORMS)]
    assert len(bad) == model.num_layers - layer + 1
    for module in bad:
        for parameter in module.parameters():
            parameter.fill_(float("nan"))


# --- the convention -------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", PLAIN)
def test_layers_follow_the_convention(architecture: str, saved: Saved) -> None:
    reference = AutoModelForCausalLM.from_pretrained(saved(architecture)).eval()
    model = load_language_model(saved(architecture))
    sentence = some_sentences(1)[0]
    theirs = reference(torch.tensor([sentence]), output_hidden_states=True).hidden_states
    ours = model.hidden_states([sentence], range(model.num_layers + 1))[0]
    if architecture == "mamba":  # transformers collects the outputs of its blocks, not the inputs
        theirs = (reference.get_input_embeddings()(torch.tensor([sentence])), *theirs[:3], theirs[4])
    assert len(theirs) == model.num_layers + 1
    for layer in range(model.num_layers):
        assert_same(ours[layer], theirs[layer][0], 1e-6)
    last = ours[model.num_layers]
    norm = next(m for n, m in reference.base_model.named_children() if n in FINAL_NORMS)
    assert_same(norm(last.clone()), theirs[model.num_layers][0], 1e-6)
    assert not torch.allclose(last, theirs[model.num_layers][0], rtol=1e-2)


@pytest.mark.parametrize(
    ("architecture", "scale"), [("llama", 1.0), ("gemma2", 32**0.5), ("gemma3", 32**0.5)]
)
def test_layer_0_is_the_embedded_text_as_it_enters_the_first_block(
    architecture: str, scale: float, saved: Saved
) -> None:
    model = load_language_model(saved(architecture))
    embedding = model._decoder.get_input_embeddings().weight
    plain = tiny_model(architecture).get_input_embeddings().weight
    state = model.hidden_states([[5, 6, 7]], [0])[0][0]
    torch.testing.assert_close(state, plain[[5, 6, 7]] * scale, rtol=1e-4, atol=1e-4)
    assert embedding.shape == (model.vocab_size, model.hidden_size)


def test_layer_0_of_gpt2_includes_its_positions(saved: Saved) -> None:
    model = load_language_model(saved("gpt2"))
    reference = tiny_model("gpt2").transformer
    expected = reference.wte.weight[[5, 6, 5]] + reference.wpe.weight[:3]
    torch.testing.assert_close(model.hidden_states([[5, 6, 5]], [0])[0][0], expected)


# --- padded and packed, each sentence is as if run alone -------------------------------------------


@pytest.mark.parametrize("architecture", ALL)
def test_a_batch_gives_what_each_sentence_gives_alone(architecture: str, saved: Saved) -> None:
    model = load_language_model(saved(architecture))
    sentences, layers = some_sentences(), [0, 2, model.num_layers]
    alone = [model.hidden_states([sentence], layers)[0] for sentence in sentences]
    right = model.hidden_states(sentences, layers)
    longest = max(map(len, sentences))
    ids, mask = torch.full((len(sentences), longest), 3), torch.zeros(len(sentences), longest)
    for row, sentence in enumerate(sentences):
        ids[row, longest - len(sentence) :] = torch.tensor(sentence)
        mask[row, longest - len(sentence) :] = 1
    left = model.hidden_states_of(ids, mask, layers)
    for row, sentence in enumerate(sentences):
        assert list(right[row]) == layers
        for layer in layers:
            assert right[row][layer].dtype == torch.float32
            assert_same(right[row][layer], alone[row][layer])
            assert_same(left[layer][row, longest - len(sentence) :], alone[row][layer])


@pytest.mark.parametrize("architecture", PACKING)
def test_a_packed_row_gives_what_each_sentence_gives_alone(architecture: str, saved: Saved) -> None:
    model = load_language_model(saved(architecture))
    assert model.packs, model.packing
    assert model.packing == "prefix-packed"
    sentences, layers = some_sentences(), [0, 2, model.num_layers]
    ids, positions, sees, columns = packed(sentences, padding=5)
    states = model.packed_hidden_states(ids, positions, sees, layers)
    assert ids.shape[1] < sum(map(len, sentences))
    for sentence, places in zip(sentences, columns, strict=True):
        alone = model.hidden_states([sentence], layers)[0]
        for layer in layers:
            assert states[layer].shape == (*ids.shape, model.hidden_size)
            assert states[layer].isfinite().all()
            assert_same(states[layer][0, places], alone[layer])


def test_several_packed_rows(saved: Saved) -> None:
    model = load_language_model(saved("gemma3"))
    rows = [packed(some_sentences(5, seed=seed)) for seed in (1, 2)]
    size = max(row[0].shape[1] for row in rows)
    parts = [
        packed(some_sentences(5, seed=seed), size - row[0].shape[1])
        for seed, row in zip((1, 2), rows, strict=True)
    ]
    states = model.packed_hidden_states(*(torch.cat([p[i] for p in parts]) for i in range(3)), [4])[4]
    for number, seed in enumerate((1, 2)):
        for sentence, places in zip(some_sentences(5, seed=seed), parts[number][3], strict=True):
            assert_same(states[number, places], model.hidden_states([sentence], [4])[0][4])


@pytest.mark.parametrize("architecture", ["mistral", "gemma3", "qwen2-window"])
def test_the_tests_windows_matter(architecture: str, saved: Saved) -> None:
    """Without the window the hidden states differ, so the tests above show that it is applied."""
    model = load_language_model(saved(architecture))
    sentence = some_sentences(1)[0]
    before = model.hidden_states([sentence], [4])[0][4]
    changed = [(sentence[0] + 1) % 400, *sentence[1:]]
    after = model.hidden_states([changed], [4])[0][4]
    if architecture == "mistral":  # four windows of five reach back 17 tokens
        assert_same(after[20:], before[20:], 1e-9)
    model._decoder.config.sliding_window = 100
    ids, positions, sees, columns = packed([sentence])
    wide = model.packed_hidden_states(ids, positions, sees, [4])[4][0, columns[0]]
    assert float((1 - torch.cosine_similarity(wide, before, dim=-1)).max()) > 1e-3


@pytest.mark.parametrize("architecture", PADDING)
def test_other_architectures_do_not_pack_and_say_why(architecture: str, saved: Saved) -> None:
    model = load_language_model(saved(architecture))
    assert not model.packs
    assert model.packing == "padded (it takes no position ids)"


def test_a_model_that_ignores_the_mask_does_not_pack(saved: Saved) -> None:
    model = load_language_model(saved("llama"))
    forward = model._decoder.forward

    def ignoring(input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, use_cache: bool) -> object:
        mask = attention_mask if attention_mask.dim() == 2 else None
        return forward(input_ids, attention_mask=mask, position_ids=position_ids, use_cache=use_cache)

    model._decoder.forward = ignoring
    assert not model.packs
    assert "differ from the plain ones" in model.packing


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3", "gpt2"])
def test_half_precision_packs(architecture: str, dtype: str, saved: Saved) -> None:
    model = load_language_model(saved(architecture), dtype=dtype)
    assert model.packs, model.packing
    ids, positions, sees, columns = packed(some_sentences(4), padding=3)
    states = model.packed_hidden_states(ids, positions, sees, [4])[4]
    assert states.dtype == getattr(torch, dtype)
    assert states.isfinite().all()
    plain = model.hidden_states(some_sentences(4), [4])
    for row, places in zip(plain, columns, strict=True):
        assert_same(states[0, places], row[4], 1e-2)


# --- only what is asked for -----------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ALL)
def test_blocks_above_the_deepest_layer_do_not_run(architecture: str, saved: Saved) -> None:
    sentences = some_sentences(3)
    whole = load_language_model(saved(architecture)).hidden_states(sentences, [0, 1, 2])
    model = load_language_model(saved(architecture))
    poison(model, 2)
    cut = model.hidden_states(sentences, [0, 1, 2])
    for a, b in zip(cut, whole, strict=True):
        for layer in (0, 1, 2):
            assert torch.equal(a[layer], b[layer])
    assert not model.hidden_states(sentences, [3])[0][3].isfinite().any()


def test_the_final_norm_does_not_run(saved: Saved) -> None:
    model = load_language_model(saved("llama"))
    poison(model, 4)
    assert model.hidden_states(some_sentences(1), [4])[0][4].isfinite().all()


@pytest.mark.parametrize("architecture", ALL)
def test_loading_up_to_a_layer_gives_the_same_from_less_memory(architecture: str, saved: Saved) -> None:
    whole = load_language_model(saved(architecture))
    part = load_language_model(saved(architecture), deepest_layer=2)
    sentences = some_sentences(4)
    for a, b in zip(
        part.hidden_states(sentences, [0, 1, 2]), whole.hidden_states(sentences, [0, 1, 2]), strict=True
    ):
        for layer in (0, 1, 2):
            assert_same(a[layer], b[layer], 1e-9)
    assert part.num_layers == whole.num_layers == 4
    assert part.packs == whole.packs
    block = sum(p.numel() for p in whole._blocks[3].parameters())
    sizes = [sum(p.numel() for p in model._decoder.parameters()) for model in (whole, part)]
    assert sizes[0] - sizes[1] == 2 * block
    assert part.fingerprint() == whole.fingerprint()


def test_layer_0_alone_keeps_one_block(saved: Saved) -> None:
    part = load_language_model(saved("qwen2-window"), deepest_layer=0)
    assert len(part._blocks) == 1
    assert part._decoder.config.layer_types == ["full_attention"]  # lists with an entry per block are cut too
    assert part.fingerprint() == load_language_model(saved("qwen2-window")).fingerprint()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_weights_above_the_deepest_layer_are_not_read(architecture: str, tmp_path: Path) -> None:
    directory = save_tiny(tmp_path, architecture)
    expected = load_language_model(str(directory)).hidden_states([[7, 8, 9]], [2])[0][2]
    weights = load_file(directory / "model.safetensors")
    early = {name: value for name, value in weights.items() if ".2." not in name and ".3." not in name}
    assert len(early) < len(weights)
    save_file(early, directory / "model.safetensors", metadata={"format": "pt"})
    part = load_language_model(str(directory), deepest_layer=2)
    assert_same(part.hidden_states([[7, 8, 9]], [2])[0][2], expected, 1e-9)
    with pytest.raises(ModelError, match=r"lacks .* weights"):
        load_language_model(str(directory))


def test_layers_the_model_does_not_have(saved: Saved) -> None:
    model = load_language_model(saved("llama"), deepest_layer=2)
    for layer in (5, -1):
        with pytest.raises(LayerNotFound, match=f"no layer {layer}.* 0 to 4"):
            model.hidden_states([[1]], [0, layer])
    with pytest.raises(LayerNotFound, match=r"Layer 3 .* is not loaded, only 0 to 2.*deepest_layer=3"):
        model.hidden_states([[1]], [3])
    row = torch.zeros(1, 1, dtype=torch.long)
    with pytest.raises(LayerNotFound):
        model.packed_hidden_states(row, row, torch.ones(1, 1, 1, dtype=torch.bool), [4])
    with pytest.raises(LayerNotFound, match=r"no layer 9.* 0 to 4"):
        load_language_model(saved("llama"), deepest_layer=9)


def test_layers_come_once_each_whatever_the_order(saved: Saved) -> None:
    model = load_language_model(saved("llama"))
    states = model.hidden_states([[5, 6]], [3, 1, 3])[0]
    assert sorted(states) == [1, 3]
    assert torch.equal(states[3], model.hidden_states([[5, 6]], [3])[0][3])
    assert model.hidden_states([[5, 6]], []) == [{}]


def test_empty_and_impossible_sentences(saved: Saved) -> None:
    model = load_language_model(saved("llama"))
    assert model.hidden_states([], [1]) == []
    empty, full = model.hidden_states([[], [5, 6]], [1])
    assert empty[1].shape == (0, model.hidden_size)
    assert_same(full[1], model.hidden_states([[5, 6]], [1])[0][1])
    assert model.hidden_states([[]], [1])[0][1].shape == (0, model.hidden_size)
    assert model.hidden_states([[5] * 128], [1])[0][1].shape[0] == model.max_length
    with pytest.raises(ModelError, match=r"129 tokens.*128 positions"):
        model.hidden_states([[5] * 129], [1])
    with pytest.raises(ModelError, match="outside the 400"):
        model.hidden_states([[400]], [1])


def test_a_full_device_is_an_error_and_no_reason_to_pad(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_language_model(saved("llama"))

    @functools.wraps(model._decoder.forward)
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model._decoder, "forward", full)
    with pytest.raises(
        ModelError, match=r"memory of cpu is too small for 3 tokens .* use bfloat16, or a smaller batch"
    ) as caught:
        model.hidden_states([[5, 6, 7]], [1])
    assert caught.value.argument == "batch"
    monkeypatch.setattr(model, "_trial", None)
    with pytest.raises(ModelError, match="too small"):
        _ = model.packs


def test_threads_may_share_a_model(saved: Saved) -> None:
    model = load_language_model(saved("llama"))
    sentences = some_sentences(8)
    expected = [model.hidden_states([s], [layer % 5])[0][layer % 5] for layer, s in enumerate(sentences)]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(10):
            layer = number % 5
            if not torch.equal(model.hidden_states([sentences[number]], [layer])[0][layer], expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- vision-language models -----------------------------------------------------------------------


@pytest.mark.parametrize(("vlm", "llm"), [("llava", "llama"), ("qwen2_vl", "qwen2")])
def test_the_language_model_inside_a_vlm_is_the_plain_one(
    vlm: str, llm: str, saved: Saved, tmp_path: Path
) -> None:
    whole = tiny_model(vlm)
    plain = tiny_model(llm, seed=5)
    plain.get_decoder().load_state_dict(whole.get_decoder().state_dict())
    plain.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    inside, alone = load_language_model(saved(vlm)), load_language_model(str(tmp_path))
    assert inside.fingerprint() == alone.fingerprint()
    assert "vision" not in " ".join(name for name, _ in inside._decoder.named_modules())
    for a, b in zip(
        inside.hidden_states(some_sentences(), [0, 4]),
        alone.hidden_states(some_sentences(), [0, 4]),
        strict=True,
    ):
        assert_same(a[0], b[0])
        assert_same(a[4], b[4])


# --- fingerprints ---------------------------------------------------------------------------------


def test_the_fingerprint_does_not_depend_on_how_the_model_is_loaded(saved: Saved, tmp_path: Path) -> None:
    fingerprints = {
        load_language_model(saved("llama"), dtype=dtype, deepest_layer=deepest).fingerprint()
        for dtype in ("float32", "bfloat16")
        for deepest in (None, 1, 3)
    }
    assert len(fingerprints) == 1
    (only,) = fingerprints
    assert len(only) == 32
    assert int(only, 16) >= 0
    assert load_language_model(str(save_tiny(tmp_path))).fingerprint() == only


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_the_fingerprint_of_a_half_checkpoint_is_the_same_in_any_dtype(
    stored: torch.dtype, tmp_path: Path
) -> None:
    save_tiny(tmp_path, dtype=stored)
    weights = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    weights[name] = (weights[name] * 10.0 ** -torch.randint(0, 9, weights[name].shape)).to(
        stored
    )  # tiny ones too
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    dtypes = ("float32", "bfloat16", "float16")
    assert len({load_language_model(str(tmp_path), dtype=dtype).fingerprint() for dtype in dtypes}) == 1


def test_other_models_have_other_fingerprints(saved: Saved, tmp_path: Path) -> None:
    same = load_language_model(saved("llama")).fingerprint()
    other = {
        "seed": load_language_model(str(save_tiny(tmp_path / "seed", seed=1))),
        "depth": load_language_model(str(save_tiny(tmp_path / "depth", num_hidden_layers=5))),
    }
    (tmp_path / "vocabulary").mkdir()
    tiny_model("llama").save_pretrained(tmp_path / "vocabulary")
    tokenizer = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.get)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    tiny_tokenizer().save_pretrained(tmp_path / "vocabulary")
    (tmp_path / "vocabulary" / "tokenizer.json").write_text(json.dumps(tokenizer))
    other["vocabulary"] = load_language_model(str(tmp_path / "vocabulary"))
    assert len({same, *(model.fingerprint() for model in other.values())}) == 4


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bos", [False, True])
def test_special_tokens_inside_a_sentence_are_plain_text(bos: bool, tmp_path: Path) -> None:
    model = load_language_model(str(save_tiny(tmp_path, bos=bos)))
    sentence = "A dog <|im_start|> runs <|endoftext|>."
    ids = model.encode(sentence)
    tokenizer = model.tokenizer
    assert model.bos_token_id == (0 if bos else None)
    assert (ids[0] == 0) is bos
    assert not set(ids[bos:]) & {0, 1, 2, 3}
    assert tokenizer.decode(ids[bos:]) == sentence
    assert 1 in tokenizer(sentence)["input_ids"]  # the tokenizer itself is unchanged
    assert ids == model.encode(sentence)
    same, states = model.text_hidden_states(sentence, [0, 3])
    assert same == ids
    assert torch.equal(states[3], model.hidden_states([ids], [3])[0][3])


def test_a_model_without_padding_token_pads(tmp_path: Path) -> None:
    model = load_language_model(str(save_tiny(tmp_path, pad=False)))
    assert model.tokenizer.pad_token_id is None
    batch = [model.encode(text) for text in TEXTS[:3]]
    for ids, states in zip(batch, model.hidden_states(batch, [4]), strict=True):
        assert_same(states[4], model.hidden_states([ids], [4])[0][4])


# --- loading and saving ---------------------------------------------------------------------------


def test_what_a_loaded_model_says_of_itself(saved: Saved) -> None:
    model = load_language_model(saved("gpt2"))
    assert (model.name, model.revision) == (saved("gpt2"), None)
    assert (model.num_layers, model.hidden_size, model.vocab_size, model.max_length) == (4, 32, 400, 128)
    assert model.device.type == "cuda" if torch.cuda.is_available() else "cpu"
    assert model.dtype == (torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    assert model.tokenizer.is_fast
    assert model.tokenizer("A dog", return_offsets_mapping=True)["offset_mapping"]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", "llava"])
def test_saving_and_loading_again(architecture: str, saved: Saved, tmp_path: Path) -> None:
    model = load_language_model(saved(architecture))
    model.save(tmp_path / "copy")
    assert list((tmp_path / "copy").glob("*.safetensors"))
    again = load_language_model(str(tmp_path / "copy"))
    assert again.fingerprint() == model.fingerprint()
    assert torch.equal(again.hidden_states([[5, 6]], [4])[0][4], model.hidden_states([[5, 6]], [4])[0][4])
    assert again.encode("Straße <|im_end|>") == model.encode("Straße <|im_end|>")
    with pytest.raises(ModelError, match="without deepest_layer"):
        load_language_model(saved(architecture), deepest_layer=1).save(tmp_path / "part")
    assert not (tmp_path / "part").exists()


def test_a_gguf_file(tmp_path: Path) -> None:
    reference = tiny_model("llama", tie_word_embeddings=True)
    path = save_tiny_gguf(tmp_path / "tiny.gguf")
    model = load_language_model(str(path))
    ids = tiny_tokenizer()(TEXTS[0])["input_ids"]
    assert model.encode(TEXTS[0]) == ids
    theirs = reference(torch.tensor([ids]), output_hidden_states=True).hidden_states
    for layer in range(4):
        assert_same(model.hidden_states([ids], [layer])[0][layer], theirs[layer][0], 1e-6)
    part = load_language_model(str(path), deepest_layer=2)
    assert len(part._blocks) == 2
    assert_same(part.hidden_states([ids], [2])[0][2], theirs[2][0], 1e-6)
    assert part.fingerprint() == model.fingerprint()
    model.save(tmp_path / "copy")
    copy = load_language_model(str(tmp_path / "copy"))
    assert copy.fingerprint() == model.fingerprint()
    assert copy.encode(TEXTS[0]) == ids
    assert "gguf" not in (tmp_path / "copy" / "config.json").read_text()


def message(call: Callable[[], object], error: type[Exception] = ModelError) -> str:
    """Return the message of the error that `call` raises, which must be one line."""
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


def test_names_that_lead_to_no_model(tmp_path: Path) -> None:
    assert "cannot be reached" in message(lambda: load_language_model("nobody/has-this-model"))
    assert "no model at" in message(lambda: load_language_model(str(tmp_path / "nowhere" / "at" / "all")))
    assert "no model at" in message(lambda: load_language_model("missing.gguf"))
    assert "is empty" in message(lambda: load_language_model(""))
    assert "no config.json" in message(lambda: load_language_model(str(tmp_path)))
    text = tmp_path / "model.txt"
    text.write_text("hello")
    assert "not a .gguf" in message(lambda: load_language_model(str(text)))
    fake = tmp_path / "fake.gguf"
    fake.write_bytes(b"not a GGUF at all" * 10)
    assert "cannot be loaded" in message(lambda: load_language_model(str(fake)))


def test_broken_directories(tmp_path: Path) -> None:
    broken = save_tiny(tmp_path / "weights")
    data = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert "damaged or incomplete" in message(lambda: load_language_model(str(broken)))
    (broken / "model.safetensors").unlink()
    assert str(broken) in message(lambda: load_language_model(str(broken)))
    (broken / "config.json").write_text("{")
    assert "is damaged" in message(lambda: load_language_model(str(broken)))
    strange = save_tiny(tmp_path / "strange")
    (strange / "config.json").write_text(json.dumps({"model_type": "no-such-architecture"}))
    assert "does not know" in message(lambda: load_language_model(str(strange)))


def test_models_that_are_not_decoders(saved: Saved) -> None:
    assert "depend on later ones" in message(lambda: load_language_model(saved("bert")))
    assert "encoder-decoder" in message(lambda: load_language_model(saved("t5")))


def test_a_model_without_a_fast_tokenizer(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    assert str(tmp_path) in message(lambda: load_language_model(str(tmp_path)))
    ByT5Tokenizer().save_pretrained(tmp_path)
    assert "no fast tokenizer" in message(lambda: load_language_model(str(tmp_path)))


def test_code_that_comes_with_a_model_runs_only_when_trusted(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "configuration_own.py").write_text(
        "from pathlib import Path\nfrom transformers import LlamaConfig\n"
        f"Path({str(ran)!r}).touch()\n\nclass OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
    )
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="comes with code of its own") as caught:
        load_language_model(str(tmp_path))
    assert caught.value.argument == "trust_remote_code"
    assert not ran.exists()


def test_devices_and_dtypes_that_do_not_exist(saved: Saved) -> None:
    assert "not a device" in message(lambda: load_language_model(saved("llama"), device="gpu!"))
    assert "not a dtype" in message(lambda: load_language_model(saved("llama"), dtype="int8"))
    assert "not a dtype" in message(lambda: load_language_model(saved("llama"), dtype=torch.int8))
    if not torch.cuda.is_available():
        assert "no GPU" in message(lambda: load_language_model(saved("llama"), device="cuda"))


# --- real weights ---------------------------------------------------------------------------------


def test_smollm2_packed_and_padded_gives_what_each_sentence_gives_alone(smollm2: LanguageModel) -> None:
    assert (smollm2.num_layers, smollm2.hidden_size, smollm2.vocab_size) == (30, 576, 49152)
    assert smollm2.packs
    layers = [0, 4, 8, 16]
    sentences = [smollm2.encode(text) for text in TEXTS]
    padded = smollm2.hidden_states(sentences, layers)
    ids, positions, sees, columns = packed(sentences, padding=2)
    states = smollm2.packed_hidden_states(ids, positions, sees, layers)
    for sentence, in_batch, places in zip(sentences, padded, columns, strict=True):
        alone = smollm2.hidden_states([sentence], layers)[0]
        for layer in layers:
            assert_same(in_batch[layer], alone[layer])
            assert_same(states[layer][0, places], alone[layer])


def test_smollm2_reads_text(smollm2: LanguageModel) -> None:
    text = "A dog <|im_start|> runs."
    ids, states = smollm2.text_hidden_states(text, [16])
    assert smollm2.tokenizer.decode(ids) == text
    assert 1 not in ids
    first, rest = states[16][0].norm(), states[16][1:].norm(dim=-1)
    assert first > 20 * rest.max()  # the attention sink on the first token
