"""Raw files to Documents: WARC, tar, compressed members and HTTP bodies; the sources of web pages, media samples and repositories."""
