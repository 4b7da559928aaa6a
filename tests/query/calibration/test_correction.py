"""Corrected readings against the formulas computed with all vectors, and what a calibration keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import latentbank.query.calibration.calibrate as job
from latentbank.bank.bank import Bank
from latentbank.bank.opening import open_bank
from latentbank.bank.points import Neighbor
from latentbank.bank.rotation import rotate, unrotate
from latentbank.bank.where import Where
from latentbank.errors import BankMismatch, ImageError, QueryError
from latentbank.ingest.banks import create_bank
from latentbank.ingest.corpus import corpus_from_sentences
from latentbank.ingest.job import store_plan
from latentbank.ingest.planning import plan_for
from latentbank.models.language.model import LanguageModel
from latentbank.query.calibration import folder, look
from latentbank.query.calibration.calibrate import Calibrated, calibrate
from latentbank.query.calibration.calibration import load_calibration
from latentbank.query.calibration.correction import Correction, Mode
from latentbank.query.calibration.folder import write_array
from latentbank.query.calibration.references import nearest_of
from latentbank.query.lenses import latent
from latentbank.query.lenses.base import Queries
from latentbank.query.lenses.latent import LatentLens
from latentbank.query.reading.visual import read_images
from latentbank.query.silence.evidence import evidence_of
from latentbank.query.silence.silence import open_silence
from tests.query.banks import TWO, fill
from tests.query.patch_vlm import PatchVLM, picture

OTHERS = [picture(seed) for seed in range(100, 121)]
LAYERS = [0, 2]
MODES: list[Mode] = ["hubs", "mean", "both"]
DEPTH = 8  # fewer than a layer holds


@pytest.fixture(scope="module")
def vlm(tiny: LanguageModel) -> PatchVLM:
    return PatchVLM(tiny)


@pytest.fixture(scope="module")
def data_dir(tiny: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("calibrated")
    fill("small", made, tiny, TWO, (1, 2)).close()
    return made


@pytest.fixture(scope="module")
def calibrated(data_dir: Path, vlm: PatchVLM) -> Calibrated:
    with open_bank("small", data_dir=data_dir, url="") as opened:
        return calibrate(opened, vlm, OTHERS, LAYERS, what="scenes")


@pytest.fixture
def bank(data_dir: Path, calibrated: Calibrated) -> Iterator[Bank]:
    with open_bank("small", data_dir=data_dir, url="") as opened:
        yield opened


def _unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _units(vlm: PatchVLM, images: Any, layer: int) -> Any:
    """Unit visual tokens; no rotation, which changes no product of two vectors."""
    states = [tokens.states[layer].numpy().astype(float) for tokens in vlm.visual_tokens(images, [layer])]
    return _unit(np.concatenate(states))


def _largest(rows: Any, count: int) -> Any:
    return np.sort(rows, axis=1)[:, -count:].mean(axis=1)


def _directly(bank: Bank, vlm: PatchVLM, images: Any, layer: int, mode: Mode, where: Any = None) -> Any:
    """For each token of the images: (score, bank layer, id, cosine) of its contexts by the formulas, best first."""
    seed = bank.manifest.rotation_seed
    x, q = _units(vlm, OTHERS, layer), _units(vlm, images, layer)
    k = nearest_of(len(x))
    weights = (1 - _largest(x @ x.T, k)) ** 2
    m = weights @ x / weights.sum()
    shift = 0 * m if mode == "hubs" else m / 2
    searched = unrotate(
        rotate(_unit(q - shift), seed).astype(np.float16), seed
    )  # as the engine rounds queries
    lengths = np.linalg.norm(q - shift, axis=1)[:, None]
    answers: list[list[Any]] = [[] for _ in q]
    for bank_layer in bank.layers:
        points = {point.id: point.vector for point in bank.store.scroll(bank_layer, vectors=True)}
        c = unrotate(np.stack(list(points.values())), seed).astype(float)
        mu = c.mean(axis=0)
        plain = searched @ c.T * lengths + c @ shift
        if mode == "hubs":
            scores, to_references = plain, c @ x.T
        else:
            both = np.linalg.norm(q - m, axis=1)[:, None] * np.linalg.norm(c - mu, axis=1)
            scores = (plain - c @ m - (q @ mu)[:, None] + m @ mu) / both
            to_references = _unit(c - mu) @ _unit(x - m).T
        hubs = _largest(to_references, k)
        shown = {point.id for point in bank.store.scroll(bank_layer, where)}
        ids = list(points)
        places = np.array([place for place, id_ in enumerate(ids) if id_ in shown])
        for row, found in enumerate(searched @ c.T):
            best = places[np.argsort(-found[places])[:DEPTH]]
            own, cosines = scores[row, best], plain[row]
            near = 0 if mode == "hubs" else np.sort(own)[-10:].mean()
            if mode != "mean":
                own = 2 * own - hubs[best] - near
            answers[row] += [
                (score, bank_layer, ids[at], cosines[at]) for score, at in zip(own, best, strict=True)
            ]
    return [sorted(row, reverse=True) for row in answers]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", [None, Where(corpus="second")], ids=["all", "filtered"])
def test_a_corrected_reading_is_that_of_the_formulas(
    bank: Bank, vlm: PatchVLM, mode: Mode, where: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "DEPTH", DEPTH)
    images = [picture(1), picture(2)]
    correction = Correction(load_calibration(bank, vlm), mode)
    lens = LatentLens(bank, "all", where, exact=True).corrected(correction)
    readings = list(read_images(vlm, images, [lens], LAYERS))
    assert {reading.correction for reading in readings} == {mode}
    for layer in LAYERS:
        expected = _directly(bank, vlm, images, layer, mode, where)
        tokens = [token for reading in readings for token in reading.at(layer)]
        for token, best in zip(tokens, expected, strict=True):
            scores = [neighbor.corrected for neighbor in token.neighbors]
            assert scores == pytest.approx([score for score, *_ in best[:5]], abs=3e-3)
            by_context = {(bank_layer, id_): (score, cosine) for score, bank_layer, id_, cosine in best}
            for neighbor in token.neighbors:
                score, cosine = by_context[neighbor.bank_layer, neighbor.id]
                assert (neighbor.score, neighbor.cosine) == pytest.approx((score, cosine), abs=3e-3)
                assert neighbor.caption


def test_hubs_are_corrected_in_a_centred_bank_and_tokens_fall_silent_by_the_scores(
    tiny: LanguageModel, vlm: PatchVLM, tmp_path: Path
) -> None:
    (layer, bank_layer), images = (2, 1), [picture(1), picture(2)]
    x, q = _units(vlm, OTHERS, layer), _units(vlm, images, layer)
    k = nearest_of(len(x))
    weights = (1 - _largest(x @ x.T, k)) ** 2
    m = weights @ x / weights.sum()
    with fill("centred", tmp_path, tiny, TWO, (bank_layer,), metric="centred") as bank:
        calibrate(bank, vlm, OTHERS, [layer], what="scenes")
        silence = open_silence(bank, vlm, 0.6)
        plain = LatentLens(bank, "all", exact=True)
        lens = plain.corrected(Correction(silence.calibration, "hubs"))
        readings = list(read_images(vlm, images, [lens], [layer], silence=silence))
        c = unrotate(
            np.stack([point.vector for point in bank.store.scroll(bank_layer, vectors=True)]),
            bank.manifest.rotation_seed,
        ).astype(float)
        scores = 2 * _unit(q - m) @ c.T - _largest(c @ _unit(x - m).T, k)
        queries = Queries(vlm.visual_tokens(images, [layer])[0].states[layer], layer, "visual")
        evidence = evidence_of(lens, silence.calibration, queries, lens.read(queries, 1))
        best = -np.sort(-scores[: len(queries)], axis=1)[:, :5]
        for own, found, wanted in zip(lens.read(queries, 5), evidence.tolist(), best.tolist(), strict=True):
            assert [neighbor.corrected for neighbor in own] == pytest.approx(wanted, abs=3e-3)
            assert found == pytest.approx(own[0].corrected, abs=3e-3)
        nulls = silence.nulls(lens, layer)
        values = [(1 + int((nulls >= found).sum())) / (1 + len(nulls)) for found in evidence.tolist()]
        assert [token.p_value for token in readings[0].tokens] == pytest.approx(values)
        assert len(set(values)) > 1
        assert readings[0].query_mean == "mean of visual tokens of 21 scenes, weighted"
        # Means are subtracted already, and plain scores in a centred bank are no evidence.
        with pytest.raises(QueryError, match="correct hubs alone"):
            list(read_images(vlm, images, [plain.corrected(Correction(silence.calibration))], [layer]))
        with pytest.raises(QueryError, match="by corrected scores alone"):
            list(read_images(vlm, images, [plain], [layer], silence=silence))


@pytest.fixture
def correction(bank: Bank, vlm: PatchVLM) -> Correction:
    return Correction(load_calibration(bank, vlm))


def test_words_and_contexts_are_unique_among_corrected_neighbors(
    bank: Bank, vlm: PatchVLM, correction: Correction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "DEPTH", 100)
    plain = LatentLens(bank, "all", exact=True, correction=correction)
    queries = Queries(_units(vlm, [picture(3)], 2), 2, "visual")
    everything = plain.read(queries, 100)
    for unique, key in (("word", lambda n: n.word.casefold()), ("context", lambda n: n.id)):
        for row, found in zip(everything, replace(plain, unique=unique).read(queries, 6), strict=True):
            kept: dict[str, Neighbor] = {}
            for neighbor in row:
                kept.setdefault(key(neighbor), neighbor)
            assert [key(neighbor) for neighbor in found] == list(kept)[:6]
            assert [n.corrected for n in found] == pytest.approx([n.corrected for n in kept.values()][:6])
    # The best three of each layer hold too few words, so the nearest of other words are scored, too.
    monkeypatch.setattr(look, "DEPTH", 3)
    for row in replace(plain, unique="word").read(queries, 12):
        assert len({neighbor.word.casefold() for neighbor in row}) == 12
        scores = [neighbor.score for neighbor in row]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("unique", [None, "word"])
def test_tokens_of_several_layers_are_searched_for_together_and_corrected_apart(
    bank: Bank,
    vlm: PatchVLM,
    correction: Correction,
    monkeypatch: pytest.MonkeyPatch,
    unique: Literal["word"] | None,
) -> None:
    monkeypatch.setattr(look, "DEPTH", 3)  # too few for 12 words, so that some queries are looked at again
    searches: list[int] = []
    original = Bank.search
    monkeypatch.setattr(Bank, "search", lambda *a, **k: (searches.append(1), original(*a, **k))[1])
    lens = LatentLens(bank, "all", exact=True, unique=unique, correction=correction)
    images = ([picture(3)], [picture(4), picture(5)], [picture(6)])
    parts = [
        Queries(_units(vlm, some, layer), layer, "visual")
        for some, layer in zip(images, (2, 0, 2), strict=True)
    ]
    alone = [lens.read(queries, 12) for queries in parts]
    assert len(searches) == 3
    together = lens.read_each(parts, 12)
    assert len(searches) == 4
    assert [len(found) for found in together] == [len(queries) for queries in parts]
    for found, own in zip(together, alone, strict=True):
        for row, same in zip(found, own, strict=True):
            assert [(n.id, n.bank_layer) for n in row] == [(n.id, n.bank_layer) for n in same]
            assert [n.score for n in row] == pytest.approx([n.score for n in same], abs=1e-5)
    monkeypatch.setattr(latent, "_CORRECTED_TOGETHER", 20)  # a part alone, and two
    assert [[n.id for n in row] for found in lens.read_each(parts, 12) for row in found] == [
        [n.id for n in row] for found in alone for row in found
    ]


def test_text_is_not_corrected_and_layers_must_be_calibrated(
    bank: Bank, vlm: PatchVLM, correction: Correction
) -> None:
    lens = LatentLens(bank, "all", correction=correction)
    (row, *_) = lens.read(Queries(_units(vlm, [picture(1)], 0), 0, "text"))
    assert {neighbor.corrected for neighbor in row} == {None}
    with pytest.raises(
        QueryError, match=r"Visual layer 1 of patch-vlm is not calibrated .* \(calibrated: 0, 2\)"
    ):
        list(read_images(vlm, [picture(1)], [lens], [0, 1]))
    with pytest.raises(QueryError, match="layer that is not known is not calibrated"):
        lens.read(Queries(_units(vlm, [picture(1)], 0), None, "visual"))
    other = PatchVLM(vlm.language)
    other.name = "other-vlm"
    with pytest.raises(BankMismatch, match="of patch-vlm, not of other-vlm"):
        list(read_images(other, [picture(1)], [lens], [0]))
    with pytest.raises(QueryError, match="other-vlm is not calibrated for the bank 'small'"):
        load_calibration(bank, other)
    with pytest.raises(QueryError, match="no correction 'all'; there are hubs, mean, both"):
        Correction(correction.calibration, "all")  # type: ignore[arg-type]


def test_a_corpus_added_later_is_never_scored_without_numbers_and_gets_its_own(
    tiny: LanguageModel, vlm: PatchVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "PART", 7)  # several files for a corpus
    corpora = dict(TWO)
    late = corpora.pop("second")
    with fill("grown", tmp_path, tiny, corpora, (1, 2)) as bank:
        first = calibrate(bank, vlm, OTHERS, [0])
        assert first.computed == 2 * first.contexts
        files = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*.npy")}
        lens = LatentLens(bank, "all", correction=Correction(load_calibration(bank, vlm)))
        queries = Queries(_units(vlm, [picture(1)], 0), 0, "visual")
        before = lens.read(queries)
        plan = plan_for(bank, corpus_from_sentences("late", late), tiny, tmp_path / ".plans" / "late")
        store_plan(bank, plan, tiny)
        with pytest.raises(QueryError, match=r"The corpus late in bank layer \d .* is not calibrated"):
            lens.read(queries, 50)
        assert replace(lens, where=Where(corpus="first")).read(queries) == before
        again = calibrate(bank, vlm, OTHERS, [0])
        assert again.computed == 2 * (again.contexts - first.contexts) > 0
        assert all(path.stat().st_mtime_ns == at for path, at in files.items())
        assert {neighbor.corpus for row in lens.read(queries, 50) for neighbor in row} == {"first", "late"}
        assert calibrate(bank, vlm, OTHERS, [0]).computed == 0


def test_a_killed_calibration_continues_and_other_pictures_replace_it_at_the_end(
    tiny: LanguageModel, vlm: PatchVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "PART", 7)
    with fill("killed", tmp_path, tiny, TWO, (1, 2)) as bank:
        whole = calibrate(bank, vlm, OTHERS, [0])
        queries = Queries(_units(vlm, [picture(1)], 0), 0, "visual")

        def read() -> Any:
            return LatentLens(bank, "all", correction=Correction(load_calibration(bank, vlm))).read(queries)

        before = read()
        written, real = list[Path](), write_array

        def dying(path: Path, array: Any) -> None:
            if len(written) == 10:
                raise KeyboardInterrupt
            written.append(path)
            real(path, array)

        others = [picture(seed) for seed in range(300, 325)]
        monkeypatch.setattr(job, "write_array", dying)
        with pytest.raises(KeyboardInterrupt):
            calibrate(bank, vlm, others, [0])
        assert read() == before  # the pictures of before are in use
        monkeypatch.setattr(job, "write_array", real)
        runs = len(vlm.calls)
        finished = calibrate(bank, vlm, others, [0])
        assert 0 < finished.computed < 2 * whole.contexts
        assert len(vlm.calls) == runs  # the VLM did not look again
        after = read()
        assert after != before
        # A damaged file of reference tokens is measured again, which gives the same.
        next(finished.folder.glob("*/V00.safetensors")).write_bytes(b"x")
        assert calibrate(bank, vlm, others, [0]).computed == 0
        assert read() == after
        files = sorted(path.name for path in finished.folder.iterdir())
        assert len(files) == 2
        assert "calibration.json" in files


def test_what_cannot_be_calibrated(tiny: LanguageModel, vlm: PatchVLM, bank: Bank, tmp_path: Path) -> None:
    with (
        create_bank("empty", tiny, [1], data_dir=tmp_path, url="") as empty,
        pytest.raises(QueryError, match="holds no complete corpus"),
    ):
        calibrate(empty, vlm, OTHERS, [0])
    named: list[str] = []
    with pytest.raises(ImageError, match="None of the pictures can be read"):
        calibrate(bank, vlm, [b"no picture"], [0], broken=lambda name, _: named.append(name))
    assert named == ["image 0"]
