"""Gin-configured, partitioned training of one multimodal decoder on task caches.

It knows a task cache, a vocabulary and `tasks.Batches`, and nothing of where they came from. No TensorFlow.

Files to read first: loop.py (a run, top to bottom), step.py (one update), model.py, partitioning.py (where every array lives).
"""
