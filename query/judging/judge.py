"""Asking a judge all questions: many at once, each answer kept on disk, its price known before and meanwhile."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from latentbank.errors import LatentBankError
from latentbank.models.vision.sources import ImageSource
from latentbank.progress import Progress, Silent
from latentbank.query.judging.answers import Answer, AnswerFile, key_of
from latentbank.query.judging.endpoint import Connection, Endpoint, Unanswered
from latentbank.query.judging.prompts import messages_of, read_answer, schema_of
from latentbank.query.judging.questions import Question
from latentbank.query.judging.verdicts import Verdict
from latentbank.query.judging.views import crop, jpeg, picture

T = TypeVar("T")

_MILLION = 1_000_000
_LETTERS = 4  # of text in a token, about
_PATCH = 32  # side in pixels of the part of a picture that is a token, about
_WRITTEN = 250  # tokens of an answer, about
_SYNC = 1.0  # seconds between two syncs of the answers
_GIVE_UP = 16  # questions in a row without an answer after which the run ends


@dataclass(frozen=True)
class Prices:
    """Prices of a million tokens, in any currency.

    Attributes:
        tokens_in: of questions.
        tokens_out: of answers.
    """

    tokens_in: float
    tokens_out: float

    def of(self, tokens_in: float, tokens_out: float) -> float:
        """Return the price of so many tokens."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / _MILLION


@dataclass(frozen=True)
class Bill:
    """What a run would ask for, or has asked for.

    Attributes:
        calls: questions without an answer yet; those of which every word and picture is the same are asked once.
        kept: questions whose answer is on disk.
        tokens_in: tokens of the questions without an answer.
        tokens_out: tokens of their answers.
        cost: their price; None without prices.
        measured: whether tokens are means of earlier answers of this judge; otherwise they are guessed from letters
            and pixels.
    """

    calls: int
    kept: int
    tokens_in: int
    tokens_out: int
    cost: float | None
    measured: bool


@dataclass(frozen=True)
class _Asked:
    """A question as it is sent, and what its answer is kept under."""

    number: int
    question: Question
    body: Mapping[str, Any]
    key: str


def ask(
    questions: Sequence[Question],
    endpoint: Endpoint,
    sources: Mapping[str, ImageSource],
    answers: AnswerFile,
    *,
    prices: Prices | None = None,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Ask a judge all questions and return its verdicts, in the questions' order.

    What was asked before and answered is read from `answers`. A question that gets no answer has the state `failed` and
    is asked again by the next call.

    Args:
        questions: from `find_questions`.
        endpoint: the judge.
        sources: the image of each question, from `sources_of`.
        answers: from `open_answers`.
        prices: prices of its tokens; None: verdicts have no cost.
        progress: receives the number of verdicts, and what they cost.

    Raises:
        LatentBankError: the endpoint refuses the key, does not have the model, or does not answer; openai is not
            installed; an answer cannot be kept.
        ImageError: an image cannot be read.
    """
    return _run_async(ask_all(questions, endpoint, sources, answers, prices=prices, progress=progress))


def _run_async(asked: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, in a thread of its own where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(asked)
    with ThreadPoolExecutor(1) as other:
        return other.submit(asyncio.run, asked).result()


async def ask_all(
    questions: Sequence[Question],
    endpoint: Endpoint,
    sources: Mapping[str, ImageSource],
    answers: AnswerFile,
    *,
    prices: Prices | None = None,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Do what `ask` does, inside an event loop."""
    run = _Run(questions, endpoint, answers, prices, progress or Silent())
    syncing = asyncio.create_task(_synced(answers))
    try:
        await run.all(sources)
    finally:
        syncing.cancel()
        with suppress(asyncio.CancelledError):
            await syncing
        await run.connection.close()
    return [verdict for verdict in run.verdicts if verdict is not None]


def bill(
    questions: Sequence[Question],
    endpoint: Endpoint,
    sources: Mapping[str, ImageSource],
    answers: AnswerFile,
    *,
    prices: Prices | None = None,
    progress: Progress | None = None,
) -> Bill:
    """Return what `ask` would ask for, without asking. The arguments and errors are those of `ask`."""
    return _run_async(_bill(questions, endpoint, sources, answers, prices, progress or Silent()))


async def _bill(
    questions: Sequence[Question],
    endpoint: Endpoint,
    sources: Mapping[str, ImageSource],
    answers: AnswerFile,
    prices: Prices | None,
    progress: Progress,
) -> Bill:
    calls = guessed = done = 0
    seen: set[str] = set()
    async for asked in _prepared(questions, endpoint, sources):
        done += 1
        progress.update(done, len(questions))
        if asked.key not in seen and answers.get(asked.key) is None:
            calls += 1
            guessed += _guess(asked)
        seen.add(asked.key)
    earlier = [answer for answer in answers.all() if answer.tokens_in]
    tokens_in, tokens_out = float(guessed), float(calls * _WRITTEN)
    if earlier:
        tokens_in = calls * sum(answer.tokens_in for answer in earlier) / len(earlier)
        tokens_out = calls * sum(answer.tokens_out for answer in earlier) / len(earlier)
    cost = None if prices is None else prices.of(tokens_in, tokens_out)
    return Bill(calls, len(seen) - calls, round(tokens_in), round(tokens_out), cost, bool(earlier))


def _guess(asked: _Asked) -> int:
    """Return about how many tokens a question has."""
    content = asked.body["messages"][0]["content"]
    letters = sum(len(part["text"]) for part in content if part["type"] == "text")
    wide, high = asked.question.view.size
    return letters // _LETTERS + wide * high // _PATCH**2 + (256 // _PATCH) ** 2


class _Run:
    """One run: workers take prepared questions from a queue, so that pictures are made while others are answered."""

    def __init__(
        self,
        questions: Sequence[Question],
        endpoint: Endpoint,
        answers: AnswerFile,
        prices: Prices | None,
        progress: Progress,
    ) -> None:
        self.questions, self.endpoint, self.answers = questions, endpoint, answers
        self.prices, self.progress = prices, progress
        self.connection = Connection(endpoint)
        self.verdicts: list[Verdict | None] = [None] * len(questions)
        self.done = self.failed_in_a_row = 0
        self.spent = 0.0
        self.same: dict[str, list[_Asked]] = {}  # what is being asked, and who waits for it
        self.billed: set[str] = set()
        self.queue: asyncio.Queue[_Asked | None] = asyncio.Queue(endpoint.concurrency)

    async def all(self, sources: Mapping[str, ImageSource]) -> None:
        """Ask all questions; the first error ends the run."""
        workers = [asyncio.create_task(self._work()) for _ in range(self.endpoint.concurrency)]
        filling = asyncio.create_task(self._fill(sources))
        try:
            await asyncio.gather(filling, *workers)
        finally:
            for task in (filling, *workers):
                task.cancel()
            await asyncio.gather(filling, *workers, return_exceptions=True)

    async def _fill(self, sources: Mapping[str, ImageSource]) -> None:
        async for asked in _prepared(self.questions, self.endpoint, sources):
            if (kept := self.answers.get(asked.key)) is not None:
                self._settle(asked, kept)
            elif asked.key in self.same:
                self.same[asked.key].append(asked)
            else:
                self.same[asked.key] = [asked]
                await self.queue.put(asked)
        for _ in range(self.endpoint.concurrency):
            await self.queue.put(None)

    async def _work(self) -> None:
        while (asked := await self.queue.get()) is not None:
            try:
                answer = await self.connection.ask(asked.body, schema_of(asked.question.study))
            except Unanswered as error:
                self._fail(self.same.pop(asked.key), str(error))
                continue
            self.answers.put(asked.key, answer)
            await asyncio.sleep(
                0
            )  # other answers that have arrived are kept before the next question is sent
            self.failed_in_a_row = 0
            self.spent += self._price(answer) or 0.0
            for one in self.same.pop(asked.key):
                self._settle(one, answer)

    def _price(self, answer: Answer) -> float | None:
        return None if self.prices is None else self.prices.of(answer.tokens_in, answer.tokens_out)

    def _settle(self, asked: _Asked, answer: Answer) -> None:
        """Turn an answer into a verdict. Of several verdicts from one answer, the first has its tokens and price."""
        lists = read_answer(answer.text, asked.question)
        found: dict[str, Any] = {"state": "unreadable", "reasons": answer.text} if lists is None else lists
        billed = Answer("", 0, 0, 0.0) if asked.key in self.billed else answer
        found |= {"tokens_in": billed.tokens_in, "tokens_out": billed.tokens_out, "cost": self._price(billed)}
        self.billed.add(asked.key)
        self._put(asked, **found, seconds=answer.seconds)

    def _fail(self, waiting: Sequence[_Asked], reason: str) -> None:
        """Count a question as failed, and those that are the same.

        Raises:
            LatentBankError: so many have failed in a row that the endpoint seems to be gone.
        """
        for asked in waiting:
            self._put(asked, state="failed", reasons=reason)
        self.failed_in_a_row += 1
        if self.failed_in_a_row >= min(_GIVE_UP, len(self.questions)):
            raise LatentBankError(
                f"The endpoint has answered none of the last {self.failed_in_a_row} questions ({reason}); the same "
                "call continues when it does."
            )

    def _put(self, asked: _Asked, **answer: Any) -> None:
        self.verdicts[asked.number] = Verdict.of(asked.question, self.endpoint.model, **answer)
        self.done += 1
        if self.prices is not None:
            self.progress.note(f"{self.spent:.4g} spent")
        self.progress.update(self.done, len(self.questions))


async def _prepared(
    questions: Sequence[Question], endpoint: Endpoint, sources: Mapping[str, ImageSource]
) -> AsyncIterator[_Asked]:
    """Yield each question as it is sent. The pictures of an image serve all its questions, which stand together."""
    last: object = None
    pictures = _Pictures("", "")
    for number, question in enumerate(questions):
        shown = (question.subject.source, question.view, question.box)
        if shown != last:
            pictures = await asyncio.to_thread(_pictures, question, sources[question.subject.source])
            last = shown
        body = {
            **{name: value for name, value in endpoint.request.items() if value is not None},
            "model": endpoint.model,
            "messages": messages_of(question, pictures.whole, pictures.crop),
        }
        # The same, with digests in the pictures' places: hashing them for each question would take a millisecond.
        named = {**body, "messages": messages_of(question, *pictures.digests), "endpoint": endpoint.base_url}
        yield _Asked(number, question, body, key_of(named))


@dataclass(frozen=True)
class _Pictures:
    """The pictures of a question as data URIs."""

    whole: str
    crop: str

    @cached_property
    def digests(self) -> tuple[str, str]:
        """Digests of both."""
        return key_of({"": self.whole}), key_of({"": self.crop})


def _pictures(question: Question, source: ImageSource) -> _Pictures:
    """Return the pictures of a question."""
    image = source.open()
    shown = picture(image, question.view, question.box), crop(image, question.view, question.box)
    whole, part = (f"data:image/jpeg;base64,{base64.b64encode(jpeg(one)).decode()}" for one in shown)
    return _Pictures(whole, part)


async def _synced(answers: AnswerFile) -> None:
    """Sync the answers once a second."""
    while True:
        await asyncio.sleep(_SYNC)
        await asyncio.to_thread(answers.sync)
