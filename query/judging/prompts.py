"""What a judge is asked, and how its answer is read.

The protocol is the paper's (arXiv 2602.00462) in words of our own: the image with the box, the crop, the words or
sentences, three kinds of relation, reasons first, and a JSON object last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from latentbank.query.judging.questions import Question, Study

_PICTURES = """\
You see two pictures. The first is a whole image in which a red box marks a region. The second shows what is in that
box, enlarged; use it for details that are too small in the first."""
_KINDS = """\
- concrete: what it names can be seen in the red box: a thing or a part of one, a colour, a material, a texture, a
  shape, or writing.
- abstract: it fits what is in the box, but cannot be seen itself: an idea, a mood, a quality, an activity, a purpose,
  or whatever else is close to it in meaning.
- global: what it names can be seen in the image, but outside the box.

A name need not be exact: something closely related counts, such as "castle" for a house.

Writing is a special case. If there is text in the box, what is a part of that text, or names one of its letters, digits
or signs, is concrete, and what fits the meaning of the text is abstract."""
_OBJECT = '{"reasons": "...", "concrete": [], "abstract": [], "global": []}'

_ASKED: dict[Study, str] = {
    "words": f"""\
{_PICTURES} After the pictures comes a list of words. Find out which of them describe the region, and how:

{_KINDS}

A word goes into the first list that it fits. A word that fits none of them is left out.

Think about each of the three kinds in turn first, and write down as reasons which words fit it and why. Then end with
one JSON object of this form, in which the lists hold words exactly as they were given:

{_OBJECT}""",
    "sentences": f"""\
{_PICTURES} After the pictures comes a list of numbered sentences, each with one place marked by **. Find out for which
of them the marked place describes the region, and how:

{_KINDS}

Judge the word that is marked. Take the few words next to it into account only if it is unclear alone. If nothing but a
distant part of the sentence fits the region, the sentence fits none of the three. A sentence goes into the first list
that it fits. A sentence that fits none of them is left out.

Think about each sentence in turn first, and write down as reasons what fits and why. Then end with one JSON object of
this form, in which the lists hold the numbers of sentences:

{_OBJECT}""",
}


def messages_of(question: Question, picture: str, crop: str) -> list[dict[str, Any]]:
    """Return the messages of a question, as chat completions take them.

    What all questions share comes first, then what those of one image share, so that endpoints can keep both.

    Args:
        question: the question; nothing of its subject is told.
        picture: the image with the box, as a data URI.
        crop: what is in the box, as a data URI.
    """
    lines = [f"{number}. {one.marked()}" for number, one in enumerate(question.candidates, start=1)]
    if question.study == "words":
        lines = [f"- {candidate.word}" for candidate in question.candidates]
    content = [
        {"type": "text", "text": _ASKED[question.study]},
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "image_url", "image_url": {"url": crop}},
        {"type": "text", "text": "\n".join([f"The {question.study}:", *lines])},
    ]
    return [{"role": "user", "content": content}]


def schema_of(study: Study) -> dict[str, Any]:
    """Return the response format that asks an endpoint for structured output; it is the same for every question."""
    item = {"type": "string" if study == "words" else "integer"}
    lists = {kind: {"type": "array", "items": item} for kind in ("concrete", "abstract", "global")}
    properties = {"reasons": {"type": "string"}, **lists}
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}


def read_answer(text: str, question: Question) -> dict[str, Any] | None:
    """Return the lists and reasons in a judge's answer, by the attributes of `Verdict`; None if it cannot be read.

    The last JSON object with at least one of the lists counts. Case, quotes and numbering are ignored. Words that were
    not asked about are left out; if a list holds nothing else, the answer cannot be read.
    """
    answer = _last_object(text)
    if answer is None:
        return None
    words = [candidate.word for candidate in question.candidates]
    found: dict[str, Any] = {"reasons": str(answer.get("reasons") or _before(text))}
    for kind, name in (("concrete", "concrete"), ("abstract", "abstract"), ("global", "global_")):
        given = answer.get(kind)
        entries = [given] if isinstance(given, str) and given else given or []
        if not isinstance(entries, list):
            return None
        numbers = [
            number for entry in entries if (number := _number(entry, words, question.study)) is not None
        ]
        if entries and not numbers:
            return None
        found[name] = tuple(words[number] for number in dict.fromkeys(numbers))
    return found


def _last_object(text: str) -> Mapping[str, Any] | None:
    decoder = json.JSONDecoder()
    for match in reversed(list(re.finditer(r"\{", text))):
        try:
            found, _ = decoder.raw_decode(text, match.start())
        except ValueError:
            continue
        if isinstance(found, dict) and found.keys() & {"concrete", "abstract", "global"}:
            return found
    return None


def _before(text: str) -> str:
    """Return what stands before the first JSON object."""
    return text.partition("{")[0].removesuffix("```json\n").strip()


def _number(entry: object, words: Sequence[str], study: Study) -> int | None:
    """Return which candidate an entry of a list means: a word, or the number of a sentence; None if none."""
    if study == "words" or not re.fullmatch(r"\s*\d+\s*", str(entry)):
        plain = _plain(str(entry))
        return next((at for at, word in enumerate(words) if _plain(word) == plain), None)
    number = int(str(entry)) - 1
    return number if 0 <= number < len(words) else None


def _plain(word: str) -> str:
    """Return a word without what judges add or leave out: case, quotes, marks and white space around."""
    return word.strip().strip("\"'`*“”‘’").strip().casefold() or word
