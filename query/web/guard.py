"""Access to the page: its token, allowed hosts and origins, and security headers."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SHORTEST_TOKEN = 12
LOOPBACK = ("localhost", "127.0.0.1", "::1")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    # Under "no-referrer" browsers give "null" as the origin of the form with the token.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
_HOST = re.compile(r"(\[[\da-f:.]+\]|[^\s\[\]@/?#:\\]*)(?::(\d{0,5}))?", re.ASCII | re.IGNORECASE)
_COOKIE = "latentbank"
_LONGEST_FORM = 4096
_FORM_SECONDS = 10.0
_OPEN = "/static/"  # script and style are not secret, and the form for the token needs the style
_FORM = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>latentbank</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="static/style.css">
</head>
<body>
<main>
<h1>latentbank</h1>
<p>This page needs a token. Ask the person who started it.</p>
<form method="post">
<p><label>Token <input type="password" name="token" required autocomplete="off"></label>
<button class="main">Open</button></p>
</form>
</main>
</body>
</html>
"""


class Guard:
    """An ASGI middleware that passes on only requests that are allowed.

    Without a token, a request must name one of `hosts`, so that another site cannot reach the page through a host name
    of its own. With a token, a request must have it (`Authorization: Bearer TOKEN`), or the cookie that the form sets
    in exchange for it. Requests from another site's page are always refused.

    Args:
        app: the app to protect.
        token: the secret; None: everyone who can reach the page may use it.
        hosts: host names under which the page may be used without a token.
    """

    def __init__(self, app: App, token: str | None = None, hosts: Sequence[str] = LOOPBACK) -> None:
        self._app = app
        self._token = None if token is None else _digest(token)
        self._hosts = {host.lower() for host in hosts}
        self._session = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on to the app."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        send = _with_headers(send)
        origin = headers.get("origin")
        host = headers.get("host", "")
        name = _name_of(host)
        # A proxy may put its own name for this server into Host, and the visitor's into X-Forwarded-Host, which no page
        # of another site can set.
        if name is None or sum(key == b"host" for key, _ in scope["headers"]) > 1:
            await _answer(send, 400, "The request's Host is no host.")
        elif origin is not None and _site_of(origin) not in (host, headers.get("x-forwarded-host", host)):
            await _answer(send, 403, "Another site's page may not use this one.")
        elif self._token is None:
            if name in self._hosts:
                await self._app(scope, receive, send)
            else:
                await _answer(send, 421, "Use the address that was shown when the page was started.")
        elif scope["path"].startswith(_OPEN) or self._known(headers):
            await self._app(scope, receive, send)
        elif scope["path"] != "/":
            await _answer(send, 401, "This page needs its token.")
        elif scope["method"] == "POST" and self._matches(await _form(receive)):
            query = scope["query_string"].decode("latin-1")
            # Without a path, the cookie is for the folder of the visitor's address: a proxy may serve others beside it.
            cookie = f"{_COOKIE}={self._session}; HttpOnly; SameSite=Strict"
            await _answer(send, 303, "", {"location": f"?{query}" if query else "./", "set-cookie": cookie})
        else:
            await _answer(send, 401, _FORM, {"content-type": "text/html; charset=utf-8"})

    def _known(self, headers: dict[str, str]) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._matches(given):
            return True
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(_COOKIE)
        except CookieError:
            return False
        return morsel is not None and hmac.compare_digest(_digest(morsel.value), _digest(self._session))

    def _matches(self, given: str) -> bool:
        assert self._token is not None
        return hmac.compare_digest(_digest(given), self._token)


def _name_of(host: str) -> str | None:
    """Return the name in a Host header, in lower case; "" if there is none, and None if it is malformed."""
    match = _HOST.fullmatch(host)
    if match is None or int(match[2] or 0) > 65535:
        return None
    return match[1].strip("[]").lower()


def _site_of(origin: str) -> str | None:
    """Return the host and port of an origin; None if it is malformed, or not that of a site."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


async def _form(receive: Receive) -> str:
    """Return the token in a form's body; "" if there is none, or if the body is too long or too slow."""
    body, more = b"", True
    with suppress(TimeoutError):
        async with asyncio.timeout(_FORM_SECONDS):
            while more and len(body) <= _LONGEST_FORM:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
    if more or len(body) > _LONGEST_FORM:
        return ""
    return parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]


async def _answer(send: Send, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    body = text.encode()
    given = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body))} | (headers or {})
    encoded = [(key.encode("latin-1"), value.encode("latin-1")) for key, value in given.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send) -> Send:
    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own = [(key.encode(), value.encode()) for key, value in HEADERS.items()]
            kept = [(key, value) for key, value in message["headers"] if key.lower().decode() not in HEADERS]
            message = {**message, "headers": [*kept, *own]}
        await send(message)

    return sent
