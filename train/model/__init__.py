"""The decoder and its losses.

One table of logical axes (train/partitioning.py) determines the sharding of every array.
"""
