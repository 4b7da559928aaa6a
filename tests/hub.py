"""A double of the hub on a real socket: repositories, their commits, uploads of large files, logins, broken lines.

It answers what huggingface_hub asks for when it downloads, creates repositories and pushes without Xet (a protocol of
its own, in compiled code): the LFS way.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

# Who has which token, and whether it may write to "lab/...".
TOKENS = {"hf_writer": True, "hf_reader": False}
_LARGE = (".parquet", ".safetensors", ".pt")


@dataclass
class Stored:
    """A repository: its commits with all their files, newest last."""

    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        """Add a commit that holds exactly these files; returns its id."""
        self.commits.append((secrets.token_hex(20), dict(files)))
        return self.commits[-1][0]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return a commit and its files."""
        oid = self.commits[-1][0] if revision == "main" else self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit[0] == oid), None)

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the newest commit."""
        return self.commits[-1][1]


class HubDouble(ThreadingHTTPServer):
    """The hub.

    Attributes:
        repositories: by kind ("models", "datasets") and id.
        blobs: large files that were sent, by their SHA-256.
        asked: the method and path of every request, in order.
        whole: the method and name of every file that passed whole: from here (GET), or to here (PUT) by its SHA-256.
        ranges: where the requests begin that ask for the rest of a file.
        line: how many bytes of files still pass before the line breaks; None: it holds. Once it is broken, no request
            gets an answer.
        mends: whether the line holds again after it broke.
        free: how many files still pass before the others wait for `gate`; None: all pass.
        held: set once a file waits.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[tuple[str, str], Stored] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.whole: list[tuple[str, str]] = []
        self.ranges: list[int] = []
        self.line: int | None = None
        self.mends = False
        self.free: int | None = None
        self.gate, self.held = threading.Event(), threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """The address, as in HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about clients that were killed."""

    def files(self, method: str = "GET") -> list[str]:
        """Return the files that passed whole, in order."""
        return [name for kind, name in self.whole if kind == method]

    def forget(self) -> None:
        """Forget what was asked so far."""
        self.asked.clear()
        self.whole.clear()

    def take(self, count: int) -> int:
        """Return how many of `count` bytes still pass the line."""
        with self.lock:
            if self.line is None:
                return count
            passed = min(count, self.line)
            self.line = None if self.mends and passed < count else self.line - passed
            return passed

    def wait(self) -> None:
        """Let a file pass, or let it wait for `gate`."""
        with self.lock:
            passes = self.free is None or self.free > 0
            if self.free:
                self.free -= 1
        if not passes:
            self.held.set()
            self.gate.wait(60)

    @property
    def broken(self) -> bool:
        """Whether the line is broken."""
        return self.line == 0


@contextmanager
def serving() -> Iterator[HubDouble]:
    """Serve a hub during the block."""
    hub = HubDouble()
    threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        hub.gate.set()
        hub.shutdown()
        hub.server_close()


def environment(hub: HubDouble, home: Path, token: str | None = None) -> dict[str, str]:
    """Return the variables with which a process of its own uses this hub."""
    return {
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_ETAG_TIMEOUT": "60",
        "HF_HUB_DOWNLOAD_TIMEOUT": "60",
        **({"HF_TOKEN": token} if token else {}),
    }


def use(hub: HubDouble, home: Path, monkeypatch: pytest.MonkeyPatch, token: str | None = "hf_writer") -> None:
    """Let this process use this hub, logged in with a token; waits between attempts take no time.

    The hub has a minute to answer, because the machine may stop it for seconds.
    """
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.ENDPOINT", hub.url)
    monkeypatch.setattr(
        f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)
    for what in ("ETAG", "DOWNLOAD"):
        monkeypatch.setattr(f"{constants}.HF_HUB_{what}_TIMEOUT", 60)
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(f"{constants}.HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    login(monkeypatch, token)
    for module in ("utils._http", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", _Clock())


def login(monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    """Log in with another token, or out."""
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    else:
        monkeypatch.setenv("HF_TOKEN", token)


class _Clock:
    """A module's `time` in which waiting takes none."""

    def __getattr__(self, name: str) -> Any:
        import time

        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        """Do not wait."""


class _Handler(BaseHTTPRequestHandler):
    server: HubDouble

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, url = self.server, urlsplit(self.path)
        hub.asked.append((self.command, unquote(url.path)))
        if hub.broken:
            self.close_connection = True
            return
        length = int(self.headers.get("Content-Length") or 0)
        if self.command == "PUT":
            self._receive(unquote(url.path).split("/blob/")[1], length)
            return
        body = self.rfile.read(length)
        path, query = unquote(url.path), parse_qs(url.query)
        for pattern, answer in _ROUTES:
            if found := re.fullmatch(pattern, path):
                answer(self, found.groupdict(), body, query)
                return
        self._refuse(404, "EntryNotFound")

    def _receive(self, oid: str, length: int) -> None:
        hub = self.server
        hub.wait()
        passed = hub.take(length)
        data = self.rfile.read(passed)
        if passed < length:
            self.close_connection = True
            return
        assert hashlib.sha256(data).hexdigest() == oid
        hub.blobs[oid] = data
        hub.whole.append(("PUT", oid))
        self._json({})

    def _whoami(self, found: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
        self._json({"name": "somebody"}) if self._token() in TOKENS else self._refuse(401)

    def _create(self, found: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
        asked = json.loads(body)
        key = f"{asked.get('type', 'model')}s", f"{asked['organization']}/{asked['name']}"
        if not self._may_write(key[1]):
            return
        page = {"url": f"{self.server.url}/{'/'.join(key).removeprefix('models/')}"}
        if key in self.server.repositories:
            self._json(page, 409)
            return
        stored = self.server.repositories[key] = Stored(private=asked.get("visibility") == "private")
        stored.commit({".gitattributes": b"*.parquet filter=lfs\n"})
        self._json(page)

    def _info(self, found: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
        if (there := self._commit_of(found)) is not None:
            stored, oid, files = there
            self._json(
                {
                    "id": found["id"],
                    "sha": oid,
                    "private": stored.private,
                    "siblings": [{"rfilename": name} for name in files],
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                }
            )

    def _tree(self, found: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
        if (there := self._commit_of(found)) is not None:
            inside = (found.get("path") or "").strip("/")
            self._json(
                _tree(
                    there[2],
                    inside and f"{inside}/",
                    recursive=query.get("recursive", [""])[0].lower() in ("true", "1"),
                )
            )

    def _paths(self, found: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
        if (there := self._commit_of(found)) is not None:
            asked = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
            self._json([_entry(name, there[2][name]) for name in asked if name in there[2]])

    def _preupload(self, found: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
        if not self._may_write(found["id"]) or (there := self._commit_of(found)) is None:
            return
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(_LARGE) else "regular",
                "shouldIgnore": False,
                **({"oid": _oid(file["path"], there[2][file["path"]])} if file["path"] in there[2] else {}),
            }
            for file in json.loads(body)["files"]
        ]
        self._json({"files": modes})

    def _batch(self, found: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
        if self._may_write(found["id"]):
            objects = [
                item
                if item["oid"] in self.server.blobs
                else {**item, "actions": {"upload": {"href": f"{self.server.url}/blob/{item['oid']}"}}}
                for item in json.loads(body)["objects"]
            ]
            self._json({"objects": objects, "transfer": "basic"})

    def _validate(self, found: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
        if "license: mine" in json.loads(body)["content"]:
            self._json({"errors": [{"message": '"license" must be one of [mit, ...]'}]}, 400)
            return
        self._json({"errors": [], "warnings": []})

    def _commit(self, found: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
        if not self._may_write(found["id"]) or (there := self._commit_of(found)) is None:
            return
        stored, oid, files = there
        files = dict(files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") not in (None, oid):
                self._refuse(412)
                return
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            if line["key"] == "deletedFile":
                del files[value["path"]]
        commit = stored.commit(files)
        page = f"{found['kind']}/{found['id']}".removeprefix("models/")
        self._json({"commitUrl": f"{self.server.url}/{page}/commit/{commit}", "commitOid": commit})

    def _resolve(self, found: dict[str, str], body: bytes, query: dict[str, list[str]]) -> None:
        found["kind"] = found["kind"] or "models"
        if (there := self._commit_of(found)) is None:
            return
        _, oid, files = there
        if found["path"] not in files:
            self._refuse(404, "EntryNotFound")
            return
        whole = files[found["path"]]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        data = whole[int(asked[1]) :] if asked else whole
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data)))
        if asked:
            self.server.ranges.append(int(asked[1]))
            self.send_header("Content-Range", f"bytes {asked[1]}-{len(whole) - 1}/{len(whole)}")
        self.send_header("X-Repo-Commit", oid)
        self.send_header("ETag", f'"{_oid(found["path"], whole)}"')
        self.end_headers()
        if self.command == "GET":
            self.server.wait()
            passed = self.server.take(len(data))
            if passed < len(data):
                self.wfile.write(data[:passed])
                return
            self.wfile.write(data[:-1])
            # Before its last byte: who has the whole file finds it there.
            self.server.whole.append(("GET", found["path"]))
            self.wfile.write(data[-1:])

    def _commit_of(self, found: dict[str, str]) -> tuple[Stored, str, dict[str, bytes]] | None:
        """Return the repository and commit that a request means, or refuse it."""
        stored = self.server.repositories.get((found["kind"].strip("/"), found["id"]))
        if stored is None or (stored.private and self._token() not in TOKENS):
            self._refuse(401 if self._token() is None else 404, "RepoNotFound")
            return None
        there = stored.at(found.get("revision") or "main")
        if there is None:
            self._refuse(404, "RevisionNotFound")
            return None
        return stored, *there

    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _may_write(self, repository: str) -> bool:
        token = self._token()
        if token in TOKENS and TOKENS[token] and repository.startswith("lab/"):
            return True
        self._refuse(403 if token in TOKENS else 401)
        return False

    def _json(self, value: object, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, code: str | None = None) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if status == 401 and self._token() is not None:
            self.send_header("X-Error-Message", "Invalid credentials in Authorization header")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def _oid(name: str, data: bytes) -> str:
    """Return what the hub calls a file's content: its SHA-256 if it is large, else git's hash."""
    if name.endswith(_LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(name: str, data: bytes) -> dict[str, Any]:
    """Return a file as a listing has it."""
    large = {"lfs": {"oid": _oid(name, data), "size": len(data), "pointerSize": 134}}
    return {
        "type": "file",
        "path": name,
        "size": len(data),
        "oid": hashlib.sha1(data).hexdigest(),
        **(large if name.endswith(_LARGE) else {}),
    }


def _tree(files: dict[str, bytes], inside: str, *, recursive: bool) -> list[dict[str, Any]]:
    """Return the files of a folder, and its folders unless the files in them are listed too."""
    found = {name: data for name, data in files.items() if name.startswith(inside)}
    direct = [name for name in found if recursive or "/" not in name[len(inside) :]]
    folders = {inside + name[len(inside) :].split("/")[0] for name in found if name not in direct}
    return [_entry(name, found[name]) for name in direct] + [
        {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0}
        for name in sorted(folders)
    ]


_KIND, _ID = r"(?P<kind>models|datasets)", r"(?P<id>[^/]+/[^/]+)"
_ROUTES = [
    (r"/api/whoami-v2", _Handler._whoami),
    (r"/api/repos/create", _Handler._create),
    (r"/api/validate-yaml", _Handler._validate),
    (rf"/api/{_KIND}/{_ID}(/revision/(?P<revision>.+))?", _Handler._info),
    (rf"/api/{_KIND}/{_ID}/tree/(?P<revision>[^/]+)(?P<path>/.*)?", _Handler._tree),
    (rf"/api/{_KIND}/{_ID}/paths-info/(?P<revision>[^/]+)", _Handler._paths),
    (rf"/api/{_KIND}/{_ID}/preupload/(?P<revision>[^/]+)", _Handler._preupload),
    (rf"/api/{_KIND}/{_ID}/commit/(?P<revision>[^/]+)", _Handler._commit),
    (r"/((?P<kind>datasets)/)?(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler._batch),
    (rf"/((?P<kind>datasets)/)?{_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler._resolve),
]
