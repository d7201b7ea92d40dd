"""What a run knows of its course so far, besides its nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """Numbers that a checkpoint keeps; on one node.

    Attributes:
        losses: of the steps of the epoch under way; the sum over the processes of a node is the
            node's.
        loss: mean over nodes and steps of the epoch before.
        best: the best test figure so far.
        train_seconds: of training, evaluations and checkpoints aside.
        bytes_sent: by this node.
        log_bytes: length of its log.
        events: what happened to the run besides its steps: where it was resumed, which nodes it
            lost and which were restored; for the summary.
    """

    losses: list[float] = field(default_factory=list)
    loss: float = math.nan
    best: float | None = None
    train_seconds: float = 0.0
    bytes_sent: int = 0
    log_bytes: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
