"""The keys of Qdrant 1.18's configuration, and its metrics with their labels.

Qdrant ignores unknown keys, and Prometheus ignores metrics that do not exist, so a misspelled name goes unnoticed.
Tests have no server, so they check names against these lists.

Sources: the keys from config/config.yaml, src/settings.rs, lib/storage/src/types.rs and audit.rs of qdrant/qdrant, as
both 1.17 and 1.19, and so 1.18, have them. The metrics are what a server of version 1.18.2 answered. Those of
Kubernetes from kube-state-metrics (internal/store/job.go and cronjob.go) and the documentation of the kubelet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SECTIONS = {
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
    "cluster.consensus": "tick_period_ms compact_wal_entries",
    "tls": "cert key ca_cert cert_ttl",
    "audit": "enabled dir rotation max_log_files trust_forwarded_headers",
}
KEYS = {f"{section}.{key}".lstrip(".") for section, keys in _SECTIONS.items() for key in keys.split()}
"""Paths of configuration keys, such as storage.wal.wal_capacity_mb."""

METRICS_FILE = Path(__file__).parent / "seen" / "qdrant-1.18.2-metrics.txt"
"""What a node of a cluster of three answered to /metrics on 2026-11-28, after uploads, searches and a snapshot."""

METRICS_FILE = Path(__file__).parent / "seen" / "qdrant-1.18.2-metrics.txt"
"""What a node of a cluster of three answered to /metrics on 2026-11-28, after uploads, searches and a snapshot."""


def _seen() -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for line in METRICS_FILE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, labels = re.fullmatch(r"(\w+)(?:{(.*)})? \S+", line).groups("")  # type: ignore[union-attr]
            found.setdefault(name, []).append(dict(re.findall(r'(\w+)="([^"]*)"', labels)))
    return found


METRICS = _seen()
"""The series that the node exported: for each name the labels of every series."""

KUBERNETES_METRICS = {
    "kube_cronjob_created": "namespace cronjob",
    "kube_cronjob_status_last_successful_time": "namespace cronjob",
    "kube_job_failed": "namespace job_name condition",
    "kubelet_volume_stats_available_bytes": "namespace persistentvolumeclaim",
    "kubelet_volume_stats_capacity_bytes": "namespace persistentvolumeclaim",
}
"""Metrics of Kubernetes that alerts ask for, and their labels."""


def leaves(node: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of every key of a configuration."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
