"""Checkpoints: saving, verification by checksums, restoring, and the initial state of a run (resume or warm start)."""
