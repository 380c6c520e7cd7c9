"""Weights in and out: Hugging Face's Gemma layout, safetensors, export and import of a MODEL_DIR."""
