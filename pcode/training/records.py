"""What a run leaves in its folder: config.yaml, log.jsonl, tensorboard/ and summary.json."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tensorboardX import SummaryWriter
from torch import nn

from pcode.config import Config, to_yaml


def write_whole(path: Path, content: str) -> None:
    """Write a text file whole or not at all."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    os.chmod(name, 0o644)  # mkstemp's files are the owner's alone
    os.replace(name, path)


class Records:
    """One node's records; rank 0 keeps those of the run besides.

    Args:
        folder: the run's folder, which exists.
        rank: this node.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self._rank = folder, rank
        (folder / str(rank)).mkdir(parents=True)
        self._log = (folder / str(rank) / "log.jsonl").open("w", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard")) if rank == 0 else None

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """One line of log.jsonl; rank 0 shows its numbers in TensorBoard as well."""
        json.dump({"kind": kind, "step": step, **values}, self._log, allow_nan=False)
        self._log.write("\n")
        self._log.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def write_config(self, config: Config) -> None:
        write_whole(self.folder / "config.yaml", to_yaml(config))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_whole(
            self.folder / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n"
        )

    def write_model(self, model: nn.Module) -> None:
        """The node's final model, as a state_dict for torch.load(weights_only=True)."""
        torch.save(model.state_dict(), self.folder / str(self._rank) / "model.pt")

    def close(self) -> None:
        self._log.close()
        if self._board is not None:
            self._board.close()
