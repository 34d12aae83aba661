"""Numbers that several parts of the library must agree on; imports nothing."""

PAD_ID = 0
"""Item id of padding; real items are 1..num_items."""

NO_ROW = -1
"""Row id meaning "no such row" in retrieved and neighbour tables."""

METRIC_CUTOFFS = (1, 5, 10, 20, 50)
"""Cutoffs at which HR, NDCG and MRR are reported."""
