"""Caches and batches for SeqIO, T5X, Grain, PyTorch and Hugging Face tokenizers; export and preview of caches."""
