"""A double of an endpoint that speaks OpenAI's API: chat completions on a real socket, with faults."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True)
class Sent:
    """A response as it is sent.

    Attributes:
        status: its status.
        body: its content; None: the connection is cut without a word.
        headers: further headers.
        part: the share of the content that is sent before the connection is cut.
    """

    status: int = 200
    body: bytes | None = b""
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
    part: float = 1.0


Make = Callable[[Body], "Sent | str"]
"""What the stub does with a request: a response, or the text of an answer."""

Holds = Callable[["ChatStub", int], bool]
"""Whether a request waits for its answer still; the second argument is its number, from 1 on."""

CUT = Sent(body=None)


def asked(body: Body) -> list[str]:
    """Return the words or sentences that a request asks about."""
    lines = body["messages"][0]["content"][-1]["text"].split("\n")[1:]
    return [line.partition(" ")[2] for line in lines]


def says(**lists: Any) -> str:
    """Return an answer: reasons, then a JSON object."""
    return f"I looked at it.\n```json\n{json.dumps({'reasons': 'seen', **lists})}\n```"


def error(status: int, message: str = "no", *, code: str | None = None, after: float | None = None) -> Sent:
    """Return an error as OpenAI's API sends them, with Retry-After if `after` is given."""
    headers = [("content-type", "application/json")]
    if after is not None:
        headers.append(("retry-after", str(after)))
    return Sent(status, json.dumps({"error": {"message": message, "code": code}}).encode(), tuple(headers))


def completion(text: str | None) -> bytes:
    """Return a chat completion of 1,000 and 100 tokens."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()


@dataclass
class ChatStub:
    """The double.

    Attributes:
        make: called with each request's body, in the order of arrival.
        holds: asked again and again before each answer; the answer waits while it holds.
        bodies: the requests that arrived.
        keys: their Authorization headers.
        busy: most requests at once.
        url: its address, as `base_url` takes it.
    """

    make: Make
    holds: Holds = lambda _stub, _number: False
    bodies: list[Body] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    busy: int = 0
    url: str = ""
    _now: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in head[1:])
                }
                content = await reader.readexactly(int(headers.get("content-length", 0)))
                sent = await self.answer(head[0], headers, content)
                if sent.body is None:
                    break
                writer.write(_response(sent))
                await writer.drain()
                if sent.part < 1:
                    break
        writer.close()

    async def answer(self, line: str, headers: dict[str, str], content: bytes) -> Sent:
        """Return the response to one request."""
        if line.split()[:2] != ["POST", "/v1/chat/completions"]:
            return error(404, f"no such path: {line}")
        body = json.loads(content)
        self.bodies.append(body)
        self.keys.append(headers.get("authorization"))
        number = len(self.bodies)
        made = self.make(body)
        self._now += 1
        self.busy = max(self.busy, self._now)
        while self.holds(self, number):
            await asyncio.sleep(0.01)
        self._now -= 1
        return Sent(body=completion(made)) if isinstance(made, str) else made


def _response(sent: Sent) -> bytes:
    body = sent.body or b""
    lines = [f"HTTP/1.1 {sent.status} X", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in sent.headers]
    return "\r\n".join([*lines, "", ""]).encode() + body[: round(len(body) * sent.part)]


@contextmanager
def chat_stub(make: Make, holds: Holds = lambda _stub, _number: False) -> Iterator[ChatStub]:
    """Serve a double during the block, in a thread of its own."""
    stub = ChatStub(make, holds)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()  # first: the thread of a test may have a loop of its own, such as that of a browser

    async def start() -> asyncio.Server:
        return await asyncio.start_server(stub.serve, "127.0.0.1", 0, limit=1 << 20)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    stub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield stub
    finally:

        async def stop() -> None:
            server.close()
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
