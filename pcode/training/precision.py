"""The numbers that forward and backward compute with: float32, or bfloat16 or float16 in part."""

from contextlib import AbstractContextManager, nullcontext

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Those of torch.amp.GradScaler.
FIRST_SCALE, GROWTH, BACKOFF, GROWTH_STEPS = 2.0**16, 2.0, 0.5, 2000


def autocast(amp: str | None, device: torch.device) -> AbstractContextManager[object]:
    """What a model is called in: torch.autocast to that type, or nothing.

    Args:
        amp: one of DTYPES; None: float32.
    """
    return nullcontext() if amp is None else torch.autocast(device.type, DTYPES[amp])


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
        """What backward is to start from."""
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
