"""Text: HTML and its main text, tokenized text for the filters, language, character encodings, URLs, personal data."""
