"""Benchmarks kept out of a corpus: their files, the index of their passages, matching, and the report."""
