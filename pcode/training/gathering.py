"""Numbers of all nodes."""

from __future__ import annotations

import torch

from pcode.communication import Communicator


def gather_floats(communicator: Communicator, values: list[float]) -> list[list[float]]:
    """Every node's numbers, by rank."""
    gathered = communicator.all_gather(torch.tensor(values, dtype=torch.float64))
    return [row.tolist() for row in gathered]


def mean(communicator: Communicator, values: dict[str, float]) -> dict[str, float]:
    """The mean of each value over the nodes."""
    rows = gather_floats(communicator, list(values.values()))
    return {
        name: sum(column) / len(rows)
        for name, column in zip(values, zip(*rows, strict=True), strict=True)
    }
