"""Duplicates: the rules that find them, MinHash, connected components, lines shared between pages, and the transforms that remove them."""
