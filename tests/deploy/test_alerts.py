"""The alert rules: PromQL that parses, metrics that exist, and each alert raised by its condition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import pytest

from tests.deploy.places import DEPLOY, documents, run, system_tool
from tests.qdrant_facts import KUBERNETES_METRICS, METRICS

(FILE,) = documents(DEPLOY / "alerts.yaml")
RULES = {rule["alert"]: rule for group in FILE["groups"] for rule in group["rules"]}


def _metrics(expression: str) -> set[str]:
    return set(_selected(promql.parse(expression)))


def _selected(node: Any) -> Iterator[str]:
    if isinstance(node, promql.VectorSelector):
        assert node.name is not None
        yield node.name
        return
    if isinstance(node, promql.MatrixSelector):
        yield from _selected(node.vector_selector)
        return
    if isinstance(node, promql.Call):
        for part_node in node.args:
            yield from _selected(part_node)
        return
    for part in ("lhs", "rhs", "expr"):
        if (part_node := getattr(node, part, None)) is not None:
            yield from _selected(part_node)


def test_names_are_given_once() -> None:
    assert len(RULES) == sum(len(group["rules"]) for group in FILE["groups"])


@pytest.mark.parametrize("name", RULES)
def test_a_rule_asks_for_metrics_that_exist_and_says_what_to_do(name: str) -> None:
    rule = RULES[name]
    found = _metrics(rule["expr"])
    assert found
    assert found <= METRICS | KUBERNETES_METRICS | {"up"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert all(rule["annotations"][part].endswith(".") for part in ("summary", "description"))
    # Rules on Qdrant's metrics select the scrape job that the file describes; Kubernetes' metrics have no such job.
    assert ('job="qdrant"' in rule["expr"]) == bool(found & (METRICS | {"up"}))


def test_a_misspelled_metric_is_found() -> None:
    assert _metrics("sum(rate(rest_response_total[5m])) / 2 > 1") == {"rest_response_total"}


def test_every_alert_has_a_test() -> None:
    text = (DEPLOY.parent / "tests" / "deploy" / "alerts_test.yaml").read_text(encoding="utf-8")
    assert [name for name in RULES if name not in text] == []


def test_promtool_raises_each_alert() -> None:
    promtool = system_tool("promtool", "LATENTBANK_PROMTOOL")
    assert run(promtool, "check", "rules", DEPLOY / "alerts.yaml").returncode == 0
    done = run(promtool, "test", "rules", DEPLOY.parent / "tests" / "deploy" / "alerts_test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
