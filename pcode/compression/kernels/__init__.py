"""What the kernels of several compressors share, for CPUs and for GPUs."""
