"""The balancer: the real HAProxy with our configuration, in front of a double of a server, over REST, gRPC and TLS."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from latentbank.bank.store.backends import backend
from tests.bank.samples import HEAD, WIDTH, points, put_head, units
from tests.bank.servers import settings, used
from tests.deploy.places import DEPLOY, system_tool
from tests.wire.double import QdrantDouble

CONFIG = (DEPLOY / "haproxy.cfg").read_text(encoding="utf-8")


@contextmanager
def _balanced(server: QdrantDouble, directory: Path, tls: bool) -> Iterator[dict[str, int]]:
    """Run HAProxy before one double that stands for nodes 2 and 3; node 1 is down. Yield the ports it listens on.

    All ports are held from the start, so that no other program can get one of them meanwhile.
    """
    with socket.socket() as rest, socket.socket() as grpc, socket.socket() as away:
        ports = {}
        for name, one in (("rest", rest), ("grpc", grpc), ("away", away)):
            one.bind(("127.0.0.1", 0))
            ports[name] = int(one.getsockname()[1])
        rest.listen(64)
        grpc.listen(64)
        text = CONFIG.replace("bind :6333", f"bind fd@{rest.fileno()}")
        text = text.replace("bind :6334", f"bind fd@{grpc.fileno()}")
        text = re.sub(r"qdrant-1:633[34]", f"127.0.0.1:{ports['away']}", text)
        node = int(server.url.rsplit(":", 1)[1])
        text = re.sub(r"qdrant-[23]:6333", f"127.0.0.1:{node}", text)
        text = re.sub(r"qdrant-[23]:6334", f"127.0.0.1:{server.grpc_port}", text)
        text = text.replace(f"{ports['away']} port 6333", f"{ports['away']} port {ports['away']}")
        text = text.replace("port 6333", f"port {node}")
        # A double that the machine stops for some seconds is not taken out.
        text = text.replace("fall 3", "fall 1000")
        file = directory / "haproxy.cfg"
        file.write_text(text, encoding="utf-8")
        program = system_tool("haproxy", "LATENTBANK_HAPROXY", "/usr/sbin/haproxy")
        process = subprocess.Popen(
            [program, "-db", "-f", file],
            env=os.environ | {"QDRANT_TLS": str(tls).lower()},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[rest.fileno(), grpc.fileno()],
        )
        try:
            yield ports
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_rest_grpc_and_tls_pass_and_a_node_that_is_away_does_no_harm(
    tmp_path: Path, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentbank.bank.store.server.client._LONGEST_ANSWER", 60)
    with QdrantDouble(tls=tls) as server, _balanced(server, tmp_path, tls) as ports:
        where = settings(
            server, url=f"http{'s' * tls}://127.0.0.1:{ports['rest']}", grpc_port=ports["grpc"], retries=8
        )
        store = backend(where).open("bank")
        store.create(4, WIDTH, "int8")
        put_head(store, HEAD)
        store.upsert(4, points(40))
        assert store.count(4) == 40
        (hits,) = store.search(4, units(1), 5, exact=True)
        assert len(hits) == 5
        store.close()
        operations = used(server)
        assert {"upsert", "query_batch"} <= operations["grpc"]
        assert {"create_collection", "count"} <= operations["rest"]
        # The health checks come as REST.
        assert "upsert" not in operations["rest"]


def test_every_node_of_the_cluster_is_behind_it() -> None:
    for port in (6333, 6334):
        assert re.findall(rf"server (qdrant-\d) \1:{port}", CONFIG) == ["qdrant-1", "qdrant-2", "qdrant-3"]
