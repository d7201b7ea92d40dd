"""How far apart hosts are: latency, jitter and loss between them."""

from __future__ import annotations

from dataclasses import dataclass

from pcode.utils.errors import UserError


@dataclass(frozen=True)
class Disturbance:
    """What happens to all that a host sends to another, after it has passed the rate of its link.

    A reply is disturbed as well, so that a round trip takes twice the latency. Nothing overtakes
    what the same host has sent before it: where packets are closer to each other than the jitter,
    those behind a late one come with it. It takes the machine's root: no other has the buffers.

    Args:
        latency_ms: delay of each packet, in milliseconds, one way.
        jitter_ms: the delay is drawn from `latency_ms - jitter_ms` to `latency_ms + jitter_ms`,
            uniformly.
        loss: share of the IPv4 packets that get lost, each apart, acknowledgements too.
        seed: of jitter and loss. The same packets of a host in the same order have the same fate.

    Raises:
        UserError: a number that cannot be.
    """

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.latency_ms < float("inf"):
            raise UserError(f"latency_ms {self.latency_ms}: must be at least 0")
        if not 0 <= self.jitter_ms <= self.latency_ms:
            raise UserError(f"jitter_ms {self.jitter_ms}: must be from 0 to the latency")
        if not 0 <= self.loss < 1:
            raise UserError(f"loss {self.loss}: must be at least 0 and below 1")
