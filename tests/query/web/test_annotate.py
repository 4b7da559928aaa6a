"""The server of questions: blind, the same order for all, and answers only to what is there."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from latentbank.query.judging.annotations import Annotations
from latentbank.query.judging.questions import Question, find_questions
from latentbank.query.judging.sources import sources_of
from latentbank.query.web.annotate import create_annotation_app
from latentbank.query.web.guard import Guard
from tests.query.judging.asked import readings_in

HOME = "http://localhost/"


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Question], Path]:
    """Questions with controls, and the folder of their images."""
    pictures, readings = readings_in(tmp_path_factory.mktemp("asked"))
    return list(find_questions([readings], controls=0.5).asked), pictures


@pytest.fixture
def client(asked: tuple[list[Question], Path], tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(Guard(app_of(asked, tmp_path)), base_url=HOME) as client:
        yield client


def app_of(asked: tuple[list[Question], Path], folder: Path) -> object:
    questions, pictures = asked
    images = sources_of(questions, [str(pictures)])
    return create_annotation_app(
        questions, Annotations(folder / "a.jsonl"), lambda question: images[question.subject.source].open()
    )


def test_nothing_tells_lens_layer_control_model_or_image(
    client: TestClient, asked: tuple[list[Question], Path]
) -> None:
    questions, _ = asked
    assert {question.subject.control for question in questions} == {"", "other image"}
    heard = [client.get("/api/annotators?name=Ada").text]
    seen = []
    for number in range(len(questions)):
        answer = client.get(f"/api/questions/{number}?rater=Ada")
        seen.append(answer.json())
        heard.append(str(answer.headers) + str({**seen[-1], "shown": ""}))
        heard.append(str(client.get(f"/api/questions/{number}/whole").headers))
    for secret in ("latent", "logit", "layer", "other", "owner", "vlm", "picture0", "L08", "png"):
        assert secret not in " ".join(heard)
    assert all(set(one) == {"shown", "size", "kinds"} for one in seen)
    # Words of all images, lenses and layers stand in no order.
    words = [one["shown"][0][1] for one in seen]
    assert words != [question.candidates[0].word for question in questions]
    assert sorted(words) == sorted(question.candidates[0].word for question in questions)


def test_the_pictures_are_the_judges(client: TestClient) -> None:
    size = tuple(client.get("/api/questions/0?rater=Ada").json()["size"])
    whole = Image.open(io.BytesIO(client.get("/api/questions/0/whole").content))
    assert whole.size == size
    red = [pixel for pixel in whole.convert("RGB").get_flattened_data() if pixel[0] > 200 > 60 > pixel[1]]
    assert len(red) > 500
    assert client.get("/api/questions/0/crop").headers["content-type"] == "image/jpeg"


def test_answers_are_kept_by_name_and_go_on_after_a_restart(
    client: TestClient, asked: tuple[list[Question], Path], tmp_path: Path
) -> None:
    assert client.post("/api/answers?rater=Ada&question=3&kinds=concrete,").status_code == 201
    assert client.post("/api/answers?rater=Bo&question=0&kinds=,").status_code == 201
    with TestClient(Guard(app_of(asked, tmp_path)), base_url=HOME) as again:
        about = again.get("/api/annotators?name=ada").json()
        assert about == {"name": "Ada", "questions": len(asked[0]), "answered": [3]}
        assert again.get("/api/questions/3?rater=ada").json()["kinds"] == ["concrete", ""]
        assert again.get("/api/questions/3?rater=Bo").json()["kinds"] is None
        assert again.get("/api/questions/0?rater=Bo").json()["kinds"] == ["", ""]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/api/questions/999?rater=Ada", 404, "There is no such question."),
        ("/api/questions/0?rater=", 400, "Give a name"),
        ("/api/questions/0/box", 404, "There is no such picture."),
        ("/api/annotators?name=judge", 400, "is the judge's"),
        ("/api/annotators", 422, "name: "),
        ("POST /api/answers?rater=Ada&question=0&kinds=concrete,vague", 400, "vague is not one of concrete"),
        ("POST /api/answers?rater=Ada&question=0&kinds=concrete", 400, "1 kinds for 2 words"),
        ("POST /api/answers?rater=Ada&question=-1&kinds=,", 404, "There is no such question."),
    ],
)
def test_what_is_not_there_is_refused(client: TestClient, path: str, status: int, message: str) -> None:
    method, _, path = path.rpartition(" ")
    answer = client.request(method or "GET", path)
    assert answer.status_code == status
    assert message in answer.json()["error"]


def test_an_answer_that_cannot_be_kept_is_not_acknowledged(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("latentbank.query.judging.annotations.os.fsync", full)
    answer = client.post("/api/answers?rater=Ada&question=0&kinds=,")
    assert answer.status_code == 507
    assert "could not be saved in a.jsonl (No space left" in answer.json()["error"]
    assert str(tmp_path) not in answer.text
    assert client.get("/api/annotators?name=Ada").json()["answered"] == []
