"""Tensors as contiguous memory that MPI reads from and writes to."""

import torch


def as_contiguous(tensor: torch.Tensor, allows_cuda: bool = False) -> torch.Tensor:
    """The values of `tensor` as contiguous memory: itself where it is."""
    return _checked(tensor, allows_cuda).resolve_conj().resolve_neg().contiguous()


class ReceiveBuffers:
    """Contiguous memory to receive into for each of the tensors: the tensor itself where it is."""

    def __init__(self, *tensors: torch.Tensor, allows_cuda: bool = False) -> None:
        self._tensors = [_checked(tensor, allows_cuda) for tensor in tensors]
        self.buffers = [
            tensor
            if tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()
            else torch.empty_like(tensor, memory_format=torch.contiguous_format)
            for tensor in self._tensors
        ]

    def load(self) -> None:
        """Fill the buffers with the tensors' values."""
        for tensor, buffer in zip(self._tensors, self.buffers, strict=True):
            if tensor is not buffer:
                copy(buffer, tensor)

    def copy_back(self) -> None:
        """Fill the tensors with what the buffers have received."""
        for tensor, buffer in zip(self._tensors, self.buffers, strict=True):
            if tensor is not buffer:
                copy(tensor, buffer)


def _checked(tensor: torch.Tensor, allows_cuda: bool) -> torch.Tensor:
    is_on_gpu = tensor.device.type == "cuda" and allows_cuda
    if (tensor.device.type != "cpu" and not is_on_gpu) or tensor.layout != torch.strided:
        raise ValueError(
            f"the mpi process group moves dense tensors in host memory; this one is "
            f"{tensor.layout} on {tensor.device}: copy it to the host first"
        )
    return tensor.detach()


def copy(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy values, also into tensors that require gradients."""
    with torch.inference_mode():
        target.copy_(source)
