"""Names of the files that Castor reads and writes in a Hugging Face model folder, beside the weights and the tokenizer's files."""

CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"
CASTOR_FILE, CASTOR_VOCABULARY = "castor.json", "castor_vocabulary"
"""Castor's own: the content of MODEL_DIR/model.json, and a copy of the vocabulary, from which `import_checkpoint` restores both."""
