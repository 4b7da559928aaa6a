"""The page as both files start it: command and environment from the YAML, over a server, with an LLM and no VLM."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from latentbank.ingest.banks import create_bank
from latentbank.ingest.corpus import corpus_from_sentences
from latentbank.ingest.job import store_plan
from latentbank.ingest.planning import plan_for
from latentbank.models.language.model import load_language_model
from tests.deploy.places import DEPLOY, ROOT, documents, manifests
from tests.query.banks import SENTENCES
from tests.tiny import save_tiny
from tests.wire.double import QdrantDouble

ADMIN, READER, TOKEN = "the-admin-key-of-this-server", "a-key-that-only-reads", "correct-horse-battery"
MODEL, BANK = "Qwen/Qwen2.5-7B", "captions-7b"


def _compose() -> tuple[list[str], dict[str, str]]:
    """Return what compose.yaml starts, with the variables of the README's example."""
    service = documents(DEPLOY / "compose.yaml")[0]["services"]["page"]
    given = {"${LATENTBANK_BANK:-}": BANK, "${LATENTBANK_VLM:-}": ""}
    environment = service["environment"]
    return service["command"], {name: given.get(value, value) for name, value in environment.items()}


def _kubernetes() -> tuple[list[str], dict[str, str]]:
    """Return what page.yaml starts, with the values of its Secret."""
    (deployment,) = (manifest for manifest in manifests() if manifest["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    secret = {"page-token": TOKEN, "reader-key": READER}
    environment = {
        entry["name"]: secret[entry["valueFrom"]["secretKeyRef"]["key"]]
        if "valueFrom" in entry
        else entry["value"]
        for entry in container["env"]
    }
    # Kubernetes adds the addresses of the namespace's services.
    environment["LATENTBANK_PAGE_SERVICE_HOST"] = "10.96.0.7"
    environment["LATENTBANK_PAGE_PORT"] = "tcp://10.96.0.7:80"
    environment["LATENTBANK_PAGE_PORT_80_TCP_ADDR"] = "10.96.0.7"
    return container["args"], environment


PLACES = {"compose": _compose, "kubernetes": _kubernetes}


@dataclass(frozen=True)
class Visitor:
    """Somebody who has the page's address and its token."""

    home: str

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, token: str = TOKEN) -> Any:
        """Return the status and the text of an answer."""
        request = urllib.request.Request(
            self.home + path, data=body, method=method, headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def _hub(folder: Path) -> Path:
    """Put a tiny model where the hub's cache has the model of the manifests, and return its directory."""
    repository = folder / "hub" / f"models--{MODEL.replace('/', '--')}"
    directory = save_tiny(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    return directory


def _fill(server: QdrantDouble, model: Path, folder: Path) -> None:
    language = load_language_model(str(model))
    language.name = MODEL
    given: dict[str, Any] = {"url": server.url, "grpc_port": server.grpc_port, "api_key": ADMIN}
    with create_bank(BANK, language, (1, 2), **given) as bank:
        corpus = corpus_from_sentences("captions", SENTENCES)
        store_plan(bank, plan_for(bank, corpus, language, folder / "plan"), language)


def _as_on_this_machine(value: str, server: QdrantDouble, folder: Path) -> str:
    """Return a variable's value with the server and the folders of this test."""
    value = value.replace("http://qdrant:6333", server.url)
    for path in ("/run/secrets", "/models", "/data"):
        value = value.replace(path, str(folder) + path)
    return value


def _image(folder: Path) -> dict[str, str]:
    """Return the environment of the image, and put its programs and secrets below `folder`."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "latentbank"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m latentbank "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    (folder / "run" / "secrets").mkdir(parents=True)
    for name, secret in (("reader_key", READER), ("page_token", TOKEN)):
        (folder / "run" / "secrets" / name).write_text(secret + "\n", encoding="utf-8")
    text = (DEPLOY / "docker" / "query.Dockerfile").read_text(encoding="utf-8")
    assert "HF_HOME=/models" in text
    assert "LATENTBANK_DATA_DIR=/data/banks" in text
    return {
        "PATH": f"{folder / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "PYTHONPATH": str(ROOT),
        "HF_HOME": "/models",
        "LATENTBANK_DATA_DIR": "/data/banks",
        "PYTHONUNBUFFERED": "1",
        # There is no hub here.
        "HF_HUB_OFFLINE": "1",
    }


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Visitor]]:
    """Both pages, started at once: a process each, which takes seconds."""
    root = tmp_path_factory.mktemp("page")
    processes = []
    with QdrantDouble(api_key=ADMIN, read_only_key=READER) as server:
        model = _hub(root / "models")
        _fill(server, model, root)
        found = {}
        try:
            for name, place in PLACES.items():
                folder = root / name
                folder.mkdir()
                shutil.copytree(root / "models", folder / "models")
                words, environment = place()
                environment = {
                    variable: _as_on_this_machine(value, server, folder)
                    for variable, value in (_image(folder) | environment).items()
                }
                # The double's port for gRPC, and a free one for the page.
                environment["LATENTBANK_GRPC_PORT"] = str(server.grpc_port)
                command = [str(DEPLOY / "docker" / "entrypoint.sh"), *words, "--port", "0"]
                log = (folder / "log").open("w", encoding="utf-8")
                processes.append(subprocess.Popen(command, env=environment, cwd=folder, stderr=log))
                log.close()
            for (name, _), process in zip(PLACES.items(), processes, strict=True):
                log_file = root / name / "log"
                while "The page is at" not in (text := log_file.read_text(encoding="utf-8")):
                    assert process.poll() is None, f"{name}: {text}"
                    time.sleep(0.1)
                port = text.split("The page is at ")[1].split(";")[0].rstrip("/").rsplit(":", 1)[1]
                found[name] = Visitor(f"http://127.0.0.1:{port}/")
            yield found
        finally:
            for process in processes:
                process.terminate()
                process.wait(60)


@pytest.mark.parametrize("name", PLACES)
def test_it_starts_and_reads_sentences_alone(pages: dict[str, Visitor], name: str) -> None:
    page = pages[name]
    assert page.ask("", token="wrong")[0] == 401
    status, text = page.ask("")
    assert status == 200
    assert "<!doctype html>" in text
    about = json.loads(page.ask("api/about")[1])
    assert about["bank"] == BANK
    assert about["models"] == [MODEL]
    assert (about["images"], about["pictures"]) == (False, [])

    sentence = urllib.parse.quote("The dog chased a cat.")
    status, text = page.ask(f"api/readings?sentence={sentence}", "POST")
    assert status == 202
    events = page.ask(f"api/jobs/{json.loads(text)['job']}/events")[1]
    last = json.loads(events.strip().rsplit("data: ", 1)[1])
    assert last["state"] == "done", last
    reading = json.loads(page.ask(f"api/readings/{last['reading']}")[1])
    assert any(neighbors for tokens in reading["found"]["latent"] for neighbors in tokens)

    status, text = page.ask("api/readings?name=a.png", "POST", b"\x89PNG")
    assert status == 400
    assert "reads sentences alone" in json.loads(text)["error"]


def test_both_files_name_a_setting_for_the_vlm() -> None:
    for place in PLACES.values():
        assert place()[1]["LATENTBANK_VLM"] == ""
    compose = documents(DEPLOY / "compose.yaml")[0]["services"]["page"]["environment"]
    assert compose["LATENTBANK_VLM"] == "${LATENTBANK_VLM:-}"
