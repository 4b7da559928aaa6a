"""What a browser sends to request a reading, checked and made a `ReadingRequest`."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, cast

from fastapi import Query, Request

from latentbank.bank.layers import BankLayers
from latentbank.bank.where import All, Filter, Where
from latentbank.errors import QueryError
from latentbank.layers import NAMED_BANK_LAYERS
from latentbank.query.lenses.registry import lens_names
from latentbank.query.web.jobs import CauseRequest, GalleryRequest, ReadingRequest, StatesRequest
from latentbank.text import layer_numbers, listed
from latentbank.values import shown

LONGEST_ANSWER = 256
"""Largest number of tokens of an answer that a visitor may ask for."""

Short = Annotated[str, Query(max_length=200)]


def only(kind: type[Any]) -> Callable[[Request], None]:
    """Return a dependency that refuses query parameters which `kind`, a dataclass, does not have.

    A misspelled filter would otherwise be left out without a word.
    """
    known = [field.name for field in fields(kind)]

    def check(request: Request) -> None:
        unknown = sorted(request.query_params.keys() - set(known))
        if unknown:
            raise QueryError(f"There is no parameter {shown(listed(unknown))}; there are {listed(known)}.")

    return check


@dataclass(frozen=True)
class SearchQuery:
    """The query parameters that say what lenses look for; "" stands for what is not given.

    Attributes:
        bank_layers: "mid", "all", "paper" or bank layers with commas.
        lens: names of lenses with commas.
        top_k: neighbors for each token.
        corpus, word, caption: filters, as `where_of` takes them.
        unique: as for `read_image`.
    """

    bank_layers: Short = "mid"
    lens: Short = "latent"
    top_k: Annotated[int, Query(ge=1, le=50)] = 5
    corpus: Short = ""
    word: Short = ""
    caption: Short = ""
    unique: Literal["", "context", "word"] = ""

    def searched(self) -> dict[str, Any]:
        """Return these choices as requests for readings name them.

        Raises:
            QueryError: layers or lenses that do not exist.
        """
        return {
            "bank_layers": _bank_layers(self.bank_layers),
            "lenses": tuple(lens_names(self.lens)),
            "top_k": self.top_k,
            "where": where_of(self.corpus, self.word, self.caption),
            "unique": self.unique or None,
        }


@dataclass(frozen=True)
class ReadingQuery(SearchQuery):
    """The query parameters of a request for a reading, as the page sends them; "" stands for what is not given.

    Attributes:
        picture: name of one of the page's own images.
        upload: key of an image that was uploaded before.
        name: file name of the image in the request's body.
        sentence: the text to read.
        model: name of one of the page's models.
        layers: visual layers (of a sentence: layers) with commas.
        tokens: "all" reads the text of the prompt as well.
        answer: as for `read_image`.
        correct: how scores are corrected: "hubs", "mean", "both" or "none"; "": as the service does.
        fdr: the largest share of the words given that may be false; 0: all tokens have words.
    """

    picture: Short = ""
    upload: Short = ""
    name: Annotated[str, Query(max_length=400)] = ""
    sentence: Annotated[str, Query(max_length=2000)] = ""
    model: Short = ""
    layers: Short = ""
    tokens: Literal["", "visual", "all"] = ""
    answer: Annotated[int, Query(ge=0, le=LONGEST_ANSWER)] = 0
    correct: Literal["", "none", "hubs", "mean", "both"] = ""
    fdr: Annotated[float, Query(ge=0, lt=1)] = 0

    def request(self, name: str, image: bytes | None) -> ReadingRequest:
        """Return the request for a reading of an image, or of the sentence if `image` is None.

        Args:
            name: what the reading calls its source.
            image: bytes of an image file.

        Raises:
            QueryError: layers or lenses that do not exist.
        """
        return ReadingRequest(
            name=name,
            image=image,
            sentence=self.sentence,
            model=self.model,
            layers=_layers(self.layers) or None,
            **self.searched(),
            tokens=self.tokens or "visual",
            answer=self.answer,
            correct=self.correct,
            fdr=self.fdr or None,
        )


@dataclass(frozen=True)
class CausesQuery(ReadingQuery):
    """The query parameters of a request to ablate the tokens of a word.

    Attributes:
        of: the word.
        at: the visual layer.
    """

    of: Annotated[str, Query(min_length=1, max_length=200)] = ""
    at: Annotated[int, Query(ge=0)] = 0

    def causes(self, name: str, image: bytes) -> CauseRequest:
        """Return the request to ablate tokens of the image.

        Raises:
            QueryError: layers or lenses that do not exist, or no word.
        """
        if not self.of.strip():
            raise QueryError("Name the word whose tokens are ablated.")
        return CauseRequest(self.request(name, image), self.of.strip(), self.at)


@dataclass(frozen=True)
class GalleryQuery:
    """The query parameters of a request for the bank's images that show a word, or what a patch shows.

    Attributes:
        word: the word, or several that follow each other.
        like: instead of it, the id of a stored patch, or row, column and tile of a patch of `picture` or `upload`, with
            commas.
        picture: one of the page's pictures.
        upload: the key of an image that was uploaded.
        model: name of one of the page's models; "": the first.
    """

    word: Annotated[str, Query(max_length=200)] = ""
    like: Short = ""
    picture: Short = ""
    upload: Short = ""
    model: Short = ""

    @property
    def of_image(self) -> bool:
        """Whether it asks for a patch of an image that is opened."""
        return bool(self.like and (self.picture or self.upload) and "," in self.like)

    def request(self, name: str = "", image: bytes | None = None) -> GalleryRequest:
        """Return the request; `name` and `image` are those of the image whose patch is asked for.

        Raises:
            QueryError: there is neither a word nor a patch.
        """
        word = " ".join(self.word.split())
        if not word and not self.like:
            raise QueryError("Write the word to find.")
        if not self.like:
            return GalleryRequest(self.model, word=word)
        if image is None:
            return GalleryRequest(self.model, like=_point_id(self.like))
        numbers = self.like.split(",")
        if len(numbers) != 3 or not all(re.fullmatch(r"[0-9]{1,6}", number) for number in numbers):
            raise QueryError(f"'{self.like}' is no patch; give its row, column and tile.")
        row, column, tile = map(int, numbers)
        return GalleryRequest(self.model, place=(row, column, tile), image=image, name=name)


@dataclass(frozen=True)
class StatesQuery(SearchQuery):
    """The query parameters of a request that brings hidden states; "" stands for what is not given.

    Attributes:
        source: what the reading calls them.
        layer: layers of the body with commas; where it does not say, the one its states come from.
        tensor: the tensor to read, if there are several.
        query_mean: for a centred bank, as for `read_hidden`.
    """

    source: Annotated[str, Query(max_length=400)] = ""
    layer: Short = ""
    tensor: Short = ""
    query_mean: Literal["", "text", "batch"] = ""

    def request(self, body: bytes) -> StatesRequest:
        """Return the request for a reading of the hidden states in a body.

        Raises:
            QueryError: layers or lenses that do not exist.
        """
        return StatesRequest(
            body=body,
            source=shown_name(self.source) or "request",
            layers=_layers(self.layer) or None,
            tensor=self.tensor or None,
            **self.searched(),
            query_mean=self.query_mean or None,
        )


def _point_id(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise QueryError(f"'{text}' is no patch of the bank; choose one of a gallery.") from None


def where_of(corpus: str, word: str, caption: str) -> Filter | None:
    """Return one filter that all given parts must pass; None if none is given. A word matches in any common case."""
    parts: list[Filter] = []
    if corpus:
        parts.append(Where(corpus=corpus))
    if word.strip():
        given = word.strip()
        forms = dict.fromkeys((given, given.lower(), given.capitalize(), given.upper()))
        parts.append(Where(word=tuple(forms)))
    if caption.strip():
        parts.append(Where(caption_contains=caption.strip()))
    return None if not parts else parts[0] if len(parts) == 1 else All(tuple(parts))


def shown_name(name: str) -> str:
    """Return a file's name made safe to show: on one line, and at most 120 characters."""
    return "".join(letter if letter.isprintable() else "·" for letter in name)[:120]


def _bank_layers(text: str) -> BankLayers:
    return cast("BankLayers", text) if text in NAMED_BANK_LAYERS else _layers(text)


def _layers(text: str) -> tuple[int, ...]:
    """Return the layers in a text field, in which superfluous commas are allowed; none if it is empty."""
    parts = [part for part in text.split(",") if part.strip()]
    return tuple(layer_numbers(",".join(parts))) if parts else ()
