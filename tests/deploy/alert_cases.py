"""What raises each alert: series with the names and labels that a real server gave, as promtool's tests take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.qdrant_facts import KUBERNETES_METRICS, METRICS

TARGETS: dict[str, dict[str, str]] = {
    # A job of one's own, as the head of alerts.yaml shows it.
    "compose": {"job": "qdrant", "instance": "qdrant-1:6333"},
    # What the Prometheus operator adds for the ServiceMonitor of Qdrant's chart, which names no job: the Service's.
    # The chart sets honorLabels, so a series' own `endpoint` stays.
    "kubernetes": {
        "job": "qdrant-headless",
        "service": "qdrant-headless",
        "instance": "10.1.2.3:6333",
        "pod": "qdrant-0",
        "namespace": "latentbank",
        "container": "qdrant",
        "endpoint": "http",
    },
}


@dataclass(frozen=True)
class Series:
    """A series of a node: `values` over time, in promtool's notation, and what differs from the one that was seen."""

    metric: str
    values: str
    differs: dict[str, str]

    def line(self, target: dict[str, str]) -> dict[str, str]:
        """Return the series with all labels of the one seen that is most like it."""
        if self.metric == "up":
            labels = target | self.differs
        elif self.metric in KUBERNETES_METRICS:
            labels = dict.fromkeys(KUBERNETES_METRICS[self.metric].split(), "latentbank") | self.differs
        else:
            like = max(METRICS[self.metric], key=lambda seen: len(seen.items() & self.differs.items()))
            assert self.differs.keys() <= like.keys() | target.keys(), f"{self.metric} has no such label"
            labels = target | like | self.differs
        inside = ", ".join(f'{key}="{value}"' for key, value in labels.items())
        return {"series": f"{self.metric}{{{inside}}}", "values": self.values}


def seen(metric: str, values: str, **differs: str) -> Series:
    """Return a series."""
    return Series(metric, values, differs)


@dataclass(frozen=True)
class Case:
    """Series, and which alerts they raise at which times; all others must be silent.

    Attributes:
        name: for people.
        series: what Prometheus has.
        raised: the alerts that are raised, by time.
        interval: between values, and between evaluations of the rules.
    """

    name: str
    series: tuple[Series, ...]
    raised: dict[str, tuple[str, ...]]
    interval: str = "1m"

    def test(self, place: str) -> dict[str, Any]:
        """Return the test of promtool for a place in `TARGETS`."""
        return {
            "name": f"{self.name} ({place})",
            "interval": self.interval,
            "input_series": [series.line(TARGETS[place]) for series in self.series],
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": time,
                    "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in alerts],
                }
                for time, alerts in self.raised.items()
            ],
        }


_UP = seen("up", "1x60")
_OTHER = {"instance": "10.1.2.4:6333"}
_SLOW = "grpc_responses_duration_seconds_bucket"
_SEARCH, _UPLOAD = "/qdrant.Points/QueryBatch", "/qdrant.Points/Upsert"
_COUNT = "/collections/{collection_name}/points/count"
_CLAIM = "qdrant-storage-qdrant-0"
_EMPTY = tuple(seen(metric, "0x60") for metric in METRICS if metric != "cluster_peers_total")

CASES = (
    Case("an empty node", (_UP, seen("cluster_peers_total", "1x60"), *_EMPTY), {"60m": ()}),
    Case("nothing is scraped", (), {"5m": (), "20m": ("QdrantNotScraped",)}),
    Case(
        "a node stops",
        (seen("up", "1x3 0x60"), seen("up", "1x60", **_OTHER)),
        {"7m": (), "12m": ("QdrantNodeAway",)},
    ),
    Case(
        "a node's pod has no machine",
        (_UP, seen("up", "1x60", **_OTHER), seen("cluster_peers_total", "3x60")),
        {"10m": (), "20m": ("QdrantNodeMissing",)},
    ),
    Case(
        "a shard loses one replica, then the other",
        (
            _UP,
            seen("collection_dead_replicas", "0x5 2x60"),
            seen("collection_active_replicas_min", "2x30 0x60"),
            seen("collections_total", "4x60"),
        ),
        {
            "15m": (),
            "25m": ("QdrantReplicasDead",),
            "40m": ("QdrantReplicasDead", "QdrantShardWithoutReplica"),
        },
    ),
    Case(
        "copies are being made, as by bank replicate",
        (
            _UP,
            seen("collection_dead_replicas", "6x60"),
            seen("collection_active_replicas_min", "1x60"),
            seen("collections_total", "4x60"),
            seen("collection_shard_transfer_incoming", "1x30 0x30"),
        ),
        {"30m": (), "50m": ("QdrantReplicasDead",)},
    ),
    Case(
        "nodes disagree, changes wait, a node starts in recovery mode",
        (
            _UP,
            seen("up", "1x60", **_OTHER),
            seen("cluster_peers_total", "2x40"),
            seen("cluster_peers_total", "2x5 1x40", **_OTHER),
            seen("cluster_pending_operations_total", "50x40", **_OTHER),
            seen("app_status_recovery_mode", "0x10 1x30", **_OTHER),
        ),
        {"4m": (), "25m": ("QdrantClusterSplit", "QdrantConsensusBehind", "QdrantRecoveryMode")},
    ),
    Case(
        "wrong requests and wrong keys are no errors of the server",
        (
            _UP,
            *(
                seen("grpc_responses_total", "0+10x40", endpoint=_UPLOAD, status=s)
                for s in ("0", "3", "5", "7", "16")
            ),
            *(
                seen("rest_responses_total", "0+10x40", endpoint=_COUNT, status=s)
                for s in ("200", "400", "403", "404")
            ),
        ),
        {"40m": ()},
    ),
    *(
        Case(
            f"REST answers {status}",
            (
                _UP,
                seen("rest_responses_total", "0+100x40", endpoint=_COUNT, status="200"),
                seen("rest_responses_total", "0+10x40", endpoint=_COUNT, status=status),
            ),
            {"5m": (), "30m": ("QdrantRestErrors",)},
        )
        for status in ("408", "500", "503")
    ),
    *(
        Case(
            f"gRPC answers {status}",
            (
                _UP,
                seen("grpc_responses_total", "0+100x40", endpoint=_UPLOAD, status="0"),
                seen("grpc_responses_total", "0+5x40", endpoint=_UPLOAD, status=status),
            ),
            {"5m": (), "30m": ("QdrantGrpcErrors",)},
        )
        for status in ("4", "13", "14")
    ),
    Case(
        "searches are slow; uploads may be",
        (
            _UP,
            seen(_SLOW, "0+10x40", endpoint=_SEARCH, le="5"),
            seen(_SLOW, "0+100x40", endpoint=_SEARCH, le="10"),
            seen(_SLOW, "0+100x40", endpoint=_SEARCH, le="+Inf"),
            seen(_SLOW, "0+9000x40", endpoint=_UPLOAD, le="+Inf"),
        ),
        {"10m": (), "30m": ("QdrantSearchSlow",)},
    ),
    Case(
        "what a machine runs out of",
        (
            _UP,
            seen("process_open_mmaps", "60000x60"),
            seen("system_max_mmaps", "65530x60"),
            seen("process_open_fds", "100x10 60000x60"),
            seen("process_max_fds", "65536x60"),
            seen("process_major_page_faults_total", "0+300000x60"),
            seen("collection_update_queue_length", "5000x60", id="team--L08"),
            seen("collection_update_queue_length", "10x60", id="team--L16"),
        ),
        {
            "5m": (),
            "50m": ("QdrantFilesRunOut", "QdrantMapsRunOut", "QdrantReadsFromDisk", "QdrantWritesPileUp"),
        },
    ),
    Case(
        "a disk fills up",
        (
            _UP,
            seen("kubelet_volume_stats_available_bytes", "50x5 20x60", persistentvolumeclaim=_CLAIM),
            seen("kubelet_volume_stats_capacity_bytes", "100x60", persistentvolumeclaim=_CLAIM),
        ),
        {"15m": (), "30m": ("QdrantDiskFull",)},
    ),
    Case(
        "backups fail after the first",
        (
            seen("up", "1x60"),
            seen("kube_cronjob_created", "0x60", cronjob="latentbank-backup"),
            seen("kube_cronjob_status_last_successful_time", "_x9 36000x60", cronjob="latentbank-backup"),
        ),
        {"30h": (), "50h": ("LatentbankBackupOld",)},
        "1h",
    ),
    Case(
        "no backup ever succeeded",
        (seen("up", "1x60"), seen("kube_cronjob_created", "0x60", cronjob="latentbank-backup")),
        {"30h": (), "40h": ("LatentbankBackupOld",)},
        "1h",
    ),
    Case(
        "an ingestion fails",
        (_UP, seen("kube_job_failed", "_x10 1x40", job_name="latentbank-ingest", condition="true")),
        {"9m": (), "20m": ("LatentbankJobFailed",)},
    ),
    Case(
        "another job fails",
        (_UP, seen("kube_job_failed", "1x40", job_name="theirs", condition="true")),
        {"20m": ()},
    ),
)
