"""Lone surrogates: Python's way to carry bytes of file names that are not UTF-8, and what neither JSON, Parquet nor HTML can hold."""


def escape_surrogates(text: str) -> str:
    """`text` with each lone surrogate written as `\\udcXX`, so that UTF-8 can encode it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
