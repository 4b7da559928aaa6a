"""A corpus grows: visual tokens ask, sentences are taken and confirmed, and become a corpus of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentbank.bank.bank import Bank
from latentbank.bank.rotation import unit, unrotate
from latentbank.bank.where import Where
from latentbank.errors import CorpusError, QueryError
from latentbank.ingest.banks import create_bank
from latentbank.ingest.corpus import Corpus, corpus_from_sentences
from latentbank.ingest.growing.growth import GrowthReport, grow, growth_folder
from latentbank.ingest.growing.sifting import CHUNK
from latentbank.models.language.model import LanguageModel
from latentbank.query.calibration.calibrate import calibrate
from latentbank.query.calibration.references import mean_of_largest, nearest_of
from latentbank.query.growing.asking import FEWEST, find_missing
from latentbank.query.growing.missing import Missing
from latentbank.query.growing.scores import NEAREST, Space
from latentbank.query.growing.silent import silent_tokens
from latentbank.query.silence.silence import open_silence
from tests.query.banks import SENTENCES, fill
from tests.query.patch_vlm import PatchVLM, picture

STREAM = [
    f"The {thing} is {where} the {place}."
    for thing in ("cow", "red kite", "fire")
    for where in ("in", "near")
    for place in ("garden", "river", "wooden table", "truck")
]


@pytest.fixture(scope="module")
def vlm(tiny: LanguageModel) -> PatchVLM:
    return PatchVLM(tiny)


@pytest.fixture
def bank(tiny: LanguageModel, tmp_path: Path) -> Iterator[Bank]:
    with fill("small", tmp_path, tiny, {"c": SENTENCES}) as opened:
        yield opened


def pictures(count: int = FEWEST) -> list[Image.Image]:
    return [picture(seed) for seed in range(count)]


@pytest.fixture
def missing(bank: Bank, vlm: PatchVLM) -> Missing:
    return find_missing(bank, vlm, pictures(), [0, 1], bank_layers="all", where=~Where(corpus="grown"))


def grown(
    bank: Bank, tiny: LanguageModel, missing: Missing, stream: list[str] | Corpus = STREAM
) -> GrowthReport:
    corpus = stream if isinstance(stream, Corpus) else corpus_from_sentences("stream", stream)
    return grow(bank, corpus, tiny, missing, name="grown", least=0.0)


def test_best_scores_are_those_of_exact_arithmetic(
    tiny: LanguageModel, vlm: PatchVLM, tmp_path: Path
) -> None:
    """Twice the centred cosine, less the context's nearness to all tokens and the token's to the bank."""
    with fill("few", tmp_path, tiny, {"c": SENTENCES[:2]}) as bank:
        missing = find_missing(bank, vlm, pictures(), [1], bank_layers="all")
        stored = {
            layer: [one.vector for one in bank.store.scroll(layer, vectors=True)] for layer in bank.layers
        }
        seed = bank.manifest.rotation_seed
    group, space = missing.asking_by_layer[1], missing.spaces[1]
    states = [vlm.visual_tokens([one], [1])[0].states[1].numpy() for one in pictures()[::2]]
    queries = unit(unit(np.concatenate(states)) - space.mean)
    np.testing.assert_allclose(group.queries, queries, atol=1e-5)
    best = np.full(len(group), -np.inf)
    for layer, vectors in stored.items():
        assert len(vectors) <= NEAREST, "the search must have seen all contexts"
        contexts = unit(unrotate(np.array(vectors), seed) - space.text[layer])
        cosines = queries @ contexts.T
        scores = (
            2 * cosines
            - mean_of_largest(contexts @ space.reference.T, nearest_of(len(space.reference)))
            - cosines.mean(axis=1)[:, None]
        )
        best = np.maximum(best, scores.max(axis=1))
    np.testing.assert_allclose(group.best, best, atol=5e-3)


def test_what_is_kept_helps_held_out_tokens_and_says_where_it_came_from(
    bank: Bank, tiny: LanguageModel, missing: Missing
) -> None:
    report = grown(bank, tiny, missing)
    assert report.read == len(STREAM)
    assert 0 < report.kept < len(STREAM)
    assert report.taken == report.kept + report.dropped
    entry = bank.corpora["grown"]
    assert entry.complete
    assert entry.sentences == report.kept
    stored = [one.payload for one in bank.store.scroll(1, Where(corpus="grown"), payloads=True)]
    for payload in stored:
        assert payload is not None
        assert payload["caption"] == STREAM[payload["sentence"]]
    # The same tokens, asked again with the corpus in the bank, have better neighbors than before.
    after = find_missing(bank, PatchVLM(tiny), pictures(), [0, 1], bank_layers="all")
    gained = [after.held_out_by_layer[layer].best - missing.held_out_by_layer[layer].best for layer in (0, 1)]
    assert np.concatenate(gained).max() > 0.01
    bank.drop_corpus("grown")
    assert list(bank.corpora) == ["c"]


def test_nothing_is_kept_of_sentences_that_the_bank_has(
    bank: Bank, tiny: LanguageModel, missing: Missing
) -> None:
    report = grow(bank, corpus_from_sentences("same", SENTENCES), tiny, missing, name="grown", least=0.02)
    assert (report.kept, report.job) == (0, None)
    assert list(bank.corpora) == ["c"]


def test_a_stopped_run_continues_and_ends_alike(
    bank: Bank, tiny: LanguageModel, missing: Missing, tmp_path: Path
) -> None:
    long = STREAM * (CHUNK // len(STREAM) + 1)
    whole = grown(bank, tiny, missing, long)
    sentences = Path(whole.file).read_bytes()
    bank.drop_corpus("grown")

    class Stopping:
        def __iter__(self) -> Iterator[str]:
            yield from long[: CHUNK + 1]
            raise KeyboardInterrupt

    for file in growth_folder(bank, "grown").glob("*.npz"):
        file.unlink()
    with pytest.raises(KeyboardInterrupt):
        grown(bank, tiny, missing, Corpus("stream", (), sentences=Stopping()))
    with pytest.raises(CorpusError, match="begins with other sentences"):
        grown(bank, tiny, missing, ["Another one."] * len(long))
    again = grown(bank, tiny, missing, long)
    assert (again.read, again.kept) == (whole.read, whole.kept)
    assert Path(again.file).read_bytes() == sentences
    assert again.contexts == whole.contexts


def test_only_silent_tokens_ask_where_that_is_wanted(bank: Bank, vlm: PatchVLM, missing: Missing) -> None:
    calibrate(bank, vlm, pictures(), [1], bank_layers="all")
    silence = open_silence(bank, vlm, 0.95)
    some = find_missing(bank, vlm, pictures(), [1], bank_layers="all", silence=silence)
    assert 0 < some.tokens < missing.tokens / 2, "two layers were read"
    assert some.digest != missing.digest
    states = np.concatenate([vlm.visual_tokens([one], [1])[0].states[1].numpy() for one in pictures()[::2]])
    owner = np.repeat(np.arange(FEWEST // 2), len(states) // (FEWEST // 2))
    silent = silent_tokens(bank, silence, 1, states, owner, bank.layers, None)
    assert some.asking == silent.sum()


def test_too_few_images_and_a_centred_bank_are_refused(
    bank: Bank, tiny: LanguageModel, vlm: PatchVLM, tmp_path: Path
) -> None:
    with pytest.raises(QueryError, match="19 images are too few"):
        find_missing(bank, vlm, pictures(FEWEST - 1), [0])
    with (
        create_bank("other", tiny, [1], metric="centred", data_dir=tmp_path, url="") as centred,
        pytest.raises(QueryError, match="is centred"),
    ):
        find_missing(centred, vlm, pictures(), [0])


def test_a_hub_gains_nothing() -> None:
    """A context as near to all tokens as to the one that asks has no advantage left."""
    chance = np.random.default_rng(0)
    tokens = unit(chance.normal(size=(200, 16)))
    space = Space(np.zeros(16, np.float32), tokens, {0: np.zeros(16, np.float32)})
    own, everywhere = tokens[:1], unit(tokens.mean(axis=0, keepdims=True) + 0 * tokens[:1])
    near = 2 * (tokens[:1] @ np.concatenate([own, everywhere]).T) - space.hubness(
        np.concatenate([own, everywhere])
    )
    assert near[0, 0] > near[0, 1] + 0.5
