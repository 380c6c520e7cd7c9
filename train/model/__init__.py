"""The decoder and its losses. One table of logical axes (train/partitioning.py) places every array."""
