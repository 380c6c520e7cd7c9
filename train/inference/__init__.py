"""Decoding: the model of a MODEL_DIR, batched generation, sampling, grammars, scoring."""
