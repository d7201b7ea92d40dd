"""The losses of a node's steps, read or scaled without letting the GPU wait."""

import math
import time
from collections import deque

import torch

from pcode.communication import Communicator
from pcode.utils.errors import CommunicationError, DivergenceError

# No cross-entropy of a model that still learns comes near it.
LARGEST_LOSS = 1e5
# How many steps the host is ahead of a GPU when it reads a loss, as a rule.
STEPS_AHEAD = 1
POLL_SECONDS = 2e-5
# Those of torch.amp.GradScaler.
FIRST_SCALE, GROWTH, BACKOFF, GROWTH_STEPS = 2.0**16, 2.0, 0.5, 2000


class Losses:
    """What is known of the losses, step after step.

    On a CPU a loss is known at once. On a GPU it is copied to host memory when the GPU comes to it,
    and read a step later, so that there is always work queued: a forward pass. Reading it is also
    where a step that does not come to an end is noticed. The host therefore waits for the step's
    end, its exchange included: behind an exchange that waits for a peer the driver takes some 1,000
    launches, fewer than backward's of a deep model, and blocks in the next one for ever. A forward
    pass of as many launches may still end there: nobody is named then until NCCL's own time limit.

    Args:
        device: where the losses are.
        communicator: the node's: asked who is missing when a step does not come to an end.
        limit_seconds: how long a step may take.
        steps_ahead: losses that are not read yet; 0: each is read before its gradient is computed.
    """

    def __init__(
        self,
        device: torch.device,
        communicator: Communicator,
        limit_seconds: float,
        steps_ahead: int,
    ) -> None:
        self._device, self._communicator, self._limit = device, communicator, limit_seconds
        self._steps_ahead = steps_ahead
        self._ahead: deque[tuple[int, torch.Tensor, torch.cuda.Event]] = deque()

    def add(self, loss: torch.Tensor, step: int) -> list[float]:
        """Return the losses that have become known with that of this step.

        Raises:
            DivergenceError: one is not finite or above LARGEST_LOSS.
            CommunicationError: the GPU has not come to one within the time limit.
        """
        if self._device.type != "cuda":
            return [self._checked(loss.item(), step)]
        value = loss.detach().to("cpu", non_blocking=True)  # into page-locked memory
        self._ahead.append((step, value, torch.cuda.current_stream().record_event()))
        return self.read(self._steps_ahead)

    def end_step(self) -> None:
        """Let those that are not read yet wait for what a GPU's stream has been given so far."""
        for _, _, copied in self._ahead:
            copied.record(torch.cuda.current_stream())

    def wait(self, step: int) -> None:
        """Return when a GPU has done all that is queued, or raise CommunicationError."""
        if self._device.type == "cuda":
            self._wait(torch.cuda.current_stream().record_event(), step)

    def read(self, left: int = 0) -> list[float]:
        """Read the first losses, as the GPU comes to them, until so many are left; as `add`."""
        known = []
        while len(self._ahead) > left:
            step, value, copied = self._ahead.popleft()
            self._wait(copied, step)
            known.append(self._checked(value.item(), step))
        return known

    def _wait(self, copied: torch.cuda.Event, step: int) -> None:
        deadline = time.monotonic() + self._limit
        while not copied.query():
            if time.monotonic() > deadline:
                self._communicator.check_peers(step)
                raise CommunicationError(
                    f"the GPU has not come to the end of the step within {self._limit:g} s",
                    rank=self._communicator.rank,
                    step=step,
                )
            time.sleep(POLL_SECONDS)

    def _checked(self, value: float, step: int) -> float:
        if not (math.isfinite(value) and value <= LARGEST_LOSS):
            reason = f"the training loss is {value:g}"
            raise DivergenceError(reason, rank=self._communicator.rank, step=step)
        return value


class LossScaler:
    """Keeps gradients within the range of float16: the loss is scaled, the gradient scaled back.

    The rules are those of torch.amp.GradScaler: the scale is halved where a gradient overflows, and
    doubled after 2000 steps without. It differs in what becomes of a gradient that overflows: the
    optimizer cannot be left out, because the neighbours wait for the node's message, so that the
    step is made with a gradient of 0. Nothing waits for the GPU.

    Attributes:
        scale, steps: float32 and int32, one entry each, on the device: the factor, and the steps
            since it was changed.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((1,), FIRST_SCALE, device=device)
        self.steps = torch.zeros(1, dtype=torch.int32, device=device)
        self._overflows = torch.zeros(1, device=device)

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """Return what backward is to start from."""
        return loss * self.scale.squeeze()

    @torch.no_grad()
    def scale_back(self, gradient: torch.Tensor) -> None:
        """Divide a flat gradient by the scale, or zero it where it has overflowed; in place."""
        self._overflows.zero_()
        torch._amp_foreach_non_finite_check_and_unscale_(
            [gradient], self._overflows, self.scale.reciprocal()
        )
        gradient.masked_fill_(self._overflows.bool(), 0.0)
        torch._amp_update_scale_(
            self.scale, self.steps, self._overflows, GROWTH, BACKOFF, GROWTH_STEPS
        )

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"scale": self.scale, "steps": self.steps}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.scale.copy_(state["scale"])
        self.steps.copy_(state["steps"])
