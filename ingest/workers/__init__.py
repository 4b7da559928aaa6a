"""Many workers on one plan: shares, and a Ray cluster that hands them out."""
