"""Plans: which tokens become contexts, their spans in the sentences, and how a plan is stored."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import resource
import signal
import struct
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from latentbank.errors import CorpusError, LatentBankError, ModelError
from latentbank.identity import Identity
from latentbank.ingest.corpus import corpus_from_sentences
from latentbank.ingest.plan import Plan, PlannedSentence, PlanSettings, load_plan, same_request
from latentbank.ingest.planning import content_hash, make_plan
from latentbank.models.language.model import LanguageModel, load_language_model
from tests.ingest.conftest import SCRIPTS, Generated, Tiny
from tests.tiny import TEXTS

_BYTES = {character: byte for byte, character in bytes_to_unicode().items()}


class Stop:
    """Progress that interrupts at its first call."""

    def update(self, done: float, total: float | None = None) -> None:
        raise KeyboardInterrupt


def plan_of(sentences: Sequence[str], model: LanguageModel, directory: Path, **choice: Any) -> Plan:
    return make_plan(corpus_from_sentences("c", sentences), model, directory, PlanSettings(**choice))


def prefixes(planned: list[PlannedSentence]) -> list[tuple[int, int, tuple[int, ...]]]:
    """Return sentence, position and prefix of every context, in corpus order."""
    found = [
        (row.sentence, position, tuple(row.token_ids[: position + 1]))
        for row in planned
        for position in row.positions
    ]
    return sorted(found)


# -- the rules -----------------------------------------------------------------------------------


def by_the_rules(
    sentences: Sequence[str], model: LanguageModel, choice: PlanSettings
) -> tuple[list[tuple[int, int, tuple[int, ...]]], int, int]:
    """Return contexts, tokens and number of truncated sentences, by a second, slow implementation of the rules."""
    tokenizer: Any = model.tokenizer
    special = set(tokenizer.all_special_ids)
    bos = [tokenizer.bos_token_id] if choice.bos == "always" and tokenizer.bos_token_id is not None else []
    contexts, found, per_token, tokens, truncated = [], set(), Counter[int](), 0, 0
    streams = defaultdict[tuple[str, bool], list[tuple[bytes, tuple[int, int, tuple[int, ...]]]]](list)
    for number, sentence in enumerate(sentences):
        if bos:
            ids = bos + tokenizer.encode(sentence, add_special_tokens=False, split_special_tokens=True)
        else:
            ids = tokenizer.encode(sentence, split_special_tokens=True)
        real = [position for position, token in enumerate(ids) if token not in special]
        kept = [position for position in real if position < min(choice.max_tokens, model.max_length)]
        tokens += len(kept)
        truncated += kept != real
        for position in kept[choice.skip :]:
            prefix = tuple(ids[: position + 1])
            if position < choice.first_position or prefix in found:
                continue
            if choice.sampling == "reservoir":
                stream = (tokenizer.decode([ids[position]]), position >= choice.split_position)
                streams[stream].append((random_number(choice.seed, prefix), (number, position, prefix)))
            elif per_token[ids[position]] == choice.contexts_per_token:
                continue
            else:
                contexts.append((number, position, prefix))
            found.add(prefix)
            per_token[ids[position]] += 1
    for offered in streams.values():
        contexts += [context for _, context in sorted(offered)[: choice.contexts_per_token]]
    return sorted(contexts), tokens, truncated


def random_number(seed: int, prefix: tuple[int, ...]) -> bytes:
    """Return what decides whether a prefix stays in a sample: blake2b of the seed's name and the ids, as documented."""
    name = f"reservoir {seed}".encode()
    data = struct.pack("<I", len(name)) + name + struct.pack(f"<{len(prefix)}I", *prefix)
    return hashlib.blake2b(data, digest_size=16).digest()


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    sentences=st.lists(st.text("abé <👩", min_size=1, max_size=14).filter(str.strip), min_size=1, max_size=8),
    kind=st.sampled_from(["plain", "bos", "metaspace"]),
    choice=st.builds(
        PlanSettings,
        bos=st.sampled_from(["tokenizer", "always"]),
        skip=st.sampled_from([1, 0, 2]),
        contexts_per_token=st.sampled_from([1, 2, 3, 50]),
        max_tokens=st.sampled_from([512, 7, 3]),
        first_position=st.sampled_from([0, 2]),
    )
    | st.builds(
        PlanSettings,
        bos=st.sampled_from(["tokenizer", "always"]),
        skip=st.sampled_from([0, 1]),
        contexts_per_token=st.sampled_from([1, 2, 3]),
        sampling=st.just("reservoir"),
        seed=st.sampled_from([0, 7]),
        first_position=st.sampled_from([0, 2]),
        split_position=st.sampled_from([0, 4]),
    ),
)
# The third "a" is the last context that this token id may have, so the fourth is left out.
@example(sentences=["aaaa"], kind="plain", choice=PlanSettings(contexts_per_token=2))
@example(sentences=["a b", "a b", "a b a"], kind="bos", choice=PlanSettings())
@example(sentences=["a"], kind="metaspace", choice=PlanSettings(skip=0, max_tokens=1))
def test_contexts_are_chosen_by_the_rules(
    sentences: list[str], kind: str, choice: PlanSettings, tiny: Tiny, tmp_path: Path
) -> None:
    model = tiny(tokenizer=kind)
    sentences = [sentence.strip() for sentence in sentences]
    contexts, tokens, truncated = by_the_rules(sentences, model, choice)
    if not contexts:
        earlier = load_plan(tmp_path)
        with pytest.raises(CorpusError, match="gives no context"):
            plan_of(sentences, model, tmp_path, **asdict(choice))
        assert load_plan(tmp_path) == earlier
        return
    plan = plan_of(sentences, model, tmp_path, **asdict(choice))
    planned = list(plan.read())
    assert prefixes(planned) == contexts
    counted = (plan.sentences, plan.tokens, plan.truncated, plan.contexts, plan.planned_sentences)
    assert counted == (len(sentences), tokens, truncated, len(contexts), len({c[0] for c in contexts}))
    assert plan.caption_bytes == sum(len(sentences[number].encode()) for number, _, _ in contexts)
    for row in planned:
        assert row.caption == sentences[row.sentence]
        assert len(row.token_ids) == row.positions[-1] + 1  # a sentence counts up to its last planned token
    heads = [(row.token_ids[:12], row.sentence) for row in planned]
    assert heads == sorted(heads)
    needed = [tuple(row.token_ids[:n]) for row in planned for n in range(1, len(row.token_ids) + 1)]
    distinct, long = set(needed), [prefix for prefix in needed if len(prefix) > 12]
    # Sentences are sorted by their first 12 tokens, so only longer prefixes can be computed twice.
    assert len(distinct) <= plan.prefixes <= len(distinct) + len(long) - len(set(long))


def test_the_first_real_token_and_special_tokens_are_no_contexts(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(tokenizer="metaspace")
    (planned,) = plan_of(["A dog runs."], model, tmp_path).read()
    ids = model.encode("A dog runs.")
    assert [ids[0], ids[-1]] == [1, 2]  # <s> and </s>
    assert planned.positions == list(range(2, len(ids) - 1))
    assert planned.token_ids == ids[:-1]


def test_an_unknown_character_is_no_context(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(tokenizer="metaspace")
    ids = model.encode("A dog ⠿ runs")
    assert 0 in ids  # <unk>
    (planned,) = plan_of(["A dog ⠿ runs"], model, tmp_path).read()
    assert set(planned.positions) == {i for i, token in enumerate(ids) if token > 2} - {1}
    assert 0 in planned.token_ids  # the LLM still attends to it


def test_bos_always_takes_the_place_of_the_tokenizers_special_tokens(tiny: Tiny, tmp_path: Path) -> None:
    for kind, expected in (("bos", [0]), ("metaspace", [1]), ("plain", [])):
        model = tiny(tokenizer=kind)
        tokenizer: Any = model.tokenizer
        (planned,) = plan_of([TEXTS[0]], model, tmp_path, bos="always", skip=0).read()
        plain = tokenizer.encode(TEXTS[0], add_special_tokens=False)
        assert planned.token_ids == expected + plain
        assert planned.positions == list(range(len(expected), len(expected) + len(plain)))


def test_the_models_positions_cut_a_sentence(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny()
    assert model.max_length == 128
    plan = plan_of([" ".join(["dog"] * 300), TEXTS[0]], model, tmp_path, contexts_per_token=10**6)
    assert plan.truncated == 1
    assert max(len(row.token_ids) for row in plan.read()) == 128
    assert plan.tokens == 128 + len(model.encode(TEXTS[0]))


def test_losing_only_an_end_token_is_no_truncation(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(tokenizer="metaspace")
    length = len(model.encode(TEXTS[0]))
    assert plan_of([TEXTS[0]], model, tmp_path, max_tokens=length - 1).truncated == 0
    assert plan_of([TEXTS[0]], model, tmp_path, max_tokens=length - 2).truncated == 1


def test_places_are_given_in_corpus_order_over_batches(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny()
    sentences = [f"dog {i} cat" for i in range(3000)]  # tokenized 1024 at a time
    cat = model.encode("dog 0 cat")[-1]
    plan = plan_of(sentences, model, tmp_path, contexts_per_token=1500)
    holders = sorted(row.sentence for row in plan.read() for p in row.positions if row.token_ids[p] == cat)
    assert holders == list(range(1500))


def test_every_prefix_shorter_than_the_sort_key_counts_once(
    tiny: Tiny, tmp_path: Path, concepts: list[str]
) -> None:
    model = tiny()
    sentences = [sentence[:40] for sentence in concepts[:300]]
    plan = plan_of(sentences, model, tmp_path, max_tokens=12)
    distinct = {tuple(s.token_ids[:n]) for s in plan.read() for n in range(1, len(s.token_ids) + 1)}
    assert plan.prefixes == len(distinct)


# -- spans and words -----------------------------------------------------------------------------


def byte_spans(caption: str, tokens: list[str]) -> list[tuple[int, int]]:
    """Return the characters that each token of a byte-level tokenizer has bytes of, stripped of white space."""
    owners = [i for i, character in enumerate(caption) for _ in character.encode()]
    assert bytes(_BYTES[c] for token in tokens for c in token) == caption.encode()
    spans, at = [], 0
    for token in tokens:
        start, end = owners[at], owners[at + len(token) - 1] + 1
        at += len(token)
        if caption[start:end].strip():
            while caption[start].isspace():
                start += 1
            while caption[end - 1].isspace():
                end -= 1
        spans.append((start, end))
    return spans


def check_byte_level(model: LanguageModel, captions: Sequence[str], directory: Path) -> None:
    tokenizer: Any = model.tokenizer
    plan = plan_of(captions, model, directory, skip=0, contexts_per_token=10**6)
    for row in plan.read():
        ids = tokenizer.encode(row.caption, add_special_tokens=False, split_special_tokens=True)
        lead = len(row.token_ids) - len(ids)
        assert row.token_ids[lead:] == ids
        spans = byte_spans(row.caption, tokenizer.convert_ids_to_tokens(ids))
        found = list(zip(row.starts, row.ends, strict=True))
        assert found == [spans[position - lead] for position in row.positions]
        for position, (start, end) in zip(row.positions, found, strict=True):
            text = tokenizer.decode([row.token_ids[position]])
            if "�" not in text:
                assert row.caption[start:end] == (text.strip() or text)


@pytest.mark.parametrize("kind", ["plain", "bos"])  # with and without trimmed spans
def test_spans_of_byte_level_tokens(kind: str, tiny: Tiny, tmp_path: Path) -> None:
    check_byte_level(tiny(tokenizer=kind), [*SCRIPTS, *TEXTS], tmp_path)


def test_spans_of_smollm2s_tokens(smollm2: LanguageModel, concepts: list[str], tmp_path: Path) -> None:
    check_byte_level(smollm2, [*SCRIPTS, *TEXTS, *concepts[::1000]], tmp_path)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    caption=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
    .map(str.strip)
    .filter(bool)
)
def test_spans_of_any_text(caption: str, tiny: Tiny, tmp_path: Path) -> None:
    if "\0" not in caption:
        check_byte_level(tiny(), [caption], tmp_path)


def test_spans_of_metaspace_tokens(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(tokenizer="metaspace")
    tokenizer: Any = model.tokenizer
    plan = plan_of([*SCRIPTS, *TEXTS], model, tmp_path, contexts_per_token=10**6)
    checked = 0
    for row in plan.read():
        for position, start, end in zip(row.positions, row.starts, row.ends, strict=True):
            text = tokenizer.convert_ids_to_tokens(row.token_ids[position]).replace("▁", " ")
            span = row.caption[start:end]
            assert span == text.strip() or (span.isspace() and text.isspace())
            checked += 1
    assert checked == plan.contexts > 200


def test_a_special_tokens_name_in_a_sentence_is_text(
    tiny: Tiny, smollm2: LanguageModel, tmp_path: Path
) -> None:
    sentence = "Say <|im_end|> and <|endoftext|> aloud"
    for model, lead in ((tiny(), 0), (tiny(tokenizer="bos"), 1), (smollm2, 0)):
        (planned,) = plan_of([sentence], model, tmp_path, contexts_per_token=100).read()
        assert not set(model.tokenizer.all_special_ids) & set(planned.token_ids[lead:])
        spans = zip(planned.starts, planned.ends, strict=True)
        cut = "".join(sentence[start:end] for start, end in spans).replace(" ", "")
        assert cut.endswith("<|im_end|>and<|endoftext|>aloud")


def test_caption_and_words(smollm2: LanguageModel, tmp_path: Path) -> None:
    caption = "The cat's bowl is lukewarmish."
    (planned,) = plan_of([f"  {caption}\n"], smollm2, tmp_path).read()
    assert (planned.sentence, planned.caption) == (0, caption)
    cut = [caption[start:end] for start, end in zip(planned.starts, planned.ends, strict=True)]
    assert cut == ["cat", "'s", "bowl", "is", "luke", "warm", "ish", "."]
    assert planned.words == ["cat's", "cat's", "bowl", "is", *["lukewarmish"] * 3, "."]


def test_only_keeps_the_requested_tokens() -> None:
    row = PlannedSentence(7, "a b c", [5, 6, 7], [0, 1, 2], [0, 2, 4], [1, 3, 5], ["a", "b", "c"])
    assert row.only([0, 1, 2]) == row
    assert row.only([0, 1]) == PlannedSentence(7, "a b c", [5, 6], [0, 1], [0, 2], [1, 3], ["a", "b"])
    assert row.only([1]) == PlannedSentence(7, "a b c", [5, 6], [1], [2], [3], ["b"])


# -- storing a plan ------------------------------------------------------------------------------


def test_a_plan_is_read_back(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny()
    plan = plan_of([*TEXTS, " ", *SCRIPTS], model, tmp_path / "new" / "folder", skip=2)
    loaded = load_plan(tmp_path / "new" / "folder")
    assert loaded == plan
    assert plan.blank == 1
    assert plan.content_hash == content_hash(corpus_from_sentences("other", [*TEXTS, *SCRIPTS]))
    assert plan.content_hash != content_hash(corpus_from_sentences("c", [*SCRIPTS, *TEXTS]))
    assert (plan.model, plan.revision, plan.fingerprint) == (model.name, None, model.fingerprint())
    assert sorted(path.name for path in plan.directory.iterdir()) == ["plan.json", plan.file]
    assert same_request(plan, "c", PlanSettings(skip=2), model.identity())
    assert not same_request(plan, "d", PlanSettings(skip=2), model.identity())
    assert not same_request(plan, "c", PlanSettings(), model.identity())
    assert not same_request(plan, "c", PlanSettings(skip=2), Identity("another"))


def test_the_content_hash_tells_where_sentences_end() -> None:
    hashes = {content_hash(corpus_from_sentences("c", s)) for s in (["ab", "c"], ["a", "bc"], ["abc"])}
    assert len(hashes) == 3


def test_planning_again_gives_the_same_file(tiny: Tiny, tmp_path: Path) -> None:
    first = plan_of(TEXTS, tiny(), tmp_path / "one")
    other = plan_of(TEXTS, tiny(), tmp_path / "other")
    assert dataclasses.replace(first, directory=other.directory, file=other.file) == other
    assert (first.directory / first.file).read_bytes() == (other.directory / other.file).read_bytes()


def test_there_is_no_plan_where_none_was_made(tmp_path: Path) -> None:
    assert load_plan(tmp_path) is None
    assert load_plan(tmp_path / "nowhere") is None


def test_an_interrupted_plan_leaves_nothing(tiny: Tiny, tmp_path: Path) -> None:
    plan_of(TEXTS, tiny(), tmp_path)
    corpus = corpus_from_sentences("c", [*TEXTS, "More."])
    with pytest.raises(KeyboardInterrupt):
        make_plan(corpus, tiny(), tmp_path, progress=Stop())
    kept = load_plan(tmp_path)
    assert kept is not None
    assert kept.sentences == len(TEXTS)  # the old one stays
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", kept.file}
    assert make_plan(corpus, tiny(), tmp_path).sentences == len(TEXTS) + 1


def test_tokens_beyond_the_embedding_are_named(tiny_dir: Callable[..., Path], tmp_path: Path) -> None:
    model = load_language_model(str(tiny_dir()), device="cpu")
    model.tokenizer.add_tokens(["zebrafish"])  # without resizing the model
    assert plan_of(["A dog runs.", "A cat."], model, tmp_path / "other").contexts
    with pytest.raises(
        ModelError, match=r"'zebrafish' \(id 400\) in 'A zebrafish swims.' is outside the 400 rows"
    ):
        plan_of(["A dog runs.", "A zebrafish swims."], model, tmp_path / "plan")
    assert load_plan(tmp_path / "plan") is None


def test_a_vocabulary_may_have_gaps(tiny_dir: Callable[..., Path], tmp_path: Path) -> None:
    model = load_language_model(str(tiny_dir(vocab_size=500)), device="cpu")
    backend = json.loads(model.tokenizer.backend_tokenizer.to_str())
    dog = model.encode(" dog")[0]
    backend["model"]["vocab"] = {
        token: 480 if number == dog else number for token, number in backend["model"]["vocab"].items()
    }
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(backend)))
    assert model.encode(" dog") == [480]
    assert plan_of(["A dog runs."], model, tmp_path).contexts


def test_a_corpus_that_breaks_off_gives_no_plan(tiny: Tiny, tmp_path: Path) -> None:
    def broken(number: int) -> str:
        if number == 3000:
            raise RuntimeError("broken off")
        return f"dog {number}"

    with pytest.raises(RuntimeError, match="broken off"):
        make_plan(corpus_from_sentences("c", Generated(4000, broken)), tiny(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        {"version": 0},
        {"version": None},
        {"unheard_of": 1},
        {"settings": {"skip": -1}},
        {"settings": {"colour": 1}},
        {"settings": None},
    ],
)
def test_a_plan_of_another_version_is_refused(damage: dict[str, Any], tiny: Tiny, tmp_path: Path) -> None:
    plan_of(TEXTS, tiny(), tmp_path)
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    with pytest.raises(LatentBankError, match="plan the corpus again"):
        load_plan(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "7", "{", "\xff"])
def test_a_file_that_is_no_plan_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text, encoding="latin-1")
    with pytest.raises(LatentBankError, match="plan the corpus again"):
        load_plan(tmp_path)


def test_a_plan_without_its_sentences_is_ignored(tiny: Tiny, tmp_path: Path) -> None:
    sentences = tmp_path / plan_of(TEXTS, tiny(), tmp_path).file
    sentences.write_bytes(sentences.read_bytes()[:-100])
    with pytest.raises(LatentBankError, match="plan the corpus again"):
        load_plan(tmp_path)
    sentences.unlink()
    assert load_plan(tmp_path) is None


def test_a_folder_that_cannot_be_used_is_named(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, reason in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "in", "Not a directory")):
        with pytest.raises(LatentBankError, match=reason) as caught:
            plan_of(TEXTS, tiny(), folder)
        assert str(folder) in str(caught.value)
        assert load_plan(folder) is None


@pytest.mark.parametrize("room", [0, 4096])
def test_a_full_disk_is_one_clear_error(room: int, tiny: Tiny, tmp_path: Path) -> None:
    """A limit on the size of files acts as a full disk: writing fails in the middle."""
    model, limits = tiny(), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(LatentBankError, match=r"cannot be written to .*; make room") as caught:
            plan_of(TEXTS * 30, model, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(caught.value)
    assert load_plan(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sentences", [["a"], ["I", "a", "I"]])
def test_a_corpus_without_any_context(sentences: list[str], tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="gives no context") as caught:
        plan_of(sentences, tiny(), tmp_path)
    assert str(caught.value).endswith(".")
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_without_any_context_is_told_the_settings(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"left out \(skip=1, first_position=100, max_tokens=512\)"):
        plan_of(["A dog on a beach."], tiny(), tmp_path, first_position=100)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"bos": "never"}, "bos is 'never'"),
        ({"skip": -1}, "skip is -1"),
        ({"contexts_per_token": 0}, "contexts_per_token is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"sampling": "last"}, "sampling is 'last'; it can be first or reservoir"),
        ({"seed": 3}, "seed is for a random sample"),
        ({"split_position": 3}, "split_position is for a random sample"),
        ({"sampling": "reservoir", "split_position": -1}, "split_position is -1"),
    ],
)
def test_invalid_settings(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(LatentBankError, match=message):
        PlanSettings(**choice)


def test_progress_counts_sentences(tiny: Tiny, tmp_path: Path) -> None:
    updates: list[object] = []

    class Recorder:
        def update(self, done: float, total: float | None = None) -> None:
            updates.append((done, total))

        def stage(self, what: str, unit: str) -> None:
            updates.append(f"{what} {unit}")

    sentences = [f"a dog {i}" for i in range(2500)]
    make_plan(corpus_from_sentences("c", sentences), tiny(), tmp_path, progress=Recorder())
    planned = sum(1 for _ in load_plan(tmp_path).read())
    assert updates[:4] == [(1024, None), (2048, None), (2500, None), "sorting sentences"]
    assert updates[-1] == (planned, planned)


# -- memory --------------------------------------------------------------------------------------


def long_words(tiny: Tiny) -> LanguageModel:
    """Return a tiny model whose tokenizer makes each word one token, however long it is."""
    words = {"<unk>": 0} | {f"w{i}": i + 1 for i in range(300)}
    backend = Tokenizer(WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    model = tiny()
    return LanguageModel("long words", model._decoder, tokenizer, num_layers=model.num_layers)


def test_planning_does_not_hold_the_text(tiny: Tiny, tmp_path: Path) -> None:
    """18 MB of text, 3 kB a sentence, are planned, sorted and read with a few MB of memory."""
    corpus = Generated(6_000, lambda i: f"w{i % 100} w{i // 100} {i:x<3000}")
    model = long_words(tiny)
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        plan = make_plan(
            corpus_from_sentences("c", corpus), model, tmp_path, PlanSettings(contexts_per_token=10**6)
        )
        read = sum(len(row.caption) for row in plan.read())
        python = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert read > 18_000_000
    assert pool.max_memory() < 8_000_000
    # 100 bytes a context, 120 bytes a sentence, and a batch of 1024 sentences in several forms.
    assert python < 100 * plan.contexts + 120 * plan.planned_sentences + 10_000_000
