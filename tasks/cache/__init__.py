"""Task caches on disk: layout and manifest, record format, reader, writer, verification."""
