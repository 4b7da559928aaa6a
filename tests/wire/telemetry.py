"""What a server tells about itself: telemetry, issues and metrics, in the form that version 1.18.2 gives them."""

from dataclasses import dataclass, field
from typing import Any

from qdrant_client.http import models as m

from tests.qdrant_facts import METRICS_FILE
from tests.wire.cluster import Cluster
from tests.wire.engine import Engine, version

CORES, RAM, DISK = 4, 16 << 20, 200 << 20
"""What the server's machine has: cores, and kilobytes of memory and disk."""

RESIDENT = 40 << 20
"""Bytes of memory that the server uses."""

# Collections that the node had, and that were asked for.
_SEEN = ("team--L", "nosuch2")


@dataclass
class Reports:
    """What a server says about itself; tests may add issues, as its issues API lists them."""

    engine: Engine
    cluster: Cluster
    issues: list[dict[str, Any]] = field(default_factory=list)

    def telemetry(self, node: int, level: int) -> dict[str, Any]:
        """Return the answer to GET /telemetry?details_level=..."""
        return _telemetry(self.engine, self.cluster, node, level)

    def metrics(self) -> bytes:
        """Return the answer to GET /metrics: the lines that a node gave, with the numbers known here."""
        return _metrics(self.engine, self.cluster)


def _telemetry(engine: Engine, cluster: Cluster, node: int, level: int) -> dict[str, Any]:
    collections = engine.all()
    answer: dict[str, Any] = {
        "id": "00000000-0000-0000-0000-000000000000",
        "app": {"name": "qdrant", "version": version(), "startup": "2026-01-01T00:00:00Z"},
        "collections": {"number_of_collections": len(collections)},
        "cluster": {"enabled": cluster.enabled},
    }
    if level < 1:
        return answer
    answer["app"] |= {
        "features": {
            "debug": False,
            "service_debug_feature": False,
            "recovery_mode": False,
            "gpu": False,
            "rocksdb": False,
            "staging": False,
        },
        "system": {
            "distribution": "debian",
            "distribution_version": "13",
            "is_docker": False,
            "cores": CORES,
            "ram_size": RAM,
            "disk_size": DISK,
            "cpu_flags": "sse,sse2,avx,avx2,fma,f16c",
        },
    }
    infos = {name: collection.info() for name, collection in collections.items()}
    answer["collections"]["collections"] = [
        {
            "vectors": info.points_count,
            "optimizers_status": info.optimizer_status,
            "params": info.config.params,
        }
        for info in infos.values()
    ]
    answer["memory"] = {
        "active_bytes": RESIDENT,
        "allocated_bytes": RESIDENT // 2,
        "metadata_bytes": 1 << 20,
        "resident_bytes": RESIDENT,
        "retained_bytes": 1 << 20,
    }
    status = cluster.status(node)
    if isinstance(status, m.ClusterStatusOneOf1):
        answer["cluster"]["status"] = {
            "number_of_peers": len(status.peers),
            "term": 1,
            "commit": 10,
            "pending_operations": 0,
            "role": status.raft_info.role,
            "is_voter": True,
            "peer_id": status.peer_id,
            "consensus_thread_status": status.consensus_thread_status,
        }
        if level > 1:
            answer["cluster"]["peers"] = status.peers
    return answer


def _metrics(engine: Engine, cluster: Cluster) -> bytes:
    collections = {name: collection.info() for name, collection in engine.all().items()}
    states = [list(of.values()) for name in collections for of in cluster.replicas(name)]
    active = [of.count(m.ReplicaState.ACTIVE) for of in states] or [0]
    known = {
        "app_info": f'{{name="qdrant",version="{version()}"}} 1',
        "collections_total": f" {len(collections)}",
        "collection_active_replicas_min": f" {min(active)}",
        "collection_active_replicas_max": f" {max(active)}",
        "collection_dead_replicas": f" {sum(of.count(m.ReplicaState.DEAD) for of in states)}",
        "cluster_enabled": f" {int(cluster.enabled)}",
        "cluster_peers_total": f" {len(cluster.peers)}",
        "memory_resident_bytes": f" {RESIDENT}",
    }
    lines: list[str] = []
    done: set[str] = set()
    for line in METRICS_FILE.read_text(encoding="utf-8").splitlines():
        name = line.split("{")[0].split(" ")[0]
        if name in known:
            lines.append(name + known[name])
        elif name == "collection_points":
            if name not in done:
                lines += [f'{name}{{id="{item}"}} {info.points_count}' for item, info in collections.items()]
        elif line.startswith("#") or not any(seen in line for seen in _SEEN):
            lines.append(line)
        done.add(name)
    return "\n".join(lines).encode() + b"\n"
