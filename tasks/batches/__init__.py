"""`batch(step)`: mixtures of task caches found on disk, packing plans, batches, their lineage, read-ahead and skips."""
