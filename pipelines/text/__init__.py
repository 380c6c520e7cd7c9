"""Text: HTML and its main text, tokenized text for the rules, language, character encodings, URLs, personal data."""
