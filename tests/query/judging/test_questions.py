from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from latentbank.bank.points import Neighbor
from latentbank.errors import ImageError, QueryError
from latentbank.query.judging.questions import Question, candidates_of, find_questions
from latentbank.query.judging.sources import sources_of
from latentbank.query.output.stored import open_stored, stored_files
from tests.query.judging.asked import readings_in


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return readings_in(tmp_path_factory.mktemp("judged"), 5)


def _own(question: Question) -> str:
    """The question's first word: `w8x3-picture1` names the layer, the token and the image."""
    return question.candidates[0].word.lower()


def test_every_lens_and_layer_is_asked_about_the_same_box(folders: tuple[Path, Path]) -> None:
    found = find_questions([folders[1]], controls=0)
    assert len(found.asked) == 5 * 2 * 2
    by_image: dict[str, list[Question]] = {}
    for question in found.asked:
        by_image.setdefault(question.subject.image, []).append(question)
        subject = question.subject
        assert _own(question) == f"w{subject.layer}x{subject.index}-{Path(subject.source).stem}"
        assert (
            subject.item
            == f"owner--vlm/{subject.image}/r{subject.row}c{subject.column}-L{subject.layer:02d}-{subject.lens}"
        )
    assert all(len({(q.box, q.subject.index) for q in own}) == 1 for own in by_image.values())
    cell = open_stored(stored_files(folders[1])[0]).grid()[2, 3]
    assert cell.index == 2 * 6 + 3
    assert cell.box == (30, 24, 40, 36)


def test_the_choice_depends_on_the_seed_and_the_names_of_images(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    first = find_questions([folders[1]], images=3)
    assert first == find_questions([folders[1]], images=3)
    moved = readings_in(tmp_path / "elsewhere", 5, model="owner/other")
    other = find_questions([moved[1]], images=3)

    def boxes(found: tuple[Question, ...]) -> set[tuple[str, int, int]]:
        return {(Path(q.subject.source).name, q.subject.row, q.subject.column) for q in found}

    assert boxes(first.asked) == boxes(other.asked)
    assert len(boxes(first.asked)) == 3
    seeds = [find_questions([folders[1]], images=3, seed=seed) for seed in range(4)]
    assert len({frozenset(boxes(found.asked)) for found in seeds}) > 1


def test_controls_are_the_words_of_another_image_and_of_a_random_projector(tmp_path: Path) -> None:
    pictures, readings = readings_in(tmp_path, 5)
    _, noise = readings_in(tmp_path, 5, mark="-random")
    assert pictures.is_dir()
    found = find_questions([readings], controls=0.4, random_projector=[noise])
    counts = Counter(question.subject.control for question in found.asked)
    assert counts == {"": 20, "other image": 8, "random projector": 8}
    for question in found.asked:
        name = Path(question.subject.source).stem
        if question.subject.control == "random projector":
            assert _own(question).endswith(f"x{question.subject.index}-{name}-random")
        elif question.subject.control == "other image":
            assert not _own(question).endswith(name)
    # What is shown does not tell controls apart, nor does their order.
    order = [bool(question.subject.control) for question in found.asked]
    assert sorted(order) not in (order, order[::-1])
    assert len({question.id for question in found.asked}) == len(found.asked)


def test_a_random_projector_needs_the_same_images(folders: tuple[Path, Path], tmp_path: Path) -> None:
    _, noise = readings_in(tmp_path, 1, model="owner/other")
    with pytest.raises(QueryError, match=r"no reading of .* by owner/vlm"):
        find_questions([folders[1]], random_projector=[noise])


def test_sentences_are_asked_of_lenses_that_have_them(folders: tuple[Path, Path]) -> None:
    found = find_questions([folders[1]], study="sentences", controls=0)
    assert {question.subject.lens for question in found.asked} == {"latent"}
    assert found.without_words == 5 * 2
    candidate = found.asked[0].candidates[0]
    assert candidate.marked("<", ">").startswith("Here is a <w")


def test_as_many_neighbors_count_as_asked_for(folders: tuple[Path, Path]) -> None:
    asked = find_questions([folders[1]], controls=0, words=1).asked
    assert {len(question.candidates) for question in asked} == {1}


def test_the_same_tokens_are_not_asked_about_twice(folders: tuple[Path, Path]) -> None:
    with pytest.raises(QueryError, match="20 tokens are in two of the folders"):
        find_questions([folders[1], folders[1]], controls=0)


def test_each_word_is_asked_once() -> None:
    words = ["dog", " dog", "cat", "\n", ""]
    found = candidates_of([Neighbor(word, word, 0.5) for word in words], "words")
    assert [candidate.word for candidate in found] == ["dog", "cat", "\\n"]


def test_images_are_found_again_where_they_were_moved(folders: tuple[Path, Path], tmp_path: Path) -> None:
    asked = find_questions([folders[1]], controls=0).asked
    assert set(sources_of(asked)) == {question.subject.source for question in asked}
    moved = tmp_path / "moved"
    shutil.copytree(folders[0], moved)
    found = sources_of(asked, [str(moved)])
    assert {str(image.data) for image in found.values()} == {str(path) for path in moved.iterdir()}
    (moved / "picture3.png").unlink()
    with pytest.raises(ImageError, match=r"picture3.png is not there \(1 of 5 are missing\)"):
        sources_of(asked, [str(moved)])
    (moved / "more").mkdir()
    for place in (moved, moved / "more"):
        shutil.copy(folders[0] / "picture3.png", place)
    with pytest.raises(ImageError, match=r"2 files could be the image .*picture3.png"):
        sources_of(asked, [str(moved)])


def test_what_cannot_be_asked_is_an_error(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="holds no readings"):
        find_questions([tmp_path])
    with pytest.raises(QueryError, match="nothing to ask"):
        find_questions([folders[1]], layers=[3])
    with pytest.raises(QueryError, match="from 0 to 1"):
        find_questions([folders[1]], controls=2)
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(QueryError, match="holds no reading of an image"):
        find_questions([tmp_path])


def test_a_question_for_others_holds_nothing_of_its_subject(folders: tuple[Path, Path]) -> None:
    question = find_questions([folders[1]]).asked[0]
    assert json.dumps(question.id).strip('"').isalnum()
    assert len(question.id) == 16
