"""Castor's caches and batches in other frameworks: SeqIO, T5X, Grain, PyTorch, Hugging Face tokenizers; export and preview."""
