"""The main text of a parsed page, step by step. main_text.py is the entry point."""
