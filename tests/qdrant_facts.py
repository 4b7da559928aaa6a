"""The keys of Qdrant 1.18's configuration, and the names of its metrics.

Qdrant ignores unknown keys, and Prometheus ignores metrics that do not exist, so a misspelled name goes unnoticed.
Tests have no server, so they check names against these lists.

Sources, all in the repository qdrant/qdrant: the keys from config/config.yaml, src/settings.rs,
lib/storage/src/types.rs and audit.rs as both 1.17 and 1.19, and so 1.18, have them. The metrics from
src/common/metrics/
and qdrant.tech/documentation/guides/monitoring. Those of Kubernetes from the documentation of kube-state-metrics
(CronJob, Job) and of the kubelet.
"""

from __future__ import annotations

from collections.abc import Iterator
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

METRICS = {
    "app_info",
    "app_status_recovery_mode",
    "collections_total",
    "collection_points",
    "collection_vectors",
    "collections_vector_total",
    "collection_indexed_only_excluded_points",
    "collection_active_replicas_min",
    "collection_active_replicas_max",
    "collection_dead_replicas",
    "collection_running_optimizations",
    "collection_shard_transfer_incoming",
    "collection_shard_transfer_outgoing",
    "collection_update_queue_length",
    "collection_update_queue_deferred_points",
    "snapshot_creation_running",
    "snapshot_recovery_running",
    "snapshot_created_total",
    "rest_responses_total",
    "rest_responses_fail_total",
    "rest_responses_avg_duration_seconds",
    "rest_responses_min_duration_seconds",
    "rest_responses_max_duration_seconds",
    "rest_responses_duration_seconds_bucket",
    "grpc_responses_total",
    "grpc_responses_fail_total",
    "grpc_responses_avg_duration_seconds",
    "grpc_responses_min_duration_seconds",
    "grpc_responses_max_duration_seconds",
    "grpc_responses_duration_seconds_bucket",
    "memory_active_bytes",
    "memory_allocated_bytes",
    "memory_metadata_bytes",
    "memory_resident_bytes",
    "memory_retained_bytes",
    "process_threads",
    "process_open_mmaps",
    "system_max_mmaps",
    "process_open_fds",
    "process_max_fds",
    "process_minor_page_faults_total",
    "process_major_page_faults_total",
    "cluster_enabled",
    "cluster_peers_total",
    "cluster_term",
    "cluster_commit",
    "cluster_pending_operations_total",
    "cluster_voter",
}
"""What /metrics of a node exports."""

KUBERNETES_METRICS = {
    "kube_cronjob_status_last_successful_time",
    "kube_job_status_active",
    "kube_job_status_failed",
    "kubelet_volume_stats_available_bytes",
    "kubelet_volume_stats_capacity_bytes",
}


def leaves(node: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of every key of a configuration."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
