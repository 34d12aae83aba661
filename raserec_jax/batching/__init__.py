"""From a split log to device batches: windows, packed rows, positives, and the feed that maps a step to a batch."""
