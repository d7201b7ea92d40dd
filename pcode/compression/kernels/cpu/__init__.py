"""Blocks of the CPU kernels: plain loops that Numba compiles, free of the interpreter lock.

A multiplication is never merged with an addition, and sums are in the order in which the program
writes them, so that every processor computes the same bits. Bits and bytes are in little-endian
order.
"""
