"""What lets tests run against any server: which ones do, and that they leave everything else alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from _pytest.outcomes import Skipped
from qdrant_client import QdrantClient, models

from tests import real_server
from tests.wire.double import QdrantDouble


def item(function: Any, *fixtures: str, **params: str) -> Any:
    """Return what pytest knows of a test."""
    return SimpleNamespace(
        function=function, fixturenames=[*fixtures, *params], callspec=SimpleNamespace(params=params)
    )


def plain(server: Any) -> None:
    server.points("bank--L04")


def orders_a_fault(server: Any) -> None:
    def later() -> None:
        server.inject("hang")

    later()


@pytest.mark.parametrize(
    ("test", "eligible"),
    [
        (item(plain, "server"), True),
        (item(plain, "shared", "one_server"), True),
        (item(plain, place="rest"), True),
        (item(plain, place="embedded"), False),
        (item(plain), False),
        (item(plain, "server", "double"), False),
        (item(orders_a_fault, "server"), False),
    ],
)
def test_eligible_tests_need_a_url_and_a_key_alone(test: Any, eligible: bool) -> None:
    assert real_server.is_eligible(test) is eligible


def use_and_fail(server: QdrantDouble, client: QdrantClient, vectors: models.VectorParams) -> None:
    client.create_collection(server.name("bank--L04"), vectors)
    ids = ["00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"]
    server.put("bank--L04", ids, np.eye(2), [{"a": 1}, {"a": 2}])
    server.remove("bank--L04", ids[:1])
    assert [fields for _, fields in server.points("bank--L04").values()] == [{"a": 2}]
    raise RuntimeError("the test fails")


def test_only_what_this_run_made_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    with QdrantDouble(api_key="secret") as double:
        monkeypatch.setattr(real_server, "URL", double.url)
        monkeypatch.setattr(real_server, "KEY", double.api_key)
        monkeypatch.setattr(real_server, "PREFIX", "test-1-main-")
        client = QdrantClient(
            url=double.url, api_key="secret", check_compatibility=False, verify=False, timeout=60
        )
        vectors = models.VectorParams(size=2, distance=models.Distance.COSINE)
        for name in ("bank--L04", "test-2-main-bank--L04"):
            client.create_collection(name, vectors)
        with pytest.raises(RuntimeError, match="the test fails"), real_server.serving() as server:
            use_and_fail(server, client, vectors)
        assert double.collections == ["bank--L04", "test-2-main-bank--L04"]
        client.close()


def test_what_only_a_double_has_skips_the_test() -> None:
    with pytest.raises(Skipped, match="only the double has `when`"):
        real_server.RealServer().when(0, print)
