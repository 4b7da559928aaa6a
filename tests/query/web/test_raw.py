"""The page's server as any program on the network reaches it, over real sockets: wrong bytes, many bodies, clients that
leave. It answers none of it with 500 and logs no traceback."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn

from latentbank.bank.opening import open_bank
from latentbank.cli.serving import served
from latentbank.models.language.model import LanguageModel
from latentbank.query.web import bodies, guard
from latentbank.query.web.guard import Guard
from latentbank.query.web.server import create_app
from latentbank.query.web.service import ReadingService
from tests.query.patch_vlm import PatchVLM, picture
from tests.query.web.readings import png

TOKEN = "correct-horse-battery"
PHOTO = png(picture())


@dataclass(frozen=True)
class Answer:
    """What the server has answered."""

    status: int
    head: str
    body: bytes


class Page:
    """A running page, and its two ports: one for this machine, the other behind a token."""

    def __init__(self, port: int, shared: int, vlm: PatchVLM) -> None:
        self.port, self.shared, self.vlm = port, shared, vlm

    def connect(self, port: int | None = None) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port or self.port), timeout=30)

    def raw(self, data: bytes, port: int | None = None) -> Answer:
        """Send bytes and return the answer."""
        with self.connect(port) as connection:
            with suppress(ConnectionError):  # it may answer and close before it has read all
                connection.sendall(data)
            return answer_of(connection)

    def request(
        self, start: str, *headers: str, body: bytes = b"", host: str = "127.0.0.1", port: int | None = None
    ) -> Answer:
        lines = [f"{start} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", ""]
        return self.raw("\r\n".join(lines).encode("latin-1") + body, port)

    def upload(self, body: bytes = PHOTO, query: str = "layers=1") -> Answer:
        return self.request(f"POST /api/readings?{query}", f"Content-Length: {len(body)}", body=body)

    def begin(self, length: int = 1000) -> socket.socket:
        """Begin an upload, and return when the server waits for its body."""
        connection = self.connect()
        connection.sendall(
            b"POST /api/readings HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\n"
            b"Content-Length: %d\r\n\r\n" % length
        )
        # No byte more: the server may have given the body up already, and its answer be there.
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            received += connection.recv(1) or pytest.fail("the server has closed the connection")
        assert received.startswith(b"HTTP/1.1 100 ")
        return connection


def answer_of(connection: socket.socket) -> Answer:
    received = b""
    with suppress(ConnectionError):
        while part := connection.recv(65536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    status = int(head.split()[1]) if head else 0
    return Answer(status, head.decode("latin-1").lower(), body)


@pytest.fixture(scope="module")
def page(filled_dir: Path, tiny: LanguageModel) -> Iterator[Page]:
    vlm = PatchVLM(tiny)
    with ExitStack() as stack:
        bank = stack.enter_context(open_bank("small", data_dir=filled_dir, url=""))
        app = create_app(ReadingService(bank, vlm), {"a cat": PHOTO})
        ports = []
        for token in (None, TOKEN):
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            server = uvicorn.Server(served(Guard(app, token)))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            stack.callback(thread.join)
            stack.callback(setattr, server, "should_exit", True)
            ports.append(listening.getsockname()[1])
        yield Page(*ports, vlm)


@pytest.fixture
def impatient(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server give up soon what does not come."""
    monkeypatch.setattr(bodies, "PAUSE", 0.05)
    monkeypatch.setattr(guard, "_FORM_SECONDS", 0.05)


@pytest.fixture(autouse=True)
def no_traceback(page: Page, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check that the test made the server log no error."""
    log = logging.getLogger("uvicorn")
    log.addHandler(caplog.handler)  # uvicorn's loggers do not propagate
    yield
    log.removeHandler(caplog.handler)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# --- headers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["[::1", "[::1]x", "[localhost]", "127.0.0.1:x", "127.0.0.1:99999", "a@127.0.0.1", "127.0.0.1/x", "127.0.0.1?x",
     "127.0.0.1#x", "[", "]", "\xff[", "[::1%eth0", "//", "a]b"],
)  # fmt: skip
def test_a_malformed_host_is_a_bad_request(page: Page, host: str) -> None:
    for port in (page.port, page.shared):
        for path in ("/", "/api/about", "/api/about/", "/static/style.css"):
            answer = page.request(f"GET {path}", host=host, port=port)
            assert (answer.status, answer.body) == (400, b"The request's Host is no host.")


@pytest.mark.parametrize(
    "host", ["", "example.org", "127.0.0.1.example.org", "0x7f000001", "localhost.", ":8265"]
)
def test_a_foreign_host_is_refused_without_a_token(page: Page, host: str) -> None:
    assert page.request("GET /", host=host).status == 421


@pytest.mark.parametrize("host", ["localhost:1", "LOCALHOST", "[::1]:8265", "127.0.0.1:"])
def test_this_machine_has_several_names(page: Page, host: str) -> None:
    assert page.request("GET /", host=host).status == 200


def test_two_hosts_are_none(page: Page) -> None:
    assert page.request("GET /", "Host: localhost").status == 400
    assert page.raw(b"GET / HTTP/1.1\r\n\r\n").status == 400
    assert page.raw(b"GET / HTTP/1.0\r\n\r\n").status == 421


@pytest.mark.parametrize(
    "origin", ["http://[::1", "http://[", "null", "", "::::", "http://", "\xff", "http://evil.example"]
)
def test_a_malformed_origin_is_another_site(page: Page, origin: str) -> None:
    for port in (page.port, page.shared):
        assert page.request("POST /api/readings", f"Origin: {origin}", port=port).status == 403


@pytest.mark.parametrize(
    "header",
    [
        "Authorization: Bearer", "Authorization: \xff\xfe", "Authorization: Bearer \xe9", "Cookie: latentbank",
        "Cookie: latentbank=\xff; =; ;;", "Cookie: a[=1; \x01", "Cookie: latentbank=\"\\777\"",
        "Accept: */" + "*" * 9000,
        "Content-Type: multipart/form-data; boundary=", "Content-Encoding: gzip", "Range: bytes=9-1",
        "X-Forwarded-Host: [", "If-Modified-Since: yesterday", "Upgrade: websocket\r\nConnection: Upgrade",
        "Expect: the worst", "Forwarded: for=[", "Transfer-Encoding: gzip", "Content-Length: -1", "Content-Length: x",
        "Content-Length: " + "9" * 400, "Content-Length: 1\r\nContent-Length: 2",
        "Transfer-Encoding: chunked\r\nContent-Length: 5", "No colon", ": no name", "\x00: x", "X: \x00", "X: a\r\n b",
        "\r\n".join(f"X-{n}: {n}" for n in range(2000)), "X: " + "y" * 200_000,
    ],
)  # fmt: skip
@pytest.mark.parametrize("start", ["GET /api/about", "POST /api/readings?sentence=Hello", "POST /"])
@pytest.mark.usefixtures("impatient")
def test_wrong_headers_are_no_error_of_the_server(page: Page, header: str, start: str) -> None:
    for port in (page.port, page.shared):
        assert page.request(start, header, port=port).status < 500


@pytest.mark.parametrize(
    "start",
    [b"FOO /", b"TRACE /", b"OPTIONS *", b"OPTIONS /api/about", b"PUT /api/readings", b"DELETE /", b"HEAD /",
     b"CONNECT evil.example:443", b"GET http://evil.example/", b"GET *", b"GET //etc/passwd", b"GET /%00",
     b"GET /%ff%fe", b"GET /\xff", b"GET /" + b"a" * 100_000, b"GET /?" + b"a=1&" * 9000, b"GET", b"",
     b"\x16\x03\x01\x02\x00\x01\x00",
     b"PRI *", b"GET  /", b"GET /\x00", b"GET /static/%2e%2e%2fguard.py", b"GET /api/jobs/%00/events",
     b"GET /api/readings/%ff/page", b"DELETE /api/jobs/%ed%a0%80", b"GET /api/pictures/\xc3\xa9",
     b"GET /api/readings/"],
)  # fmt: skip
@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0", b""])
@pytest.mark.usefixtures("impatient")
def test_wrong_requests_are_no_error_of_the_server(page: Page, start: bytes, version: bytes) -> None:
    lines = start + b" " + version + b"\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    assert page.raw(lines).status < 500


WRONG = (
    "%00",
    "%ff",
    "%ed%a0%80",
    "1e9",
    "-1",
    "9" * 190,
    "%D9%A3",
    "nan",
    "[]",
    "%7B%7D",
    ",",
    "a" * 5000,
    "%0d%0aX:1",
    "=",
    "0x1",
)


@pytest.mark.parametrize(
    "name",
    ["picture", "upload", "name", "sentence", "model", "layers", "bank_layers", "lens", "top_k", "corpus", "word",
     "caption", "unique", "tokens", "answer"],
)  # fmt: skip
def test_wrong_values_are_no_error_of_the_server(page: Page, name: str) -> None:
    for value in WRONG:
        for rest in ("", "&sentence=A+dog.&layers=1", f"&{name}=x"):
            answer = page.request(f"POST /api/readings?{name}={value}{rest}")
            assert answer.status < 500, value
            told = json.loads(answer.body)
            if "job" in told:
                page.request(
                    f"GET /api/jobs/{told['job']}/events"
                )  # to its end, as it must fail with a sentence
            else:
                assert told["error"], value


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("Transfer-Encoding: chunked", b"zz\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"ffffffffffffffffffff\r\n"),
        ("Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\nX: \xff\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"5\r\nhel"),
        ("Transfer-Encoding: chunked", b"0\r\n\r\n"),
        ("Content-Length: 3", b"GET / HTTP/1.1\r\n\r\n"),
        ("Content-Length: 0", b""),
        ("Content-Length: 9", b"x"),
        (
            "Content-Length: 40\r\nContent-Type: application/json",
            b'{"picture": ["a cat"], "layers": {"a": 1}}',
        ),
        ("Content-Length: 9\r\nContent-Encoding: br", b"\x0b\x02\x80abc\x03xx"),
    ],
)
@pytest.mark.parametrize("path", ["/api/readings", "/api/read", "/api/about", "/", "/api/jobs/x"])
@pytest.mark.usefixtures("impatient")
def test_wrong_bodies_are_no_error_of_the_server(page: Page, head: str, body: bytes, path: str) -> None:
    for port in (page.port, page.shared):
        assert page.request(f"POST {path}", head, body=body, port=port).status < 500


def test_a_connection_serves_the_next_request_after_a_refused_one(page: Page) -> None:
    both = (
        b"POST /api/readings?picture=no HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\nhello"
        b"GET /api/about HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    )
    answer = page.raw(both)
    assert answer.status == 404
    assert b"HTTP/1.1 200" in answer.body


# --- bodies -------------------------------------------------------------------------------------


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    waiting = threading.Event()
    for _ in range(1000):
        if condition():
            return
        waiting.wait(0.01)
    pytest.fail("it does not come about")


def test_only_some_bodies_are_received_at_once(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "AT_ONCE", 3)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(page.begin())
        answer = page.upload()
        assert (answer.status, "\r\nretry-after: 5" in answer.head) == (503, True)
        assert json.loads(answer.body) == {
            "error": "Too many images are being sent at once; try again in a few seconds."
        }
        assert page.upload(b"", "picture=a+cat&layers=1").status == 202  # what needs no body is taken
    until(lambda: page.upload().status == 202)  # their clients have left, and their places are free


def test_bodies_have_a_limit_together(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BYTES_AT_ONCE", 4000)
    assert page.upload(bytes(5000)).status == 503
    assert page.upload().status == 202


@pytest.mark.parametrize("limit", ["PAUSE", "LONGEST"])
def test_a_slow_body_is_given_up(page: Page, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(bodies, limit, 0.05)
    with page.begin() as connection:
        with suppress(ConnectionError):  # given up already
            connection.sendall(b"a")
        answer = answer_of(connection)
    assert (answer.status, "connection: close" in answer.head) == (408, True)
    assert json.loads(answer.body)["error"] == "The image did not arrive in time; send it again."


def test_a_client_that_leaves_is_forgotten(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "AT_ONCE", 1)
    for sent in (b"", bytes(10), bytes(100_000)):
        with page.begin(200_000) as connection:
            connection.sendall(sent)
        until(lambda: page.upload().status == 202)
    with page.connect(page.shared) as connection:  # in the midst of the form with the token
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\ntoken=")
    assert page.request("GET /", host="a", port=page.shared).status == 401


def test_a_client_may_leave_while_its_job_runs(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    started, proceed = threading.Event(), threading.Event()
    original = page.vlm.visual_tokens

    def slow(*given: object, **more: object) -> object:
        started.set()
        assert proceed.wait(60)
        return original(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(page.vlm, "visual_tokens", slow)
    job = json.loads(page.upload(png(picture(77))).body)["job"]
    assert started.wait(60)
    with page.connect() as connection:
        connection.sendall(f"GET /api/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        received = b""
        while b"data: " not in received:
            received += connection.recv(4096) or pytest.fail("the server has closed the connection")
    proceed.set()
    events = page.request(f"GET /api/jobs/{job}/events")
    assert b'"state": "done"' in events.body
