"""One flat store: parameters, gradients and momentum of a node as contiguous vectors."""

from itertools import accumulate, pairwise
from typing import Any

import torch

from pcode.utils.layout import Layout

Groups = list[dict[str, Any]]


class FlatStore:
    """The vectors x (parameters) and g (gradients) of a node, and their layout.

    The tensors of the groups lie back to back, group after group, by their names or else their
    positions; every parameter's `data` and `grad` become views, so that flattening costs nothing.
    A gradient leaves g where it is set to None (zero_grad) or to another tensor, until
    `collect_gradients` brings it back.

    Args:
        groups: param_groups of a torch.optim.Optimizer, whose parameters are on one device.
        dtype: of all parameters.

    Attributes:
        x, g: flat tensors of layout.num_entries.
        parameters: the parameters, group after group.
        slices: the part of the vectors that each group takes, in the order of the groups.
    """

    def __init__(self, groups: Groups, dtype: torch.dtype = torch.float32) -> None:
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        devices = {parameter.device for parameter in self.parameters}
        if len(devices) != 1 or any(p.dtype != dtype for p in self.parameters):
            kind = str(dtype).removeprefix("torch.")
            raise ValueError(f"the parameters must be {kind} tensors on one device")
        names = [name for group in groups for name in group.get("param_names", ())]
        positions = map(str, range(len(self.parameters)))
        self.layout = Layout.of(zip(names or positions, self.parameters, strict=True))
        sizes = [sum(parameter.numel() for parameter in group["params"]) for group in groups]
        self.slices = [slice(*ends) for ends in pairwise(accumulate(sizes, initial=0))]
        self.x = torch.empty(self.layout.num_entries, dtype=dtype, device=devices.pop())
        self.g = torch.zeros_like(self.x)
        self._gradients = self.layout.views(self.g)
        for parameter, values in zip(self.parameters, self.layout.views(self.x), strict=True):
            values.copy_(parameter.data)
            parameter.data = values
        self.collect_gradients()

    def collect_gradients(self) -> None:
        """Bring the gradients into g, wherever they are, as views of which they end.

        Backward puts a gradient that is None where it has computed it, which costs no pass over
        memory; one that is there is added to.
        """
        apart, homes = [], []
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            if parameter.grad is gradient:
                continue
            if parameter.grad is None:
                gradient.zero_()
            else:
                apart.append(parameter.grad.to_dense())  # an embedding's may be sparse
                homes.append(gradient)
            parameter.grad = gradient
        if apart:
            torch._foreach_copy_(homes, apart)

    def gradients(self) -> list[torch.Tensor]:
        """Return each parameter's gradient, contiguous: where it is, or else all of them in g."""
        found = [parameter.grad for parameter in self.parameters]
        strided = all(grad is not None and grad.layout is torch.strided for grad in found)
        if strided and all(grad.is_contiguous() for grad in found):
            return found
        self.collect_gradients()
        return self._gradients
