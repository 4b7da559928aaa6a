"""Caches downloaded from a hub, over a real socket."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from latentbank.errors import CorpusError
from latentbank.ingest.latentlens.hub import fetch_cache

REPOSITORY = "lab/contextual_embeddings"
COMMIT = "a" * 40
FILES = {f"layer_{layer}/embeddings_cache.pt": f"layer {layer}".encode() for layer in (1, 3)} | {
    "README.md": b"words"
}


class _Hub(BaseHTTPRequestHandler):
    """The part of a hub that a download needs; `fetched` lists the files that were sent."""

    fetched: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        if path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            self._send(
                json.dumps(
                    [
                        {
                            "type": "file",
                            "path": name,
                            "size": len(data),
                            "oid": hashlib.sha1(data).hexdigest(),
                        }
                        for name, data in FILES.items()
                    ]
                ).encode(),
                body,
            )
        elif path.startswith(f"/api/models/{REPOSITORY}"):
            siblings = [{"rfilename": name} for name in FILES]
            self._send(json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode(), body)
        elif path.startswith(f"/{REPOSITORY}/resolve/{COMMIT}/"):
            name = path.split(f"{COMMIT}/")[1]
            if body:
                self.fetched.append(name)
            self._send(FILES[name], body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, data: bytes, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    _Hub.fetched = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def _fetch(source: str, layers: str, hub: ThreadingHTTPServer, home: Path) -> tuple[str, str]:
    """Download in a process of its own: the hub's address is read when its library is imported."""
    script = (
        "from latentbank.ingest.latentlens.hub import fetch_cache\n"
        "from latentbank.errors import CorpusError\n"
        f"try: print(fetch_cache({source!r}, {layers}))\n"
        "except CorpusError as error: print('error:', error)\n"
    )
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    return done.stdout.strip(), done.stderr


def test_only_requested_layers_are_fetched_and_each_once(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    output, err = _fetch(REPOSITORY, "[3]", hub, tmp_path)
    folder = Path(output)
    assert folder.is_dir(), err
    assert (folder / "layer_3/embeddings_cache.pt").read_bytes() == b"layer 3"
    assert _Hub.fetched == ["layer_3/embeddings_cache.pt"]
    again, _ = _fetch(REPOSITORY, "None", hub, tmp_path)
    assert again == output
    assert _Hub.fetched == ["layer_3/embeddings_cache.pt", "layer_1/embeddings_cache.pt"]


def test_a_missing_repository_is_one_sentence(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    output, _ = _fetch("lab/unknown", "None", hub, tmp_path)
    assert output.startswith("error: lab/unknown is neither a folder here nor a model repository on the hub")
    assert "\n" not in output


def test_a_hub_that_is_not_reached(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="could not be downloaded from the hub"):
        fetch_cache("lab/another")  # the tests are offline


def test_a_folder_stays_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab" / "cache").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert fetch_cache("lab/cache") == Path("lab/cache")
    assert fetch_cache("/not/there") == Path(
        "/not/there"
    )  # `cache_layers` then reports that nothing is in it
