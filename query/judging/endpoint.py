"""A judge behind an endpoint that speaks OpenAI's API: hosted, vLLM, Ollama or another.

Requests are spaced to a rate and tried again where that helps. One 429 makes all of them wait, for as long as the
endpoint says. Structured output is asked for until the endpoint refuses it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import urlsplit

from latentbank.errors import LatentBankError
from latentbank.query.judging.answers import Answer
from latentbank.text import public_reason

log = logging.getLogger("latentbank")

OPENAI = "https://api.openai.com/v1"
"""The endpoint by default. Only to its host the key in `OPENAI_API_KEY` goes without being named."""
_LONGEST_WAIT = 60.0  # seconds between two tries; an endpoint may ask for more
_WORTH_SAYING = 10.0  # seconds of a pause
_NO_KEY = "none"  # openai's client wants one; endpoints without keys ignore it


class Unanswered(Exception):
    """Raised where a question gets no answer, although others may: all tries failed, or the endpoint refuses it."""


@dataclass(frozen=True)
class Endpoint:
    """A judge and how it is asked.

    Attributes:
        model: the judge's model, as the endpoint calls it.
        base_url: the endpoint, up to and with `/v1`.
        key: the API key; None: there is none. It is written nowhere.
        request: further fields of each request, such as `{"temperature": 0}`. With a `response_format`, also None,
            structured output is not asked for.
        concurrency: questions on their way at once.
        rate: most requests a minute; None: no limit but the endpoint's own.
        timeout: seconds to wait for an answer.
        tries: how often a question is asked before it counts as failed.
        pause: seconds before the second try; doubles, unless the endpoint says how long.
    """

    model: str
    base_url: str = OPENAI
    key: str | None = field(default=None, repr=False)
    request: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int = 16
    rate: float | None = None
    timeout: float = 120.0
    tries: int = 6
    pause: float = 1.0

    def __post_init__(self) -> None:
        """Raise LatentBankError if the URL is none, holds a key, or would carry one in the clear."""
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise LatentBankError(
                "The endpoint must be http://HOST:PORT/v1 or https://HOST/v1.", argument="base_url"
            )
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise LatentBankError(
                "The endpoint's address must hold neither a user nor a key; put the key into a variable of the "
                "environment.",
                argument="base_url",
            )
        if self.key and parts.scheme == "http" and not _is_near(parts.hostname):
            raise LatentBankError(
                f"A key would go to {parts.hostname} without encryption; use https.", argument="base_url"
            )


def _is_near(host: str) -> bool:
    """Return whether a host is this machine, or in a private network or without a domain."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".lan"))


def key_from(variable: str | None, base_url: str) -> str | None:
    """Return the API key from the environment; None if there is none.

    Args:
        variable: the variable that holds it; None: `OPENAI_API_KEY`, but for OpenAI's own endpoint only.
        base_url: the endpoint.

    Raises:
        LatentBankError: the variable is not set or holds no key, or OpenAI's endpoint has none.
    """
    own = urlsplit(base_url).hostname == urlsplit(OPENAI).hostname
    if variable is None and not own:
        return None
    name = variable or "OPENAI_API_KEY"
    key = os.environ.get(name, "").strip()
    if not (key and key.isascii() and key.isprintable()):
        raise LatentBankError(
            f"The variable {name} holds no API key; set it in the environment, or name another endpoint.",
            argument="key_variable",
        )
    return key


class Connection:
    """Asks an endpoint; made and used inside one event loop.

    Attributes:
        endpoint: the endpoint.
        requests: requests sent so far.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        """Prepare the client.

        Raises:
            LatentBankError: openai is not installed.
        """
        try:
            import openai
        except ImportError:
            raise LatentBankError("A judge needs openai: pip install 'latentbank[judge]'.") from None
        self.endpoint = endpoint
        self.requests = 0
        self._openai = openai
        self._client = openai.AsyncOpenAI(
            api_key=endpoint.key or _NO_KEY,
            base_url=endpoint.base_url,
            timeout=endpoint.timeout,
            max_retries=0,
        )
        self._structured: bool | None = None  # not known before the first answer
        self._next = self._shut = 0.0

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def ask(self, body: Mapping[str, Any], response_format: Mapping[str, Any]) -> Answer:
        """Ask one question and return the answer, with structured output where the endpoint has it.

        Args:
            body: the request.
            response_format: what asks for structured output; left out once the endpoint has refused it.

        Raises:
            Unanswered: all tries failed, or the endpoint refuses this question.
            LatentBankError: the endpoint refuses the key, or does not have the model or the means to pay.
        """
        if self._structured is False or "response_format" in self.endpoint.request:
            return await self._plainly(body)
        try:
            answer = await self._try({**body, "response_format": response_format})
        except self._openai.APIStatusError as error:
            if error.status_code not in (400, 422) or self._structured:
                raise self._unanswered(error) from None
            answer = await self._plainly(body)
            if self._structured is None:
                log.warning("The endpoint has no structured output; answers are read as text.")
            self._structured = False
        else:
            self._structured = True
        return answer

    async def _plainly(self, body: Mapping[str, Any]) -> Answer:
        try:
            return await self._try(body)
        except self._openai.APIStatusError as error:
            raise self._unanswered(error) from None

    async def _try(self, body: Mapping[str, Any]) -> Answer:
        """Ask until an answer comes.

        Raises:
            openai.APIStatusError: the endpoint refuses the request.
            Unanswered, LatentBankError: as for `ask`.
        """
        import tenacity

        kind = self._openai
        passing = (kind.APIConnectionError, kind.RateLimitError, kind.InternalServerError, _Unreadable)
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(passing),
            stop=tenacity.stop_after_attempt(self.endpoint.tries),
            wait=self._wait,
            sleep=_sleep,
        )
        try:
            return cast("Answer", await retrying(self._once, body))
        except tenacity.RetryError as error:
            last = error.last_attempt.exception()
            assert last is not None
            raise Unanswered(self._reason(last)) from None

    async def _once(self, body: Mapping[str, Any]) -> Answer:
        kind = self._openai
        await self._turn()
        self.requests += 1
        started = time.monotonic()
        try:
            data = await self._client.post("/chat/completions", cast_to=object, body=body)
        except (kind.AuthenticationError, kind.PermissionDeniedError):
            raise LatentBankError(
                "The endpoint refuses the API key; check it, and that it may use this model.",
                argument="key_variable",
            ) from None
        except kind.NotFoundError as error:
            raise LatentBankError(
                f"The endpoint does not have {self.endpoint.model} ({self._reason(error)}); check the model's name and "
                "the address, which ends with /v1.",
                argument="model",
            ) from None
        except kind.RateLimitError as error:
            if error.code == "insufficient_quota":
                raise LatentBankError(
                    "The endpoint says that this key has no quota left; the same call continues when it has."
                ) from None
            raise
        except ValueError as error:  # the body is no JSON
            raise _Unreadable(f"the endpoint sent no JSON: {error}") from None
        return _answer(data, time.monotonic() - started)

    async def _turn(self) -> None:
        """Wait for the rate, and for the end of a pause that the endpoint asked for."""
        if self.endpoint.rate is not None:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + 60 / self.endpoint.rate
            if start > now:
                await _sleep(start - now)
        while (left := self._shut - time.monotonic()) > 0:
            # Spread a little, so that not all of them come back at once.
            await _sleep(left + random.random() * self.endpoint.pause)

    def _wait(self, state: Any) -> float:
        """Return the seconds before the next try of one question; after a 429 all questions wait."""
        error = state.outcome.exception()
        grown = self.endpoint.pause * 2 ** (state.attempt_number - 1)
        wait = min(grown, _LONGEST_WAIT) * (0.5 + random.random() / 2)
        asked = _retry_after(getattr(getattr(error, "response", None), "headers", {}))
        if not isinstance(error, self._openai.RateLimitError):
            return wait if asked is None else asked
        until = time.monotonic() + (wait if asked is None else asked)
        if until - max(self._shut, time.monotonic()) > _WORTH_SAYING:
            log.warning("The endpoint asks to wait %.0f s.", until - time.monotonic())
        self._shut = max(self._shut, until)
        return 0.0  # `_turn` waits

    def _unanswered(self, error: Exception) -> Unanswered:
        return Unanswered(f"the endpoint refuses the question: {self._reason(error)}")

    def _reason(self, error: BaseException) -> str:
        """Return what an error says, without the key and addresses."""
        text = public_reason(error)
        return text.replace(self.endpoint.key, "...") if self.endpoint.key else text


class _Unreadable(Exception):
    """What came is no answer of a chat completion."""


async def _sleep(seconds: float) -> None:
    """Sleep; tests put another function in this place."""
    await asyncio.sleep(seconds)


def _answer(data: object, seconds: float) -> Answer:
    """Return the answer in a response.

    Raises:
        _Unreadable: it holds none.
    """
    try:
        found = cast("Any", data)
        message = found["choices"][0]["message"]
        text = message.get("content") or message.get("refusal") or ""
        usage = found.get("usage") or {}
        return Answer(
            str(text), int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0), seconds
        )
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        error = data.get("error") if isinstance(data, dict) else None
        says = f": {str(error)[:200]}" if error else ""
        raise _Unreadable(f"the endpoint sent no answer{says}") from None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in a Retry-After header, which is a number or a date; None if there is none."""
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(milliseconds) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        if value.replace(".", "", 1).strip().isdigit():
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
