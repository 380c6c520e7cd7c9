"""Files on local disk and at gs://, through one small set of functions (storage.py), and locks on folders (lock.py)."""
