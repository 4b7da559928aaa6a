"""Sentences that an LLM writes for what a bank lacks.

Nobody knows what a token shows that has no near context. Its nearest words are a hint, though: what the bank lacks is
often like them. The LLM is asked for sentences about other things of that kind; growing takes those that come nearer.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from latentbank.errors import LatentBankError
from latentbank.progress import Progress, Silent
from latentbank.query.judging.answers import AnswerFile, key_of
from latentbank.query.judging.endpoint import Connection, Endpoint, Unanswered
from latentbank.text import listed

SENTENCES = 10
"""Sentences that one question asks for."""
_HINTS = 8  # words that a question names
_FEWEST = 3  # words of a sentence
_MARK = re.compile(r"^\s*(?:[-*•]|\(?\d+[.):])\s*")


def questions(words: Sequence[Sequence[str]], count: int) -> list[str]:
    """Return what an LLM is asked, at most `count` questions: those about the words that most tokens have first.

    Args:
        words: the nearest words of each token, the nearest first, as `Missing.words` has them.
        count: how many questions.
    """
    groups: dict[str, Counter[str]] = {}
    sizes: Counter[str] = Counter()
    for own in words:
        if own:
            first = own[0].casefold()
            sizes[first] += 1
            groups.setdefault(first, Counter()).update(own)
    return [
        f"Spots in photos look a little like these words, but none of the words is right: "
        f"{listed([word for word, _ in groups[first].most_common(_HINTS)])}. Think of other things that such a spot "
        f"may show. Write {SENTENCES} short sentences, each about a different thing, as people write them under "
        "photos. Write each sentence on a line of its own, and nothing else."
        for first, _ in sizes.most_common(count)
    ]


def sentences_of(texts: Sequence[str]) -> list[str]:
    """Return the sentences in an LLM's answers: each once, without bullets, with three words or more."""
    lines = (_MARK.sub("", line).strip().strip('"“”') for text in texts for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if len(line.split()) >= _FEWEST and "\0" not in line))


def ask_endpoint(
    asked: Sequence[str], endpoint: Endpoint, answers: AnswerFile, progress: Progress | None = None
) -> list[str]:
    """Ask an endpoint that speaks OpenAI's API all questions, and return its answers in their order.

    What was answered before is read from `answers`. A question without an answer is left out.

    Args:
        asked: from `questions`.
        endpoint: the endpoint.
        answers: from `latentbank.query.judging.answers.open_answers`.
        progress: counts answers.

    Raises:
        LatentBankError: the endpoint refuses the key, does not have the model, or answers no question; openai is not
            installed.
    """
    with ThreadPoolExecutor(1) as other:  # an event loop may run in this thread, as in a notebook
        return other.submit(asyncio.run, _ask_all(asked, endpoint, answers, progress or Silent())).result()


async def _ask_all(
    asked: Sequence[str], endpoint: Endpoint, answers: AnswerFile, progress: Progress
) -> list[str]:
    plain = replace(endpoint, request={**endpoint.request, "response_format": None})
    connection = Connection(plain)
    places = asyncio.Semaphore(endpoint.concurrency)
    found: dict[int, str] = {}
    reasons: list[str] = []

    async def ask(number: int) -> None:
        body: dict[str, Any] = {name: value for name, value in endpoint.request.items() if value is not None}
        body |= {"model": endpoint.model, "messages": [{"role": "user", "content": asked[number]}]}
        key = key_of({**body, "endpoint": endpoint.base_url})
        answer = answers.get(key)
        if answer is None:
            async with places:
                try:
                    answer = await connection.ask(body, {})
                except Unanswered as error:
                    reasons.append(str(error))
                    return
            answers.put(key, answer)
        found[number] = answer.text
        progress.update(len(found), len(asked))

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(len(asked)):
                group.create_task(ask(number))
    except* LatentBankError as errors:
        raise errors.exceptions[0] from None
    finally:
        await connection.close()
    if asked and not found:
        raise LatentBankError(
            f"The endpoint has answered no question ({reasons[0]}); the same call asks again."
        )
    return [found[number] for number in sorted(found)]


def ask_model(
    asked: Sequence[str], write: Callable[[str], str], progress: Progress | None = None
) -> Iterator[str]:
    """Yield the answers of a model of this machine; `write` is a `latentbank.models.language.writing.Writer`.

    Args:
        asked: from `questions`.
        write: returns the model's answer.
        progress: counts answers.
    """
    for number, question in enumerate(asked):
        yield write(question)
        (progress or Silent()).update(number + 1, len(asked))
