"""Documents to token ids: examples, sampling and fitting of a vocabulary, and the sink of a task cache."""
