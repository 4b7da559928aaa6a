"""A bank of images is asked: words, patches, images, and the words of the whole collection."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from latentbank.bank.bank import Bank
from latentbank.bank.images.bank import ImageBank
from latentbank.bank.images.opening import open_images
from latentbank.bank.opening import open_bank
from latentbank.bank.rotation import unit, unrotate
from latentbank.bank.where import WhereImage
from latentbank.errors import BankMismatch, LayerNotFound, QueryError
from latentbank.models.language.model import LanguageModel
from latentbank.query.images.contexts import Term, term_of_bank, term_of_sentence, term_of_templates
from latentbank.query.images.gallery import gallery_html, save_gallery
from latentbank.query.images.naming import NO_WORD, Naming, name_patches
from latentbank.query.images.search import How, ImageSearch
from latentbank.query.images.sheet import draw_sheet
from latentbank.query.lenses.latent import LatentLens
from tests.query.images.drawn import SENTENCES, SHOWN, WORDS


@pytest.fixture
def bank(drawn_copy: Path) -> Iterator[Bank]:
    with open_bank("small", data_dir=drawn_copy, url="") as opened:
        yield opened


@pytest.fixture
def images(drawn_copy: Path) -> Iterator[ImageBank]:
    with open_images("small", data_dir=drawn_copy, url="") as opened:
        yield opened


@pytest.fixture
def search(images: ImageBank, bank: Bank) -> ImageSearch:
    return ImageSearch(images, bank)


def shown_by(word: str) -> set[tuple[str, int]]:
    return {(f"<{number}>.png", token) for number, own in SHOWN.items() if own == word for token in (0, 1)}


class TestWhere:
    """Patches that mean a word."""

    @pytest.mark.parametrize("word", WORDS)
    def test_the_true_patches_come_first_once_scores_are_corrected(
        self, search: ImageSearch, word: str
    ) -> None:
        found = search.where(word, How(limit=6), 2)
        assert {(patch.image, patch.token) for patch in found.patches} == shown_by(word)
        scores = [patch.score for patch in found.patches]
        assert scores == sorted(scores, reverse=True)
        assert found.visual_layers == (2,)
        assert found.bank_layers == (2,)
        assert "4 contexts" in found.source
        assert found.correction

    def test_plain_cosines_are_those_of_the_words_mean(self, search: ImageSearch, images: ImageBank) -> None:
        found = search.where("dog", How(limit=72, correct="none"), 2)
        term = search.term("dog", 2)
        vectors = images.vectors(2, [patch.id for patch in found.patches])
        for patch in found.patches:
            expected = unit(vectors[patch.id][None])[0] @ unit(term.vectors[2][None])[0]
            assert patch.cosine == pytest.approx(float(expected), abs=1e-4)
            assert patch.corrected is None
        assert found.correction == ""

    def test_images_come_in_the_order_of_their_best_patches(self, search: ImageSearch) -> None:
        found = search.where("cat", How(limit=3, by_image=True, per_image=2), 2)
        groups = found.images()
        assert {group[0].image for group in groups} == {image for image, _ in shown_by("cat")}
        assert [sorted(patch.token for patch in group) for group in groups] == [[0, 1]] * 3
        bests = [group[0].score for group in groups]
        assert bests == sorted(bests, reverse=True)
        assert all(found.picture(group[0]) for group in groups)

    def test_filters_and_several_layers(self, search: ImageSearch) -> None:
        found = search.where("dog", How(limit=6, layers=[0, 2], where=WhereImage(column_max=0)), 2)
        assert {patch.column for patch in found.patches} == {0}
        assert {(p.image, p.token) for p in found.patches[:3]} == {p for p in shown_by("dog") if p[1] == 0}
        one = search.where("dog", How(where=WhereImage(image="<1>.png")), 2)
        assert {patch.image for patch in one.patches} == {"<1>.png"}

    def test_a_word_is_taken_from_a_sentence_or_put_into_some(
        self, search: ImageSearch, bank: Bank, tiny: LanguageModel
    ) -> None:
        with pytest.raises(QueryError, match="no context of 'zebra'"):
            search.where("zebra")
        made = term_of_templates(bank, tiny, "zebra", [2])
        assert len(search.where(made, How(limit=5), 2).patches) == 5
        sentence = SENTENCES[0]
        taken = term_of_sentence(bank, tiny, sentence, "dog", [1, 2])
        assert np.allclose(taken.vectors[2], self.stored(bank, sentence), atol=2e-3)
        with pytest.raises(QueryError, match="does not hold 'cat'"):
            term_of_sentence(bank, tiny, sentence, "cat", [2])
        with pytest.raises(LayerNotFound, match="at bank layer 2, not at 1"):
            search.where(made, How(), 1)

    @staticmethod
    def stored(bank: Bank, sentence: str) -> np.ndarray:
        (point,) = [
            point
            for point in bank.store.scroll(2, vectors=True, payloads=True)
            if point.payload and point.payload["caption"] == sentence and point.payload["word"] == "dog"
            if sentence[: point.payload["end"]].endswith("dog")
        ]
        assert point.vector is not None
        return point.vector

    def test_the_last_token_of_several_words_counts(self, bank: Bank) -> None:
        both, last = (term_of_bank(bank, text, [2]) for text in ("Fire  truck", "truck"))
        assert isinstance(both, Term)
        assert isinstance(last, Term)
        assert both.contexts == last.contexts == 4
        assert term_of_bank(bank, "fire", [2]).contexts == 4  # type: ignore[union-attr]
        assert term_of_bank(bank, "ire truck", [2]) is None

    def test_wrong_questions_are_refused(self, search: ImageSearch, images: ImageBank) -> None:
        with pytest.raises(LayerNotFound, match="not stored at visual layer 1"):
            search.where("dog", How(layers=[1]))
        with pytest.raises(QueryError, match="no correction 'hubs' here"):
            How(correct="hubs")  # type: ignore[arg-type]
        with pytest.raises(QueryError, match="open the bank, too"):
            ImageSearch(images).where("dog")

    def test_another_space_is_refused(self, images: ImageBank) -> None:
        class Other:
            name = "other"
            manifest = type("M", (), {"hidden_size": images.hidden_size, "rotation_seed": 1})

        with pytest.raises(BankMismatch, match="for the bank 'other'"):
            ImageSearch(images, Other())  # type: ignore[arg-type]


class TestLike:
    """Patches with the meaning of a patch."""

    def test_a_stored_patch_finds_its_like_and_not_itself(self, search: ImageSearch) -> None:
        patch = search.patch("<2>.png", 0, 1)
        found = search.like(patch, How(limit=5))
        assert {(p.image, p.token) for p in found.patches} == shown_by("bridge") - {("<2>.png", 1)}
        assert found.question == "like <2>.png, row 0, column 1"
        plain = search.like(patch, How(limit=71, correct="none"))
        assert len(plain.patches) == 71

    def test_a_hidden_state_finds_what_the_stored_one_finds(
        self, search: ImageSearch, images: ImageBank
    ) -> None:
        patch = search.patch("d2", 0, 1)
        row = images.vectors(2, [patch.id])[patch.id]
        state = 5 * unrotate(row[None], images.manifest.rotation_seed)[0]
        found = search.like({2: state}, How(limit=6), "mine.png")
        assert {(p.image, p.token) for p in found.patches} == shown_by("bridge")
        with pytest.raises(LayerNotFound, match="known at visual layer 2, not at 0"):
            search.like({2: state}, How(layers=[0]))

    def test_what_is_not_there_is_named(self, search: ImageSearch) -> None:
        with pytest.raises(QueryError, match="no patch in row 2, column 0"):
            search.patch("<2>.png", 2, 0)
        with pytest.raises(QueryError, match=r"No image 'x\.png' is stored"):
            search.patch("x.png", 0, 0)


class TestWords:
    """The words that a collection shows."""

    def test_a_killed_pass_continues_and_equals_an_unbroken_one(
        self, drawn_copy: Path, bank: Bank, images: ImageBank, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lens = LatentLens(bank, [2])
        calls = itertools.count()
        read = LatentLens.read

        def broken(self: LatentLens, queries: object, top_k: int = 5) -> object:
            if next(calls) == 2:
                raise KeyboardInterrupt
            return read(self, queries, top_k)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(LatentLens, "read", broken)
            with pytest.raises(KeyboardInterrupt):
                name_patches(images, lens, 2, batch=3)
        rest = name_patches(images, lens, 2, batch=3)
        assert rest == Naming(2, images=6, read=36, kept=36, silent=0)
        counts = images.facet("word", ~WhereImage(word=NO_WORD), layer=2)
        assert sum(counts.values()) == 72
        expected = lens.read(_queries(images), 1)
        assert counts == _counted([own[0].word.strip().casefold() for own in expected])
        assert name_patches(images, lens, 2).read == 0
        assert name_patches(images, lens, 2, again=True).read == 72
        assert images.facet("word", layer=2) == counts
        word = next(iter(counts))
        found = ImageSearch(images, bank).where("dog", How(where=WhereImage(word=word), limit=99), 2)
        assert len(found.patches) == counts[word]
        assert {patch.word for patch in found.patches} == {word}


def _queries(images: ImageBank) -> object:
    from latentbank.query.lenses.base import Queries

    rows = np.stack([vector for _, vector in images.patches(2)])
    return Queries(unrotate(rows, images.manifest.rotation_seed), 2, "visual")


def _counted(words: list[str]) -> dict[str, int]:
    return {word: words.count(word) for word in set(words)}


class TestOutputs:
    """Galleries and sheets."""

    def test_a_gallery_marks_the_patches_and_runs_nothing(self, search: ImageSearch, tmp_path: Path) -> None:
        found = search.where("dog", How(limit=4), 2)
        html = gallery_html(found)
        assert html.count("<li>") == 4
        assert len(re.findall(r'<image id="p\d+"', html)) == len({patch.digest for patch in found.patches})
        patch = found.patches[0]
        left, top = 10 * patch.column, 10 * patch.row
        assert f'<rect class="inner" x="{left}" y="{top}" width="10" height="10"/>' in html
        assert "&lt;0&gt;.png" in html
        assert "<0>.png" not in html
        assert "<script" not in html
        assert "default-src 'none'" in html
        assert save_gallery(found, tmp_path / "a.html").read_text(encoding="utf-8") == html

    def test_a_sheet_shows_the_patches_brighter_than_the_rest(self, search: ImageSearch) -> None:
        found = search.where("dog", How(limit=2, by_image=True, per_image=2), 2)
        sheet = np.asarray(draw_sheet(found)).astype(int)
        # 220 pixels for 30 of the image, below the heading and in the middle of the square.
        row = sheet[40 + 37 + 36]
        assert row[12 + 36, 0] > 180
        assert row[12 + 184, 0] < 140
