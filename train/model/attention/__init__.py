"""Attention kernels behind one call: blockwise, Splash on TPU, Triton on GPU, context parallelism."""
