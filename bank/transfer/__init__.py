"""Moving banks: exports, imports, copies between stores, and snapshots."""
