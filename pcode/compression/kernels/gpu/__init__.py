"""Blocks of the Triton kernels, which give on a GPU the CPU's messages, byte for byte.

Triton is imported with these and the compressors' `triton` modules only: no process that computes
on CPUs needs it.

Nothing waits for the GPU, and the number of launches does not depend on that of tensors. Two
things differ from the CPU's kernels. NaN and infinity are not looked for: they end in the message,
as a scale or an entry, and from there in the loss, which is looked at. And a payload has to begin
where a float32 can be read: at a multiple of four bytes, as every allocation does.

A float64 sum over a tensor is added in another order than on a CPU. What is sent of it is rounded
to float32, so that the two differ, by one unit in the last place, in about one tensor of ten
million.
"""
