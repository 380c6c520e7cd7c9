"""Held-out loss by domain and kind, SeqIO metric tasks, multiple-choice benchmarks."""
