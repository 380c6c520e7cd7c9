"""Keeps benchmarks out of a corpus: benchmark files, the index of their passages, matching, and the report."""
