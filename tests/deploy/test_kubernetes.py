"""The manifests against Kubernetes' own schemas, and what schemas cannot check: matching numbers, labels and ports."""

from __future__ import annotations

import asyncio
import copy
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import kubernetes_validate
import pytest
import yaml

from latentbank.bank.settings import Settings
from latentbank.query.web.guard import Guard
from latentbank.query.web.server import create_app
from tests.deploy.places import DEPLOY, KUBERNETES, ROOT, documents, manifests
from tests.qdrant_facts import KEYS, leaves

OF_THE_PAGE = {"LATENTBANK_TOKEN", "LATENTBANK_VLM"}
# Kubernetes 1.33 is the first in which backoffLimitPerIndex is stable.
VERSIONS = ("1.33", kubernetes_validate.latest_version())
MANIFESTS = manifests()
(VALUES,) = documents(KUBERNETES / "qdrant-values.yaml")

# The allowed values of Qdrant's chart: charts/qdrant/values.yaml and values.schema.json of qdrant/qdrant-helm.
# `config` is free there; it is Qdrant's own configuration.
CHART = {
    "": "replicaCount env args podManagementPolicy priorityClassName nodeSelector tolerations affinity "
    "topologySpreadConstraints additionalVolumes additionalVolumeMounts apiKey readOnlyApiKey lifecycle "
    "updateVolumeFsOwnership sidecarContainers",
    "image": "repository pullPolicy tag useUnprivilegedImage",
    "persistence": "accessModes size annotations storageClassName",
    "snapshotPersistence": "enabled accessModes size annotations storageClassName",
    "resources.requests": "cpu memory",
    "resources.limits": "cpu memory",
    "startupProbe": "enabled initialDelaySeconds periodSeconds timeoutSeconds failureThreshold successThreshold",
    "podDisruptionBudget": "enabled maxUnavailable minAvailable unhealthyPodEvictionPolicy",
    "metrics.serviceMonitor": "enabled additionalLabels scrapeInterval scrapeTimeout targetPort targetPath "
    "metricRelabelings relabelings authorization",
}


def _name(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def _pod(manifest: dict[str, Any]) -> dict[str, Any] | None:
    spec = manifest["spec"]
    spec = spec["jobTemplate"]["spec"] if manifest["kind"] == "CronJob" else spec
    return spec.get("template")


PODS = {_name(manifest): pod for manifest in MANIFESTS if (pod := _pod(manifest))}


def _find(kind: str, name: str) -> dict[str, Any]:
    return next(
        manifest for manifest in MANIFESTS if (manifest["kind"], manifest["metadata"]["name"]) == (kind, name)
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", MANIFESTS, ids=_name)
def test_kubernetes_accepts_every_manifest(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelled_field_is_refused() -> None:
    wrong = copy.deepcopy(_find("Job", "latentbank-ingest"))
    wrong["spec"]["completion"] = wrong["spec"].pop("completions")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_everything_is_in_one_namespace() -> None:
    assert {manifest["metadata"]["namespace"] for manifest in MANIFESTS} == {"latentbank"}


@pytest.mark.parametrize("name", PODS)
def test_pods_are_confined_limited_and_hold_no_secret(name: str) -> None:
    spec = PODS[name]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    volumes = {volume["name"] for volume in spec["volumes"]}
    for container in spec["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        assert re.search(r":\d", container["image"])
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        for variable in container["env"]:
            secret = re.search(r"KEY$|KEY_ID$|TOKEN$", variable["name"])
            assert ("valueFrom" in variable) == bool(secret), variable["name"]
            if variable["name"].startswith("LATENTBANK_") and variable["name"] not in OF_THE_PAGE:
                assert variable["name"].removeprefix("LATENTBANK_").lower() in Settings.model_fields


def test_pods_run_as_the_image_does() -> None:
    for stem in ("ingest", "query"):
        text = (DEPLOY / "docker" / f"{stem}.Dockerfile").read_text(encoding="utf-8")
        (user,) = re.findall(r"^USER (\d+)", text, re.MULTILINE)
        assert {pod["spec"]["securityContext"]["runAsUser"] for pod in PODS.values()} == {int(user)}


def test_the_shares_are_as_many_as_the_pods() -> None:
    spec = _find("Job", "latentbank-ingest")["spec"]
    args = spec["template"]["spec"]["containers"][0]["args"]
    share = args[args.index("--shard") + 1]
    assert share == f"$(JOB_COMPLETION_INDEX)/{spec['completions']}"
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] <= spec["completions"]
    assert spec["maxFailedIndexes"] <= spec["completions"]
    plan = _find("Job", "latentbank-plan")["spec"]["template"]["spec"]["containers"][0]["args"]
    for option in ("--plan", "--layers"):
        assert plan[plan.index(option) + 1] == args[args.index(option) + 1]


def test_claims_that_pods_name_exist() -> None:
    claims = {
        manifest["metadata"]["name"] for manifest in MANIFESTS if manifest["kind"] == "PersistentVolumeClaim"
    }
    named = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in PODS.values()
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert named == claims


def test_the_service_and_the_budget_select_the_page() -> None:
    labels = PODS["Deployment/latentbank-page"]["metadata"]["labels"]
    assert _find("Service", "latentbank-page")["spec"]["selector"] == labels
    assert _find("PodDisruptionBudget", "latentbank-page")["spec"]["selector"]["matchLabels"] == labels
    deployment = _find("Deployment", "latentbank-page")["spec"]
    assert deployment["selector"]["matchLabels"] == labels
    assert deployment["replicas"] > 1


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe"])
def test_the_pages_probe_needs_no_token(probe: str) -> None:
    container = PODS["Deployment/latentbank-page"]["spec"]["containers"][0]
    path = container[probe]["httpGet"]["path"]

    async def ask() -> list[int]:
        app = Guard(create_app(None), "a token that nobody guesses")
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://10.1.2.3:8265") as client:
            return [(await client.get(address)).status_code for address in (path, "/api/about")]

    # In a thread of its own: the browser's tests leave a loop running in this one.
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(lambda: asyncio.run(ask())).result() == [200, 401]
    assert container["args"][container["args"].index("--port") + 1] == str(
        container["ports"][0]["containerPort"]
    )


def test_policies_open_what_is_needed_and_no_more() -> None:
    policies = {
        manifest["metadata"]["name"]: manifest["spec"]
        for manifest in MANIFESTS
        if manifest["kind"] == "NetworkPolicy"
    }
    assert policies["nobody-by-default"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ours = {"app.kubernetes.io/name": "latentbank"}
    assert policies["latentbank"]["podSelector"]["matchLabels"] == ours
    assert all(pod["metadata"]["labels"].items() >= ours.items() for pod in PODS.values())
    open_to_us = next(
        rule
        for rule in policies["qdrant"]["ingress"]
        if rule["from"] == [{"podSelector": {"matchLabels": ours}}]
    )
    service = VALUES["config"]["service"]
    expected = {service["http_port"], service["grpc_port"]}
    assert {port["port"] for port in open_to_us["ports"]} == expected
    # The nodes' own port, which needs no key, is open to nodes only.
    p2p = VALUES["config"]["cluster"]["p2p"]["port"]
    for rule in policies["qdrant"]["ingress"]:
        if p2p in {port["port"] for port in rule["ports"]}:
            assert rule["from"] == [{"podSelector": policies["qdrant"]["podSelector"]}]
    assert policies["page"]["ingress"][0]["ports"][0]["port"] == 8265


def test_the_chart_knows_every_value() -> None:
    known = {f"{section}.{key}".lstrip(".") for section, keys in CHART.items() for key in keys.split()}
    for path, _ in leaves({key: value for key, value in VALUES.items() if key != "config"}):
        assert any(path == key or path.startswith(f"{key}.") for key in known), path


def test_the_chart_installs_where_no_prometheus_operator_is() -> None:
    # With it, the chart brings a ServiceMonitor, which a cluster without the operator refuses.
    monitor = VALUES["metrics"]["serviceMonitor"]
    assert monitor["enabled"] is False
    secret = monitor["authorization"]["credentials"]
    assert secret in [entry["valueFrom"]["secretKeyRef"] for entry in VALUES["env"]]


def test_the_charts_configuration_is_ours_but_for_the_cluster() -> None:
    ours = dict(leaves(yaml.safe_load((ROOT / "qdrant-config.yaml").read_text(encoding="utf-8"))))
    charts = dict(leaves(VALUES["config"]))
    assert charts.keys() <= KEYS
    different = {key for key in ours.keys() | charts.keys() if ours.get(key) != charts.get(key)}
    assert different == {
        "service.host",  # a pod's port is closed by the policy, not by the address
        "cluster.enabled",
        "cluster.p2p.port",
        "cluster.p2p.enable_tls",
        "cluster.consensus.tick_period_ms",
    }


def test_the_values_agree_with_the_manifests() -> None:
    selector = VALUES["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
    assert selector["labelSelector"]["matchLabels"] == {
        "app.kubernetes.io/name": "qdrant",
        "app.kubernetes.io/instance": "qdrant",
    }
    args = PODS["CronJob/latentbank-backup"]["spec"]["containers"][0]["args"]
    assert sum(word == "--node" for word in args) == VALUES["replicaCount"]
    worker = _find("Job", "latentbank-ingest")["spec"]["template"]["spec"]["containers"][0]
    factors = {
        manifest["name"]: int(manifest["value"])
        for manifest in worker["env"]
        if manifest["name"].endswith("_FACTOR")
    }
    assert max(factors.values()) <= VALUES["replicaCount"]
    assert all(
        manifest["valueFrom"]["secretKeyRef"]["name"] == "latentbank-keys" for manifest in VALUES["env"]
    )
