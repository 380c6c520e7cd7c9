"""Checkpoints: written, proven by checksums, restored; and the initial state of a run (resume or warm start)."""
