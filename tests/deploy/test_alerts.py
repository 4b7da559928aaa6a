"""The alert rules: PromQL that parses, metrics and labels that a real server has, and each alert raised by these."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest

from tests.deploy.alert_cases import CASES, TARGETS
from tests.deploy.places import DEPLOY, documents, run, system_tool
from tests.qdrant_facts import KUBERNETES_METRICS, METRICS

(FILE,) = documents(DEPLOY / "alerts.yaml")
RULES = {rule["alert"]: rule for group in FILE["groups"] for rule in group["rules"]}
# What Prometheus itself adds to each series of a node, in any installation.
ADDED = {"job", "instance"}


def _selectors(node: Any) -> Iterator[Any]:
    """Yield the selectors of an expression."""
    if isinstance(node, promql.VectorSelector):
        yield node
    elif isinstance(node, promql.MatrixSelector):
        yield node.vector_selector
    elif isinstance(node, promql.Call):
        for part in node.args:
            yield from _selectors(part)
    else:
        for part in ("lhs", "rhs", "expr"):
            if (inner := getattr(node, part, None)) is not None:
                yield from _selectors(inner)


def _labels(metric: str) -> set[str]:
    """Return the labels that a metric has."""
    if metric == "up":
        return ADDED
    if metric in KUBERNETES_METRICS:
        return set(KUBERNETES_METRICS[metric].split())
    return ADDED | {label for series in METRICS[metric] for label in series}


def _unknown(expression: str) -> list[str]:
    """Return the metrics and labels of an expression that no server has."""
    found = []
    selectors = list(_selectors(promql.parse(expression)))
    assert selectors
    for selector in selectors:
        if selector.name not in METRICS | KUBERNETES_METRICS | {"up": []}:
            found.append(selector.name)
            continue
        named = {matcher.name for matcher in selector.matchers.matchers}
        found += [f"{selector.name}{{{label}}}" for label in sorted(named - _labels(selector.name))]
    kept = {label for selector in selectors for label in _labels(selector.name)} if not found else set()
    for group in re.findall(r"by \(([^)]*)\)", expression):
        found += [label.strip() for label in group.split(",") if not found and label.strip() not in kept]
    return found


def test_names_are_given_once() -> None:
    assert len(RULES) == sum(len(group["rules"]) for group in FILE["groups"])


@pytest.mark.parametrize("name", RULES)
def test_a_rule_asks_for_metrics_and_labels_that_exist_and_says_what_to_do(name: str) -> None:
    rule = RULES[name]
    assert _unknown(rule["expr"]) == []
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert all(rule["annotations"][part].endswith(".") for part in ("summary", "description"))
    for selector in _selectors(promql.parse(rule["expr"])):
        jobs = [matcher.value for matcher in selector.matchers.matchers if matcher.name == "job"]
        # Kubernetes' metrics have no job of ours.
        assert jobs == ([] if selector.name in KUBERNETES_METRICS else ["qdrant.*"])
        shown = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert shown <= _labels(selector.name)


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("sum(rate(rest_response_total[5m])) / 2 > 1", ["rest_response_total"]),
        ("rate(grpc_responses_fail_total[5m]) > 1", ["grpc_responses_fail_total"]),
        ('rate(grpc_responses_total{code="0"}[5m]) > 1', ["grpc_responses_total{code}"]),
        ("max by (collection) (collection_update_queue_length) > 1", ["collection"]),
        ('kube_job_failed{reason="x"} > 0', ["kube_job_failed{reason}"]),
    ],
)
def test_what_no_server_has_is_found(expression: str, wrong: list[str]) -> None:
    assert _unknown(expression) == wrong


def test_the_charts_service_monitor_gives_the_job_that_the_cases_have() -> None:
    # Qdrant's chart: the ServiceMonitor selects the headless Service, named after the release, and sets no jobLabel.
    text = (DEPLOY / "kubernetes" / "qdrant-values.yaml").read_text(encoding="utf-8")
    (release,) = set(re.findall(r"helm upgrade --install (\S+) qdrant/qdrant", text))
    assert TARGETS["kubernetes"]["job"] == f"{release}-headless"
    jobs = re.findall(r"job_name: (\S+)", (DEPLOY / "alerts.yaml").read_text(encoding="utf-8"))
    assert jobs == [TARGETS["compose"]["job"]]


def test_every_alert_is_raised_by_a_case() -> None:
    raised = {alert for case in CASES for alerts in case.raised.values() for alert in alerts}
    assert raised == RULES.keys()


def test_promtool_raises_each_alert_with_the_labels_of_both_places(tmp_path: Path) -> None:
    promtool = system_tool("promtool", "LATENTBANK_PROMTOOL")
    rules = DEPLOY / "alerts.yaml"
    assert run(promtool, "check", "rules", rules).returncode == 0
    files = []
    for interval in sorted({case.interval for case in CASES}):
        tests = [case.test(place) for place in TARGETS for case in CASES if case.interval == interval]
        files.append(tmp_path / f"{interval}.yaml")
        content = {"rule_files": [str(rules)], "evaluation_interval": interval, "tests": tests}
        files[-1].write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    done = run(promtool, "test", "rules", *files)
    assert done.returncode == 0, done.stdout + done.stderr
