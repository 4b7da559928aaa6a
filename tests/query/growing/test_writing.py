"""Sentences that an LLM writes: what it is asked, how its answers are read, and what is kept of a run that ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentbank.errors import LatentBankError, ModelError
from latentbank.models.language.writing import Writer
from latentbank.query.growing.writing import ask_endpoint, ask_model, questions, sentences_of
from latentbank.query.judging.answers import open_answers
from latentbank.query.judging.endpoint import Endpoint
from tests.wire.chat import ChatStub, chat_stub, error

WORDS = [("seal", "fish"), ("Seal", "boat"), ("shirt", "coat"), ("seal",), ()]


def test_questions_name_the_words_that_most_tokens_have_first() -> None:
    asked = questions(WORDS, 5)
    assert len(asked) == 2
    assert "seal" in asked[0]
    assert "fish" in asked[0]
    assert "boat" in asked[0]
    assert "shirt" not in asked[0]
    assert "coat" in asked[1]
    assert questions(WORDS, 1) == asked[:1]


def test_answers_are_read_with_and_without_bullets() -> None:
    texts = [
        "1. A seal lies on a rock.\n2) A seal lies on a rock.\n\nSure:\n- “A boat at sea.”",
        "* A red coat",
    ]
    assert sentences_of(texts) == ["A seal lies on a rock.", "A boat at sea.", "A red coat"]


def _ask(stub: ChatStub, folder: Path, asked: list[str], key: str | None = None) -> list[str]:
    endpoint = Endpoint("writer", stub.url, key, {"temperature": 1}, tries=1, pause=0.0)
    with open_answers(folder, endpoint.base_url, endpoint.model) as answers:
        return ask_endpoint(asked, endpoint, answers)


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    asked = questions(WORDS, 2)
    with chat_stub(lambda body: error(400) if "coat" in str(body) else "A seal.") as stub:
        assert _ask(stub, tmp_path, asked) == ["A seal."]
        stub.make = lambda body: "A coat."
        assert _ask(stub, tmp_path, asked) == ["A seal.", "A coat."]
    assert [body["messages"][0]["content"] for body in stub.bodies].count(asked[0]) == 1
    assert all(body["model"] == "writer" and body["temperature"] == 1 for body in stub.bodies)
    assert not any("response_format" in body for body in stub.bodies)


def test_an_endpoint_that_answers_nothing_or_refuses_the_key_ends_the_run(tmp_path: Path) -> None:
    with chat_stub(lambda body: error(400, "no such thing")) as stub:
        with pytest.raises(LatentBankError, match=r"answered no question .*no such thing"):
            _ask(stub, tmp_path, ["What?", "Who?"])
        stub.make = lambda body: error(401)
        with pytest.raises(LatentBankError, match="refuses the API key"):
            _ask(stub, tmp_path, ["What?"], "secret")


def test_a_local_model_answers_alike_each_time(tiny_dir: Path, tmp_path: Path) -> None:
    writer = Writer(tiny_dir, device="cpu", tokens=8)
    first, again = ask_model(["The dog", "The dog"], writer)
    assert first == again
    with pytest.raises(ModelError, match="cannot be loaded to write"):
        Writer(tmp_path)
