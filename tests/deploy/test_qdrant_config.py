"""The server configuration: only keys that Qdrant knows, in agreement with our settings, and no secret."""

from __future__ import annotations

import copy
import ipaddress
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from qdrant_client import models

from latentbank.bank.search import QUERY_BATCH
from latentbank.bank.settings import Settings
from latentbank.bank.store.server.client import connect
from tests.qdrant_facts import KEYS, leaves

PATH = Path(__file__).parents[2] / "qdrant-config.yaml"
TEXT = PATH.read_text(encoding="utf-8")

SECRET = re.compile(r"key$|token|secret|password")


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load(TEXT)


def _unknown(config: dict[str, Any]) -> set[str]:
    return {path for path, _ in leaves(config)} - KEYS


def _default(setting: str) -> Any:
    return Settings.model_fields[setting].default


def test_qdrant_knows_every_key(config: dict[str, Any]) -> None:
    assert _unknown(config) == set()
    named = re.findall(r"QDRANT__(\w+)", TEXT)
    assert "SERVICE__API_KEY" in named
    assert {name.replace("__", ".").lower() for name in named} <= KEYS


@pytest.mark.parametrize(
    ("section", "key", "misspelled"),
    [
        ("service", "grpc_port", "grpcport"),
        ("storage", "optimizers", "optimisers"),
        ("storage", "wal", "audit"),  # a section in the wrong place
    ],
)
def test_a_misspelled_key_is_found(config: dict[str, Any], section: str, key: str, misspelled: str) -> None:
    wrong = copy.deepcopy(config)
    wrong[section][misspelled] = wrong[section].pop(key)
    assert {path.split(".")[1] for path in _unknown(wrong)} == {misspelled}


def test_it_agrees_with_our_settings(config: dict[str, Any]) -> None:
    assert config["service"]["grpc_port"] == _default("grpc_port")
    assert config["storage"]["performance"]["search_timeout_sec"] == _default("timeout")
    client = connect(Settings(url="http://localhost"), prefer_grpc=False)
    try:
        assert client.rest_uri.rstrip("/") == f"http://localhost:{config['service']['http_port']}"
    finally:
        client.close()


def test_requests_of_the_widest_models_fit(config: dict[str, Any]) -> None:
    rows = np.random.default_rng(0).standard_normal((4, 8192)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    payload = {"caption": "x" * 4000}
    points = [models.PointStruct(id=i, vector=row, payload=payload) for i, row in enumerate(rows.tolist())]
    point_bytes = len(models.PointsList(points=points).model_dump_json().encode()) / len(points)
    batch = max(_default("upload_batch"), QUERY_BATCH)
    assert batch * point_bytes <= config["service"]["max_request_size_mb"] << 20
    upload_bytes = _default("upload_batch") * (rows[0].nbytes + len(payload["caption"]))
    assert 2 * upload_bytes <= config["storage"]["wal"]["wal_capacity_mb"] << 20


def test_no_secret_is_in_it(config: dict[str, Any]) -> None:
    for path, value in leaves(config):
        assert not SECRET.search(path), path
        # All values are words, paths or addresses; a key would not be one of these.
        assert not isinstance(value, str) or re.fullmatch(r"[A-Za-z]{1,10}|\./[a-z/]+|[\d.]+", value), path
    assert not re.search(r"API_KEY\s*[=:]", TEXT)


def test_nobody_else_reaches_a_server_without_a_key(config: dict[str, Any]) -> None:
    assert ipaddress.ip_address(config["service"]["host"]).is_loopback
    assert config["service"]["enable_cors"] is False
    assert config["telemetry_disabled"] is True
