"""Readers: raw files to Documents.

Formats: WARC, tar, compressed members and HTTP responses. Sources: web pages, media files with sidecars, repositories.
"""
