"""Recipes: stages from raw files to a trained model, each run as one `castor` command; and the corpus of the demo."""
