"""CPU kernels of the compressors, compiled by Numba, one thread, without the interpreter lock."""
