"""Documents to token ids: examples, the sample a vocabulary is trained on, codec fitting, and the sink that writes a task cache."""
