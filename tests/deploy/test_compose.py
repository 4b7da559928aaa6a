"""The compose files, as Docker Compose itself reads them (its `config` needs no Docker), and their health checks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from latentbank.bank.settings import Settings
from tests.deploy.places import DEPLOY, documents, run, tool
from tests.qdrant_facts import KEYS
from tests.wire.double import QdrantDouble

SETS = {
    "one": ["compose.yaml"],
    "one-tls": ["compose.yaml", "compose.tls.yaml"],
    "cluster": ["compose.cluster.yaml"],
    "cluster-tls": ["compose.cluster.yaml", "compose.cluster.tls.yaml"],
}


def _config(*files: Path) -> Any:
    words = [word for file in files for word in ("-f", file)]
    done = run(
        tool("docker-compose"),
        *words,
        *("--profile", "*", "config", "--format", "json"),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def configs() -> dict[str, Any]:
    return {name: _config(*(DEPLOY / file for file in files)) for name, files in SETS.items()}


@pytest.fixture(params=SETS)
def config(request: pytest.FixtureRequest, configs: dict[str, Any]) -> Any:
    return configs[request.param]


def _nodes(config: Any) -> dict[str, Any]:
    return {name: entry for name, entry in config["services"].items() if name.startswith("qdrant")}


def test_compose_refuses_what_its_schema_does_not_know(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    wrong.write_text(text.replace("healthcheck:", "healthchecks:"), encoding="utf-8")
    done = run(tool("docker-compose"), "-f", wrong, "config", "--quiet")
    assert done.returncode != 0
    assert "healthchecks" in done.stderr


def test_every_service_is_pinned_confined_and_limited(config: Any) -> None:
    for name, service in config["services"].items():
        assert re.search(r":v?\d+\.\d+", service["image"]), name
        assert service["deploy"]["resources"]["limits"].keys() >= {"cpus", "memory"}, name
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["restart"] == "unless-stopped", name


def test_all_nodes_run_the_same_qdrant(configs: dict[str, Any]) -> None:
    images = {node["image"] for config in configs.values() for node in _nodes(config).values()}
    chart = documents(DEPLOY / "kubernetes" / "qdrant-values.yaml")[0]["image"]["tag"]
    assert images == {f"qdrant/qdrant:{chart}-unprivileged"}


def test_nodes_read_our_configuration_and_the_keys_from_files(config: Any) -> None:
    assert Path(config["configs"]["qdrant_config"]["file"]) == DEPLOY.parent / "qdrant-config.yaml"
    for node in _nodes(config).values():
        assert [entry["target"] for entry in node["configs"]] == ["/qdrant/config/production.yaml"]
        assert ("qdrant_keys", "/qdrant/config/local.yaml") in [
            (entry["source"], entry.get("target")) for entry in node["secrets"]
        ]
        volumes = {entry["target"]: entry["source"] for entry in node["volumes"]}
        assert set(volumes) == {"/qdrant/storage", "/qdrant/snapshots"}
        assert set(volumes.values()) <= set(config["volumes"])


def test_the_example_of_keys_holds_none_and_qdrant_knows_its_keys() -> None:
    (example,) = documents(DEPLOY / "secrets" / "qdrant-keys.example.yaml")
    assert {f"service.{key}" for key in example["service"]} <= KEYS
    assert set(example["service"].values()) == {""}


def test_the_environment_sets_only_what_is_known_and_no_secret(config: Any) -> None:
    known = {f"LATENTBANK_{name.upper()}" for name in Settings.model_fields} | {
        "LATENTBANK_TOKEN_FILE",
        "LATENTBANK_VLM",
    }
    for service in config["services"].values():
        for name, value in service.get("environment", {}).items():
            if name.startswith("QDRANT__"):
                assert name.removeprefix("QDRANT__").replace("__", ".").lower() in KEYS, name
            elif name.startswith("LATENTBANK_"):
                assert name in known, name
            assert not re.search(r"KEY$|TOKEN$|SECRET$", name) or value.startswith("/run/secrets/"), name


def test_without_tls_only_this_machine_is_answered(configs: dict[str, Any]) -> None:
    def published(name: str) -> dict[int, str | None]:
        return {
            port["target"]: port.get("host_ip")
            for service in configs[name]["services"].values()
            for port in service.get("ports", [])
        }

    assert published("one") == dict.fromkeys((6333, 6334, 8265), "127.0.0.1")
    assert published("one-tls") == {6333: None, 6334: None, 8265: "127.0.0.1"}
    assert published("cluster") == dict.fromkeys((6333, 6334), "127.0.0.1")
    assert published("cluster-tls") == dict.fromkeys((6333, 6334))


@pytest.mark.parametrize("name", ["one-tls", "cluster-tls"])
def test_certificates_are_mounted_where_qdrant_looks_for_them(configs: dict[str, Any], name: str) -> None:
    for node in _nodes(configs[name]).values():
        environment, mounted = node["environment"], {entry["source"] for entry in node["secrets"]}
        paths = {value for key, value in environment.items() if key.startswith("QDRANT__TLS__")}
        assert len(paths) >= 2
        assert paths <= {f"/run/secrets/{name}" for name in mounted}
        assert environment["QDRANT__SERVICE__ENABLE_TLS"] == "true"
        if name == "cluster-tls":
            assert environment["QDRANT__CLUSTER__P2P__ENABLE_TLS"] == "true"
            assert all(word.startswith("https://") for word in node["command"] if "://" in word)


@pytest.mark.parametrize("name", ["cluster", "cluster-tls"])
def test_three_nodes_find_each_other(configs: dict[str, Any], name: str) -> None:
    nodes = _nodes(configs[name])
    assert len(nodes) == 3
    first = "qdrant-1"
    for own, node in nodes.items():
        command = node["command"]
        assert own in command[command.index("--uri") + 1]
        assert ("--bootstrap" in command) == (own != first)
        if own != first:
            assert command[command.index("--bootstrap") + 1] == nodes[first]["command"][2]
        assert node["environment"]["QDRANT__CLUSTER__ENABLED"] == "true"


def test_the_cluster_file_names_settings_that_exist() -> None:
    text = (DEPLOY / "compose.cluster.yaml").read_text(encoding="utf-8")
    named = dict(re.findall(r"# +LATENTBANK_(\w+)=(\d+) ", text))
    assert named == {"SHARD_NUMBER": "6", "REPLICATION_FACTOR": "2", "WRITE_CONSISTENCY_FACTOR": "2"}
    assert {name.lower() for name in named} <= Settings.model_fields.keys()


@pytest.mark.parametrize("name", SETS)
def test_health_checks_recognize_a_server_that_answers(configs: dict[str, Any], name: str) -> None:
    checks = {tuple(node["healthcheck"]["test"]) for node in _nodes(configs[name]).values()}
    assert len(checks) == 1
    (kind, *command), *_ = checks
    assert kind == "CMD"
    with QdrantDouble() as server:
        port = server.url.rsplit(":", 1)[1]
        words = [word.replace("6333", port) for word in command]
        assert any(port in word for word in words)
        assert run(*words).returncode == 0
        server.stop()
        assert run(*words).returncode != 0
