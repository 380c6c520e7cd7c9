"""Deduplication: rules, MinHash, connected components, shared lines, and the transforms that find duplicates."""
