"""Gin-configured, partitioned training of one multimodal decoder on task caches.

The trainer reads task caches, a vocabulary and `tasks.Batches`. It knows nothing about the jobs that made them and does
not import TensorFlow.

Files to read first: loop.py (a run, top to bottom), step.py (one update), model/decoder.py, partitioning.py (how arrays
are sharded).
"""
