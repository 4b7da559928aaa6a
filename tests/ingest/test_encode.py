"""The encoder: packed or padded, in batches of any size, it gives every context the state of its sentence run alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentbank.bank.opening import create_bank
from latentbank.bank.points import Payload, context_id
from latentbank.bank.where import Where
from latentbank.errors import ModelError
from latentbank.ingest import encode as encoding
from latentbank.ingest.corpus import corpus_from_sentences
from latentbank.ingest.encode import LOOK_AHEAD, ROW, Encoded, context_ids, encode, fill_rows
from latentbank.ingest.plan import Plan, PlannedSentence, PlanSettings
from latentbank.ingest.planning import make_plan
from latentbank.models.language.model import LanguageModel, load_language_model
from tests.ingest.conftest import SCRIPTS, Tiny
from tests.tiny import TEXTS

PACKED = ("llama", "qwen2-window", "qwen3", "gemma2", "gemma3", "mistral", "phi3", "gpt2", "gpt_neox")
PADDED = ("bloom", "mamba")

# Many have a common beginning, some are the beginning of another, and their lengths differ.
SENTENCES = (
    *TEXTS,
    *SCRIPTS,
    *(f"A dog runs over {end}" for end in ("it.", "the hill", "the green hills of home", "there")),
    "A dog runs",
    " ".join(TEXTS[:3]),
)

States = dict[int, dict[str, npt.NDArray[np.float32]]]


def plan_of(
    model: LanguageModel, directory: Path, sentences: Sequence[str] = SENTENCES, **choice: Any
) -> Plan:
    return make_plan(corpus_from_sentences("c", sentences), model, directory, PlanSettings(**choice))


def gathered(batches: Iterable[Encoded]) -> tuple[dict[str, Payload], States, int]:
    """Return payloads by id, states by layer and id, and tokens computed; check that ids are unique."""
    payloads: dict[str, Payload] = {}
    states: States = {}
    computed = 0
    for encoded in batches:
        assert not payloads.keys() & set(encoded.ids)
        assert len(set(encoded.ids)) == len(encoded.ids)
        payloads |= zip(encoded.ids, encoded.payloads, strict=True)
        for layer, rows in encoded.states.items():
            assert rows.dtype == np.float32
            states.setdefault(layer, {}).update(zip(encoded.ids, rows, strict=True))
        computed += encoded.computed
    return payloads, states, computed


def distance(first: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """1 - cosine."""
    a, b = first.astype(np.float64), other.astype(np.float64)
    return float(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def check_alone(
    model: LanguageModel, plan: Plan, batches: Iterable[Encoded], layers: Sequence[int]
) -> tuple[dict[str, Payload], States]:
    """Check that every planned context is there, equals that of its sentence run alone, and has the right payload."""
    payloads, states, _ = gathered(batches)
    assert set(states) == set(layers)
    tokenizer: Any = model.tokenizer
    for planned in plan.read():
        whole = tokenizer.encode(planned.caption, split_special_tokens=True)
        assert whole[: len(planned.token_ids)] == planned.token_ids
        alone = model.hidden_states([whole], layers)[0]
        for i, position in enumerate(planned.positions):
            id_ = context_id("c", whole[: position + 1])
            for layer in layers:
                expected = alone[layer][position].float().numpy()
                assert distance(states[layer][id_], expected) < 1e-4
                np.testing.assert_allclose(
                    np.linalg.norm(states[layer][id_]), np.linalg.norm(expected), rtol=1e-3
                )
            assert payloads[id_] == Payload(
                corpus="c",
                sentence=planned.sentence,
                position=position,
                token_id=whole[position],
                token=tokenizer.decode([whole[position]]),
                word=planned.words[i],
                caption=planned.caption,
                start=planned.starts[i],
                end=planned.ends[i],
            )
    assert len(payloads) == plan.contexts
    assert all(len(rows) == plan.contexts for rows in states.values())
    return payloads, states


# -- states --------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [*PACKED, *PADDED])
def test_a_context_is_what_its_sentence_alone_gives(architecture: str, tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(architecture)
    assert model.packs == (architecture in PACKED)
    plan = plan_of(model, tmp_path)
    layers = list(range(model.num_layers + 1))
    check_alone(model, plan, encode(model, "c", plan.read(), layers), layers)


def test_with_a_bos_and_after_leaving_out_two_tokens(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(tokenizer="bos")
    plan = plan_of(model, tmp_path, skip=2, contexts_per_token=3)
    check_alone(model, plan, encode(model, "c", plan.read(), [1, 4]), [1, 4])


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt2"])
def test_packed_is_padded(architecture: str, tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(architecture)
    plan = plan_of(model, tmp_path)
    payloads, packed, few = gathered(encode(model, "c", plan.read(), [0, 2, 4], packed=True))
    others, padded, many = gathered(encode(model, "c", plan.read(), [0, 2, 4], packed=False))
    assert payloads == others
    for layer in (0, 2, 4):
        for id_, state in packed[layer].items():
            assert distance(state, padded[layer][id_]) < 1e-5
    assert plan.prefixes <= few < many == sum(len(sentence.token_ids) for sentence in plan.read())


@pytest.mark.parametrize("packed", [True, False])
def test_batches_of_any_size_give_the_same(packed: bool, tiny: Tiny, tmp_path: Path) -> None:
    model = tiny()
    plan = plan_of(model, tmp_path)
    payloads, states, _ = gathered(encode(model, "c", plan.read(), [3], packed=packed))
    for size in (1, 7, 40, 100_000):
        batches = list(encode(model, "c", plan.read(), [3], batch=size, packed=packed))
        assert all(
            encoded.computed <= size or len({p["sentence"] for p in encoded.payloads}) == 1
            for encoded in batches
        )
        others, again, _ = gathered(batches)
        assert others == payloads
        assert max(distance(state, again[3][id_]) for id_, state in states[3].items()) < 1e-5
    assert len(batches) == 1


def test_a_batch_is_no_wider_than_asked_for(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    plan = plan_of(model, tmp_path)
    shapes: list[tuple[int, ...]] = []
    run = model._run

    def spy(inputs: dict[str, Any], layers: list[int]) -> Any:
        shapes.append(tuple(inputs["input_ids"].shape))
        return run(inputs, layers)

    assert model.packs  # tries packing now, so its forward passes are not counted
    monkeypatch.setattr(model, "_run", spy)
    longest = max(len(sentence.token_ids) for sentence in plan.read())
    for packed in (True, False):
        shapes.clear()
        gathered(encode(model, "c", plan.read(), [1], batch=150, packed=packed))
        assert len(shapes) > 3
        assert all(rows * width <= 150 or (rows == 1 and width <= longest) for rows, width in shapes)


def test_only_some_contexts_of_a_sentence(tiny: Tiny, tmp_path: Path) -> None:
    """When a job continues, the remaining contexts get the same states, and no token is computed without need."""
    model = tiny()
    plan = plan_of(model, tmp_path)
    payloads, states, _ = gathered(encode(model, "c", plan.read(), [2]))
    some = [
        sentence.only(range(0, len(sentence.positions), 3))
        for sentence in plan.read()
        if sentence.sentence % 2
    ]
    left, again, computed = gathered(encode(model, "c", some, [2]))
    assert set(left) == {id_ for sentence in some for id_ in context_ids("c", sentence)}
    assert all(payloads[id_] == payload for id_, payload in left.items())
    assert max(distance(state, states[2][id_]) for id_, state in again[2].items()) < 1e-5
    assert computed <= sum(len(sentence.token_ids) for sentence in some)


def test_passes_that_are_started_ahead_change_nothing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the next pass is started before the hidden states of the last one are taken."""
    model = tiny()
    plan = plan_of(model, tmp_path)
    steps: list[str] = []
    run = model.packed_hidden_states
    monkeypatch.setattr(model, "packed_hidden_states", lambda *given: steps.append("start") or run(*given))

    def encoded() -> Iterator[Encoded]:
        for batch in encode(model, "c", plan.read(), [1, 3], batch=64, packed=True):
            steps.append("taken")
            yield batch

    plain = gathered(encoded())
    passes = len(steps) // 2
    assert steps == ["start", "taken"] * passes
    assert passes > 2
    steps.clear()
    monkeypatch.setitem(encoding.AHEAD, "cpu", 1)
    payloads, states, computed = gathered(encoded())
    assert steps == ["start", *["start", "taken"] * (passes - 1), "taken"]
    assert (payloads, computed) == (plain[0], plain[2])
    for layer, rows in states.items():
        for id_, row in rows.items():
            np.testing.assert_array_equal(row, plain[1][layer][id_])


def test_nothing_to_encode(tiny: Tiny) -> None:
    for packed in (True, False):
        assert list(encode(tiny(), "c", [], [1], packed=packed)) == []


def test_tokens_keep_their_leading_space(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(tokenizer="metaspace")
    tokenizer: Any = model.tokenizer
    sentences = ["The dog and the cat run.", "A woman reads the news"]
    plan = plan_of(model, tmp_path, sentences, contexts_per_token=100)
    payloads, _, _ = gathered(encode(model, "c", plan.read(), [0]))
    assert any(tokenizer.decode([p["token_id"]]) != p["token"] for p in payloads.values())
    for payload in payloads.values():
        assert payload["token"] == tokenizer.convert_ids_to_tokens(payload["token_id"]).replace("▁", " ")


# -- rows ----------------------------------------------------------------------------------------


def sentence_of(token_ids: Sequence[int], number: int = 0) -> PlannedSentence:
    positions = list(range(1, len(token_ids), 2)) or [0]
    blank = [0] * len(positions)
    return PlannedSentence(number, "", list(token_ids), positions, blank, blank, [""] * len(positions))


token_lists = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), max_size=25)


@settings(max_examples=200, deadline=None)
@given(token_lists, st.integers(1, 20), st.booleans())
def test_a_row_has_every_prefix_once_and_no_other(tokens: list[list[int]], size: int, ordered: bool) -> None:
    sentences = [sentence_of(ids, i) for i, ids in enumerate(sorted(tokens) if ordered else tokens)]
    rows = list(fill_rows(sentences, size))
    packed = [sentence for row in rows for sentence, _ in row.planned]
    assert sorted(packed, key=lambda sentence: sentence.sentence) == sentences
    for row in rows:
        nodes = len(row.tokens)
        assert 0 < nodes <= size or len(row.planned) == 1
        attended = row.attention()
        prefixes = []
        for node in range(nodes):
            path = np.flatnonzero(attended[node]).tolist()
            assert path[-1] == node
            assert [row.depths[i] for i in path] == list(range(len(path)))
            prefixes.append(tuple(row.tokens[i] for i in path))
        assert len(set(prefixes)) == nodes
        needed = {tuple(s.token_ids[:n]) for s, _ in row.planned for n in range(1, len(s.token_ids) + 1)}
        assert set(prefixes) == needed
        for sentence, found in row.planned:
            expected = [tuple(sentence.token_ids[: position + 1]) for position in sentence.positions]
            assert [prefixes[node] for node in found] == expected
    for row, following in pairwise(rows):  # the next sentence did not fit
        assert len(row.tokens) + row.new_nodes(following.planned[0][0]) > size


def test_a_sentence_longer_than_a_row_has_its_own() -> None:
    long = sentence_of(range(300))
    rows = list(fill_rows([sentence_of([400, 1]), long, sentence_of(range(290)), sentence_of([401, 1])]))
    assert [len(row.tokens) for row in rows] == [4, 300, 290]
    assert ROW < 290


@pytest.mark.parametrize("size", [8, 50])
def test_sentences_are_packed_while_they_come(size: int) -> None:
    """Only a few sentences are read before a row is returned, however many there are."""
    read = 0

    def endless() -> Iterator[PlannedSentence]:
        nonlocal read
        while True:
            read += 1
            yield sentence_of([read, read + 1])

    rows = fill_rows(endless(), size)
    for given_out in range(1, 10):
        next(rows)
        assert read <= given_out * size / 2 + LOOK_AHEAD


# -- what is not finite --------------------------------------------------------------------------


def poisoned(directory: Path, layer: int, value: float, dtype: str = "float32") -> LanguageModel:
    """Return a new model whose hidden states from layer `layer` on contain `value`."""
    model = load_language_model(str(directory), device="cpu", dtype=dtype)
    with torch.no_grad():
        weight = model._embedding if layer == 0 else model._blocks[layer - 1].post_attention_layernorm.weight
        weight.fill_(value)
    return model


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("layer", "value"), [(3, float("inf")), (2, float("nan")), (0, float("inf"))])
def test_what_is_not_finite_is_named(
    packed: bool, layer: int, value: float, tiny_dir: Any, tmp_path: Path
) -> None:
    model = poisoned(tiny_dir(), layer, value)
    plan = plan_of(model, tmp_path, ["The old fisherman mends his nets."])
    with pytest.raises(ModelError) as caught:
        list(encode(model, "c", plan.read(), [0, 1, 2, 3, 4], packed=packed))
    message = str(caught.value)
    assert f"not finite at layer {layer}, sentence 0 ('The old fisherman mends his nets.')" in message
    assert "in float32" in message
    if layer:  # the layers below are not affected
        gathered(encode(model, "c", plan.read(), range(layer), packed=packed))


@pytest.mark.parametrize("packed", [True, False])
def test_of_the_sentences_in_a_row_the_one_that_overflows_is_named(
    packed: bool, tiny_dir: Any, tmp_path: Path
) -> None:
    """At layer 2, the value has spread to all sentences of the row."""
    model = load_language_model(str(tiny_dir()), device="cpu", dtype="float16")
    plan = plan_of(model, tmp_path, [*TEXTS, "A dog & a cat."])
    with torch.no_grad():
        model._embedding[model.encode("&")] = float("inf")
    with pytest.raises(ModelError) as caught:
        gathered(encode(model, "c", plan.read(), [2], packed=packed))
    assert f"not finite at layer 2, sentence {len(TEXTS)} ('A dog & a cat.')" in str(caught.value)
    assert str(caught.value).endswith("in float16; load the LLM in bfloat16 or float32.")


def test_a_hidden_state_of_zeros_is_named(tiny_dir: Any, tmp_path: Path) -> None:
    model = poisoned(tiny_dir(), 0, 0.0)
    plan = plan_of(model, tmp_path, ["The old fisherman mends his nets."])
    with pytest.raises(ModelError, match=r"zero, without a direction, at layer 0, sentence 0 \('The old"):
        list(encode(model, "c", plan.read(), [0]))


# -- SmolLM2's real weights ----------------------------------------------------------------------


def test_smollm2_on_real_sentences(smollm2: LanguageModel, concepts: list[str], tmp_path: Path) -> None:
    """The packed states equal those of each sentence alone, and a bank of the contexts finds each of them."""
    assert smollm2.packs
    sentences = [*concepts[:20], *concepts[50_000:50_020]]
    layers = [0, 8, 16]
    plan = plan_of(smollm2, tmp_path / "plan", sentences)
    batches = list(encode(smollm2, "c", plan.read(), layers))
    assert sum(encoded.computed for encoded in batches) < 1.1 * plan.prefixes
    payloads, states = check_alone(smollm2, plan, batches, layers)
    with create_bank(
        "real",
        model="smollm2",
        fingerprint=smollm2.fingerprint(),
        layers=layers,
        num_layers=smollm2.num_layers,
        hidden_size=smollm2.hidden_size,
        data_dir=tmp_path,
        url="",
    ) as bank:
        for encoded in batches:
            for layer in layers:
                bank.add(layer, encoded.ids, encoded.states[layer], encoded.payloads)
        bank.commit()
        for layer in layers:
            bank.store.index(layer)
        sampled = list(payloads)[::9]
        for layer in (8, 16):
            queries = np.stack([states[layer][id_] for id_ in sampled])
            for id_, (first, *others) in zip(sampled, bank.search(queries, layer, top_k=4), strict=True):
                assert first.id == id_
                assert first.cosine > 0.999
                assert all(other.cosine < first.cosine for other in others)
        # A word's nearest context in another sentence is mostly the same word.
        same = total = 0
        for id_ in sampled:
            payload = payloads[id_]
            if sum(p["token_id"] == payload["token_id"] for p in payloads.values()) < 2:
                continue
            elsewhere = ~Where(sentence=payload["sentence"])
            ((nearest,),) = bank.search(states[8][id_][None], 8, top_k=1, where=elsewhere)
            same += nearest.token.strip().lower() == payload["token"].strip().lower()
            total += 1
        assert total > 20
        assert same / total > 0.6
