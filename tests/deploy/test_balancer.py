"""The balancer: the real HAProxy with our configuration, in front of a double of a server, over REST, gRPC and TLS."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
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


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def _balanced(server: QdrantDouble, directory: Path, tls: bool) -> Iterator[dict[str, int]]:
    """Run HAProxy before one double that stands for nodes 2 and 3; node 1 is down. Yield the ports it listens on."""
    rest, away = int(server.url.rsplit(":", 1)[1]), _free_port()
    ports = {"rest": _free_port(), "grpc": _free_port()}
    text = CONFIG.replace("bind :6333", f"bind 127.0.0.1:{ports['rest']}")
    text = text.replace("bind :6334", f"bind 127.0.0.1:{ports['grpc']}")
    text = re.sub(r"qdrant-1:633[34]", f"127.0.0.1:{away}", text)
    text = re.sub(r"qdrant-[23]:6333", f"127.0.0.1:{rest}", text)
    text = re.sub(r"qdrant-[23]:6334", f"127.0.0.1:{server.grpc_port}", text)
    text = text.replace(f"{away} port 6333", f"{away} port {away}").replace("port 6333", f"port {rest}")
    file = directory / "haproxy.cfg"
    file.write_text(text, encoding="utf-8")
    program = system_tool("haproxy", "LATENTBANK_HAPROXY", "/usr/sbin/haproxy")
    environment = os.environ | {"QDRANT_TLS": str(tls).lower()}
    process = subprocess.Popen(
        [program, "-db", "-f", file], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for port in ports.values():
            for _ in range(200):
                with socket.socket() as sock:
                    if sock.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
        yield ports
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_rest_grpc_and_tls_pass_and_a_node_that_is_away_does_no_harm(tmp_path: Path, tls: bool) -> None:
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
