"""Names of Castor's files in a Hugging Face model folder, other than weights and tokenizer files."""

CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"
CASTOR_FILE, CASTOR_VOCABULARY = "castor.json", "castor_vocabulary"
"""Castor's own files: the content of MODEL_DIR/model.json and a copy of the vocabulary, for `import_checkpoint`."""
