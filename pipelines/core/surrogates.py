"""Lone surrogates: Python uses them for file names that are not UTF-8; JSON, Parquet and HTML cannot represent them."""


def escape_surrogates(text: str) -> str:
    """`text` with each lone surrogate written as `\\udcXX`, so that UTF-8 can encode it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
