"""Tensors on a GPU, over a backend that takes those in host memory only."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

from pcode.communication.base import Communicator, ProcessCommunicator, TensorsByPeer, Wait


class StagedCommunicator(ProcessCommunicator):
    """The communicator of a GPU's node: copies to host memory and back around another one's.

    An exchange never makes the caller wait for the GPU. What is sent is copied into page-locked
    memory on a stream of its own, once the work queued before has run; a helper thread waits for
    that, exchanges, and queues the copies back; `Exchange.wait` waits for the thread, and lets the
    GPU's current stream wait for the copies.

    Collective operations wait for the GPU, and so do broadcasts inside a node of several processes:
    these are better off with NCCL. Tensors in host memory pass through.

    The device, where this node's tensors lie, becomes the calling thread's current one. If `inner`
    takes_device, as an MPI that is built with CUDA, it is handed messages between two nodes where
    they lie: the thread then waits and exchanges only.
    """

    def __init__(
        self, inner: ProcessCommunicator, device: torch.device, takes_device: bool = False
    ) -> None:
        self.rank, self.size, self.bytes_sent = inner.rank, inner.size, inner.bytes_sent
        self._inner, self._device, self._takes_device = inner, device, takes_device
        # torch.cuda, or torch.cpu, whose streams do nothing.
        self._gpu: Any = torch.get_device_module(device)
        # A thread that waits for one sleeps, and does not take a core from those that compute.
        options = {"blocking": True} if device.type == "cuda" else {}
        self._ready_event = partial(self._gpu.Event, **options)
        # A stream is one of the current device.
        self._gpu.set_device(device)
        self._stream = self._gpu.Stream()
        self._helper = ThreadPoolExecutor(
            1, "staging", initializer=self._gpu.set_device, initargs=(device,)
        )

    def _exchange(self, outgoing: TensorsByPeer, incoming: TensorsByPeer, step: int | None) -> Wait:
        if any(each.device != self._device for each in (*outgoing.values(), *incoming.values())):
            return self._inner.exchange(outgoing, incoming, step).wait
        sent, received = dict(outgoing), dict(incoming)
        # One message to several peers is copied once.
        messages = {id(tensor): tensor for tensor in outgoing.values()}
        queued = self._gpu.Event()
        queued.record()
        self._stream.wait_event(queued)
        copies: dict[int, torch.Tensor] = {}
        if not self._takes_device:
            with self._gpu.stream(self._stream):
                for number, tensor in messages.items():
                    copies[number] = self._on_host(tensor)
                    copies[number].copy_(tensor, non_blocking=True)
            sent = {peer: copies[id(tensor)] for peer, tensor in outgoing.items()}
            received = {peer: self._on_host(tensor) for peer, tensor in incoming.items()}
        ready = self._ready_event()
        ready.record(self._stream)

        def exchange() -> Any:
            ready.synchronize()
            self._inner.exchange(sent, received, step).wait()
            if not self._takes_device:
                with self._gpu.stream(self._stream):
                    for peer, tensor in incoming.items():
                        tensor.copy_(received[peer], non_blocking=True)
            arrived = self._gpu.Event()
            arrived.record(self._stream)
            return arrived

        under_way = self._helper.submit(exchange)
        return lambda: self._gpu.current_stream().wait_event(under_way.result())

    def _on_host(self, like: torch.Tensor) -> torch.Tensor:
        # torch caches page-locked memory, and uses none again before the copies from it have run.
        is_pinned = self._device.type == "cuda"
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=is_pinned)

    def _all_reduce(self, tensor: torch.Tensor, step: int | None) -> None:
        host = tensor.cpu()
        self._inner.all_reduce(host, step)
        tensor.copy_(host)

    def all_gather(self, tensor: torch.Tensor, step: int | None = None) -> list[torch.Tensor]:
        return [each.to(tensor.device) for each in self._inner.all_gather(tensor.cpu(), step)]

    def broadcast(self, tensor: torch.Tensor, step: int | None = None) -> None:
        host = tensor.cpu()
        self._inner.broadcast(host, step)
        tensor.copy_(host)

    def group(
        self, ranks: range, limit_seconds: float, local_size: int
    ) -> ProcessCommunicator | None:
        inner = self._inner.group(ranks, limit_seconds, local_size)
        return None if inner is None else self._like(inner)

    def barrier(self, step: int | None = None) -> None:
        self._inner.barrier(step)

    def _recover(self, reason: str) -> tuple[Communicator, list[int]]:
        inner, survivors = self._inner.recover(reason)
        assert isinstance(inner, ProcessCommunicator), "processes that live are processes"
        return self._like(inner), survivors

    def _like(self, inner: ProcessCommunicator) -> StagedCommunicator:
        return StagedCommunicator(inner, self._device, self._takes_device)
