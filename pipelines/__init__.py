"""Beam jobs: from raw files to corpora, vocabularies and task caches. Knows `castor.tasks`, never `castor.train`."""
