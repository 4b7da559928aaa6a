"""Which tests are slow: by measured durations, all but those that a change of most code should be tried with first."""

from __future__ import annotations

# Fixtures that load real weights.
FIXTURES = {"smollm2", "smollm2_dir"}
# Files and folders below tests/.
FILES = (
    "browser/",
    "faults/",
    "packaging/",
    "test_face_examples.py",
)
