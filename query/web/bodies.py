"""Receiving the bodies of requests: few at once, few bytes altogether, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import HTTPException, Request

LARGEST_UPLOAD = 20_000_000
"""Largest size of an uploaded image or file of hidden states, in bytes."""
AT_ONCE = 32
"""Bodies that are received and tried at once; who sends another one is told to come again."""
BYTES_AT_ONCE = 100_000_000
"""How many bytes they may have altogether."""
PAUSE = 10.0
"""Seconds without a byte after which a body is given up."""
LONGEST = 120.0
"""Seconds after which a body is given up, however steadily it comes."""
RETRY_AFTER = {"retry-after": "5"}
"""Header of an answer to those who should come again, with the seconds to wait."""


class Bodies:
    """The bodies that an app receives at the moment. It belongs to one event loop."""

    def __init__(self) -> None:
        self._count = self._bytes = 0

    @asynccontextmanager
    async def of(self, request: Request, what: str = "image") -> AsyncIterator[bytes]:
        """Receive a request's body, which counts until the block ends.

        Args:
            request: whose body it is.
            what: what it is, for messages.

        Raises:
            HTTPException: 413, as soon as it is too large; 503, if others take all the room; 408, if it is too slow.
            ClientDisconnect: the client has left.
        """
        if self._count >= AT_ONCE:
            raise _busy(what)
        body = bytearray()
        self._count += 1
        try:
            await self._receive(request, body, what)
            yield bytes(body)
        finally:
            self._count -= 1
            self._bytes -= len(body)

    async def _receive(self, request: Request, body: bytearray, what: str) -> None:
        now = asyncio.get_running_loop().time
        end = now() + LONGEST
        try:
            async with asyncio.timeout(PAUSE) as limit:
                async for part in request.stream():
                    body += part
                    self._bytes += len(part)
                    if len(body) > LARGEST_UPLOAD:
                        raise HTTPException(
                            413,
                            f"The {what} is larger than {LARGEST_UPLOAD // 1_000_000} MB; make it smaller.",
                        )
                    if self._bytes > BYTES_AT_ONCE:
                        raise _busy(what)
                    limit.reschedule(min(now() + PAUSE, end))
        except TimeoutError:
            # What may still come of the body is no other request.
            raise HTTPException(
                408, f"The {what} did not arrive in time; send it again.", {"connection": "close"}
            ) from None


def _busy(what: str) -> HTTPException:
    return HTTPException(
        503, f"Too many {what}s are being sent at once; try again in a few seconds.", RETRY_AFTER
    )
