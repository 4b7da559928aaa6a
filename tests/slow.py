"""Which tests are slow, by measured durations: `make test-fast` leaves them out."""

from __future__ import annotations

# Fixtures that load real weights.
FIXTURES = {"smollm2", "smollm2_dir"}
# Files and folders below tests/.
FILES = (
    "bank/store/test_embedded_layers.py",
    "bank/store/test_embedded_survival.py",
    "bank/store/test_server.py",
    "bank/store/test_server_retries.py",
    "bank/store/test_store.py",
    "bank/test_bank.py",
    "bank/test_centred.py",
    "bank/test_versions.py",
    "bank/transfer/",
    "browser/",
    "cli/test_evaluate.py",
    "cli/test_main.py",
    "cli/test_query_image.py",
    "cli/test_team.py",
    "cli/test_train.py",
    "cli/test_transfer.py",
    "cli/test_view.py",
    "demo/",
    "deploy/test_s3.py",
    "docs/test_extending.py",
    "faults/",
    "ingest/latentlens/",
    "ingest/test_estimate.py",
    "ingest/test_filling.py",
    "ingest/test_job.py",
    "ingest/test_means.py",
    "ingest/test_replace.py",
    "ingest/workers/",
    "models/language/test_causal_types.py",
    "models/language/test_model.py",
    "models/training/test_train.py",
    "models/vision/test_oracle.py",
    "models/vision/test_vision_language.py",
    "packaging/",
    "query/evaluation/test_evaluate.py",
    "query/evaluation/test_experiments.py",
    "query/lenses/test_registry.py",
    "query/web/test_server.py",
    "test_face_examples.py",
    "wire/test_double.py",
)
# Files that take longest, mostly by waiting: they start first, so that no worker ends long after the others.
LONGEST = (
    "faults/test_faults.py",
    "ingest/test_job.py",
    "demo/test_vlm.py",
    "ingest/workers/test_ray_cluster.py",
    "browser/test_live.py",
    "bank/test_versions.py",
    "packaging/",
    "cli/test_train.py",
    "ingest/workers/test_shares.py",
    "bank/store/test_embedded_survival.py",
)
