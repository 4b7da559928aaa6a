"""The server configuration: only keys that Qdrant knows, in agreement with our settings, and no secret."""

from __future__ import annotations

import copy
import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from qdrant_client import models

from bank.search import QUERY_BATCH
from bank.settings import Settings
from bank.store import server

PATH = Path(__file__).parent.parent / "qdrant-config.yaml"
TEXT = PATH.read_text(encoding="utf-8")

# Qdrant reads past keys that it does not know, so these stand in for it: the paths of the sections we use,
# as both Qdrant 1.17 and 1.19 know them (config/config.yaml, src/settings.rs, lib/storage/src/types.rs and
# audit.rs of qdrant/qdrant), and so 1.18.
SECTIONS = {
    "": "log_level telemetry_disabled",
    "service": "host http_port grpc_port metrics_port max_request_size_mb max_workers enable_cors enable_tls "
    "verify_https_client_certificate api_key alt_api_key read_only_api_key jwt_rbac hide_jwt_dashboard "
    "static_content_dir enable_static_content slow_query_secs hardware_reporting metrics_prefix",
    "storage": "storage_path snapshots_path temp_path on_disk_payload update_concurrency node_type mmap_advice "
    "update_queue_size handle_collection_load_errors recovery_mode shard_transfer_method max_collections",
    "storage.wal": "wal_capacity_mb wal_segments_ahead wal_retain_closed",
    "storage.performance": "max_search_threads max_optimization_runtime_threads update_rate_limit "
    "search_timeout_sec optimizer_cpu_budget optimizer_io_budget incoming_shard_transfers_limit "
    "outgoing_shard_transfers_limit async_scorer max_concurrent_collection_loads max_concurrent_shard_loads "
    "max_concurrent_segment_loads",
    "storage.optimizers": "deleted_threshold vacuum_min_vector_number default_segment_number "
    "max_segment_size_kb indexing_threshold_kb flush_interval_sec max_optimization_threads",
    "cluster": "enabled",
    "cluster.p2p": "port enable_tls",
    "tls": "cert key ca_cert cert_ttl",
    "audit": "enabled dir rotation max_log_files trust_forwarded_headers",
}
KNOWN = {f"{section}.{key}".lstrip(".") for section, keys in SECTIONS.items() for key in keys.split()}
SECRET = re.compile(r"key$|token|secret|password")


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load(TEXT)


def _leaves(node: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _unknown(config: dict[str, Any]) -> set[str]:
    return {path for path, _ in _leaves(config)} - KNOWN


def _default(setting: str) -> Any:
    return Settings.model_fields[setting].default


def test_qdrant_knows_every_key(config: dict[str, Any]) -> None:
    assert _unknown(config) == set()
    named = re.findall(r"QDRANT__(\w+)", TEXT)
    assert "SERVICE__API_KEY" in named
    assert {name.replace("__", ".").lower() for name in named} <= KNOWN


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
    client = server._connect(Settings(url="http://localhost"), prefer_grpc=False)
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
    for path, value in _leaves(config):
        assert not SECRET.search(path), path
        # A word, a path or an address; a key would be none of them.
        assert not isinstance(value, str) or re.fullmatch(r"[A-Za-z]{1,10}|\./[a-z/]+|[\d.]+", value), path
    assert not re.search(r"API_KEY\s*[=:]", TEXT)


def test_nobody_else_reaches_a_server_without_a_key(config: dict[str, Any]) -> None:
    assert ipaddress.ip_address(config["service"]["host"]).is_loopback
    assert config["service"]["enable_cors"] is False
    assert config["telemetry_disabled"] is True
