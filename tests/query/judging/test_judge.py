"""A judge behind a real socket: what it is asked, what goes wrong on the way, and what is kept."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from latentbank.errors import LatentBankError
from latentbank.locks import Locked
from latentbank.query.judging import endpoint as endpoint_module
from latentbank.query.judging.answers import open_answers
from latentbank.query.judging.endpoint import Endpoint, key_from
from latentbank.query.judging.judge import Prices, ask, bill
from latentbank.query.judging.questions import Question, find_questions
from latentbank.query.judging.sources import sources_of
from latentbank.query.judging.verdicts import Verdict
from tests.query.judging.asked import readings_in
from tests.wire.chat import CUT, Body, ChatStub, Make, Sent, asked, chat_stub, completion, error, says

KEY = "sk-secret-of-the-test"


def rightly(body: Body) -> str:
    """The first word is concrete, the second global."""
    first, *rest = asked(body)
    return says(concrete=[first], abstract=[], **{"global": rest[:1]})


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Question, ...]:
    _, readings = readings_in(tmp_path_factory.mktemp("judged"), 3)
    return find_questions([readings], controls=0).asked


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits are written down, and take no time."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock.now += seconds

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def time(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(endpoint_module, "_sleep", sleep)
    monkeypatch.setattr(endpoint_module, "time", clock)
    return waits


def _ask(
    stub: ChatStub, folder: Path, questions: Sequence[Question], prices: Prices | None = None, **given: Any
) -> list[Verdict]:
    judge = Endpoint("gpt", stub.url, **given)
    with open_answers(folder, judge.base_url, judge.model) as answers:
        return ask(questions, judge, sources_of(questions), answers, prices=prices)


def _failing(*first: Sent | str) -> Make:
    """Return what answers with `first`, then rightly."""
    left = list(first)
    return lambda body: left.pop(0) if left else rightly(body)


def test_a_judge_sees_pictures_and_words_and_nothing_of_the_subject(
    questions: tuple[Question, ...], tmp_path: Path
) -> None:
    with chat_stub(rightly) as stub:
        verdicts = _ask(stub, tmp_path, questions, Prices(2.0, 10.0), key=KEY, request={"temperature": 0})
    assert [verdict.question for verdict in verdicts] == [question.id for question in questions]
    for verdict, question in zip(verdicts, questions, strict=True):
        assert verdict.concrete == (question.candidates[0].word,)
        assert verdict.global_ == ("dog",)
        assert (verdict.abstract, verdict.reasons, verdict.interpretable) == ((), "seen", True)
        assert (verdict.tokens_in, verdict.tokens_out, verdict.cost) == (1000, 100, 0.003)
    body = stub.bodies[0]
    assert (body["model"], body["temperature"]) == ("gpt", 0)
    assert body["response_format"]["json_schema"]["strict"] is True
    text, first, second, words = body["messages"][0]["content"]
    assert "red box" in text["text"]
    sizes = []
    for part in (first, second):
        kind, _, data = part["image_url"]["url"].partition(",")
        assert kind == "data:image/jpeg;base64"
        sizes.append(Image.open(io.BytesIO(base64.b64decode(data))).size)
    # Patches of 10 x 12 pixels are squeezed into squares: six columns and five rows.
    assert sizes == [(512, round(512 * 5 / 6)), (256, 256)]
    everything = json.dumps([text, words])
    assert not any(hidden in everything for hidden in ("owner", "vlm", "latent", "logit", ".png", "control"))
    assert set(stub.keys) == {f"Bearer {KEY}"}


def test_answers_are_asked_once_and_keys_are_written_nowhere(
    questions: tuple[Question, ...], tmp_path: Path
) -> None:
    with chat_stub(rightly) as stub:
        first = _ask(stub, tmp_path, questions[:8], key=KEY)
        again = _ask(stub, tmp_path, questions, key=KEY)
        assert len(stub.bodies) == len(questions)
        assert again[:8] == first
        _ask(stub, tmp_path, questions[:1], key=KEY, request={"temperature": 1})  # another question
        assert len(stub.bodies) == len(questions) + 1
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_notebook_may_ask(questions: tuple[Question, ...], tmp_path: Path) -> None:
    """An event loop runs there already."""

    async def cell(stub: ChatStub) -> list[Verdict]:
        return _ask(stub, tmp_path, questions[:2])

    # In a thread of its own: tests with a browser leave an event loop in this one.
    with chat_stub(rightly) as stub, ThreadPoolExecutor(1) as other:
        verdicts = other.submit(asyncio.run, cell(stub)).result()
    assert [verdict.state for verdict in verdicts] == ["answered", "answered"]


def test_the_same_words_on_the_same_picture_are_asked_once(
    questions: tuple[Question, ...], tmp_path: Path
) -> None:
    with chat_stub(rightly) as stub:
        verdicts = _ask(stub, tmp_path, [questions[0]] * 3, Prices(1.0, 1.0))
    assert len(stub.bodies) == 1
    assert [(one.concrete, one.tokens_in) for one in verdicts] == [
        (verdicts[0].concrete, tokens) for tokens in (1000, 0, 0)
    ]
    assert [one.cost for one in verdicts] == [0.0011, 0.0, 0.0]


def test_many_are_asked_at_once_and_no_more(questions: tuple[Question, ...], tmp_path: Path) -> None:
    # No answer before four wait for theirs.
    with chat_stub(rightly, lambda stub, _: stub.busy < 4) as stub:
        _ask(stub, tmp_path, questions, concurrency=4)
    assert stub.busy == 4


@pytest.mark.parametrize(
    "text",
    [
        "I cannot say.",
        '{"concrete": ["dog"',
        '{"concrete": 5}',
        '{"concrete": ["an elephant"]}',
        '{"yes": true}',
        "",
    ],
)
def test_an_answer_that_cannot_be_read_is_no_no(
    questions: tuple[Question, ...], tmp_path: Path, text: str
) -> None:
    with chat_stub(lambda _: text) as stub:
        (verdict,) = _ask(stub, tmp_path, questions[:1])
        (again,) = _ask(stub, tmp_path, questions[:1])
    assert (verdict.state, verdict.interpretable, verdict.reasons) == ("unreadable", None, text)
    assert again == verdict
    assert len(stub.bodies) == 1  # it had arrived


def test_nothing_found_is_a_no(questions: tuple[Question, ...], tmp_path: Path) -> None:
    with chat_stub(lambda _: says(concrete=[], abstract=[])) as stub:
        (verdict,) = _ask(stub, tmp_path, questions[:1])
    assert (verdict.state, verdict.interpretable) == ("answered", False)


def test_words_are_known_whatever_their_case_and_quotes(
    questions: tuple[Question, ...], tmp_path: Path
) -> None:
    with chat_stub(lambda _: says(concrete=[], abstract=[' "DOG" ', "an elephant"])) as stub:
        (verdict,) = _ask(stub, tmp_path, questions[:1])
    assert verdict.abstract == ("dog",)


@pytest.mark.parametrize(
    "fault",
    [
        CUT,
        Sent(body=completion("x"), part=0.5),
        Sent(body=b'{"choices": ['),
        Sent(body=b"<html>", headers=(("content-type", "text/html"),)),
        Sent(body=b'{"error": {"message": "busy"}}'),
        error(500),
        error(503),
    ],
    ids=["cut", "cut in the middle", "half JSON", "HTML", "an error as an answer", "500", "503"],
)
def test_what_passes_is_tried_again(
    questions: tuple[Question, ...], tmp_path: Path, slept: list[float], fault: Sent
) -> None:
    with chat_stub(_failing(fault, fault)) as stub:
        (verdict,) = _ask(stub, tmp_path, questions[:1], pause=1.0)
    assert verdict.interpretable is True
    assert len(stub.bodies) == 3
    first, second = slept
    assert 0.5 <= first <= 1.0 <= second <= 2.0


def test_all_wait_as_long_as_the_endpoint_says(
    questions: tuple[Question, ...], tmp_path: Path, slept: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with chat_stub(_failing(error(429, after=30))) as stub:
        verdicts = _ask(stub, tmp_path, questions, concurrency=1)
    assert len(stub.bodies) == len(questions) + 1
    assert all(verdict.interpretable for verdict in verdicts)
    wait = max(slept)
    assert 30 <= wait <= 31
    assert caplog.messages == ["The endpoint asks to wait 30 s."]


def test_a_rate_spaces_the_requests(
    questions: tuple[Question, ...], tmp_path: Path, slept: list[float]
) -> None:
    with chat_stub(rightly) as stub:
        _ask(stub, tmp_path, questions, rate=30, concurrency=1)
    assert slept == pytest.approx([2.0] * (len(questions) - 1))


@pytest.mark.parametrize("status", [400, 422])
def test_an_endpoint_without_structured_output_is_asked_for_text(
    questions: tuple[Question, ...], tmp_path: Path, status: int
) -> None:
    def make(body: Body) -> Sent | str:
        return error(status, "response_format is unknown") if "response_format" in body else rightly(body)

    with chat_stub(make) as stub:
        verdicts = _ask(stub, tmp_path, questions, concurrency=1)
    assert all(verdict.interpretable for verdict in verdicts)
    assert len(stub.bodies) == len(questions) + 1


def test_structured_output_can_be_left_out(questions: tuple[Question, ...], tmp_path: Path) -> None:
    with chat_stub(rightly) as stub:
        _ask(stub, tmp_path, questions[:1], request={"response_format": None})
    assert "response_format" not in stub.bodies[0]


def test_an_endpoint_that_refuses_a_question_later_is_no_crash(
    questions: tuple[Question, ...], tmp_path: Path
) -> None:
    def make(body: Body) -> Sent | str:
        plain = "response_format" not in body
        return error(400) if not plain or "w8" in asked(body)[0].lower() else rightly(body)

    with chat_stub(make) as stub:
        verdicts = _ask(stub, tmp_path, questions, concurrency=1)
    assert {(verdict.subject.layer, verdict.state) for verdict in verdicts} == {
        (0, "answered"),
        (8, "failed"),
    }


def test_a_refused_question_is_counted_and_others_go_on(
    questions: tuple[Question, ...], tmp_path: Path
) -> None:
    def make(body: Body) -> Sent | str:
        return error(400, "not this picture") if "w8" in asked(body)[0].lower() else rightly(body)

    with chat_stub(make) as stub:
        verdicts = _ask(stub, tmp_path, questions, concurrency=1)
        states = {verdict.subject.layer: verdict.state for verdict in verdicts}
        assert states == {0: "answered", 8: "failed"}
        assert {verdict.reasons for verdict in verdicts if verdict.state == "failed"} == {
            next(one.reasons for one in verdicts if one.state == "failed")
        }
        stub.make = rightly
        assert all(verdict.interpretable for verdict in _ask(stub, tmp_path, questions))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (error(401, f"Incorrect API key {KEY}"), "refuses the API key"),
        (error(403), "refuses the API key"),
        (error(404, "no such model"), "does not have gpt .*no such model"),
        (error(429, code="insufficient_quota"), "no quota left"),
        (error(400, f"bad {KEY}"), r"none of the last 12 questions .*bad \.\.\."),
        (error(500, "broken"), "none of the last 12 questions .*broken"),
        (CUT, "none of the last 12 questions"),
    ],
    ids=["401", "403", "404", "quota", "400", "500", "cut"],
)
def test_what_does_not_pass_ends_the_run_with_a_sentence(
    questions: tuple[Question, ...], tmp_path: Path, slept: list[float], fault: Sent, says: str
) -> None:
    with chat_stub(lambda _: fault) as stub, pytest.raises(LatentBankError, match=says) as found:
        _ask(stub, tmp_path, questions, key=KEY, tries=2)
    assert KEY not in str(found.value)


def test_a_bill_is_guessed_then_measured(questions: tuple[Question, ...], tmp_path: Path) -> None:
    with chat_stub(rightly) as stub:
        judge = Endpoint("gpt", stub.url)
        sources = sources_of(questions)
        with open_answers(tmp_path, judge.base_url, judge.model) as answers:
            before = bill(questions, judge, sources, answers, prices=Prices(1.0, 2.0))
            assert not stub.bodies
            ask(questions[:4], judge, sources, answers)
            after = bill(questions, judge, sources, answers, prices=Prices(1.0, 2.0))
    assert (before.calls, before.kept, before.measured) == (len(questions), 0, False)
    assert 400 * len(questions) < before.tokens_in < 2000 * len(questions)
    assert before.cost == pytest.approx((before.tokens_in + 2 * before.tokens_out) / 1e6)
    left = len(questions) - 4
    assert (after.calls, after.kept, after.measured) == (left, 4, True)
    assert (after.tokens_in, after.tokens_out) == (1000 * left, 100 * left)


def test_a_line_that_a_kill_has_cut_off_is_asked_again(
    questions: tuple[Question, ...], tmp_path: Path
) -> None:
    with chat_stub(rightly) as stub:
        first = _ask(stub, tmp_path, questions)
        (path,) = tmp_path.glob("*.jsonl")
        path.write_bytes(path.read_bytes()[:-20])
        assert _ask(stub, tmp_path, questions)[0].concrete == first[0].concrete
        assert len(stub.bodies) == len(questions) + 1
        path.write_text("something else\n")
        with pytest.raises(LatentBankError, match="something else than answers"):
            _ask(stub, tmp_path, questions)


def test_one_run_at_a_time_asks_a_judge(tmp_path: Path) -> None:
    with open_answers(tmp_path, "http://here/v1", "gpt"):
        with (
            pytest.raises(Locked, match="asks the judge gpt"),
            open_answers(tmp_path, "http://here/v1", "gpt"),
        ):
            pass
        with open_answers(tmp_path, "http://here/v1", "other"):
            pass


def test_sentences_are_named_by_their_numbers(tmp_path: Path) -> None:
    _, readings = readings_in(tmp_path, 1)
    questions = find_questions([readings], study="sentences", controls=0).asked
    with chat_stub(lambda _: says(concrete=["2"], abstract=[], **{"global": [1]})) as stub:
        verdicts = _ask(stub, tmp_path / "answers", questions)
    assert asked(stub.bodies[0])[1] == "Here is a **dog**"
    assert {verdict.concrete for verdict in verdicts} == {("dog",)}
    assert all(verdict.global_ == verdict.candidates[:1] for verdict in verdicts)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("example.org", "must be http"),
        ("https://user:secret@example.org/v1", "neither a user nor a key"),
        ("https://example.org/v1?key=secret", "neither a user nor a key"),
        ("http://example.org/v1", "without encryption"),
    ],
)
def test_keys_stay_out_of_addresses_and_off_open_wires(url: str, says: str) -> None:
    with pytest.raises(LatentBankError, match=says) as found:
        Endpoint("gpt", url, key=KEY)
    assert "secret" not in str(found.value)
    assert KEY not in repr(Endpoint("gpt", "http://localhost:8000/v1", key=KEY))


def test_a_key_goes_to_its_own_endpoint_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert key_from(None, "https://api.openai.com/v1") == KEY
    assert key_from(None, "http://localhost:8000/v1") is None
    assert key_from("OPENAI_API_KEY", "http://localhost:8000/v1") == KEY
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(LatentBankError, match="OPENAI_API_KEY holds no API key"):
        key_from(None, "https://api.openai.com/v1")
