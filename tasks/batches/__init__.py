"""`batch(step)`: mixtures found on disk, packing plans, batches, their lineage, read-ahead and skips."""
