"""What every law is: a torch.optim.Optimizer whose step also mixes with the neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim.sgd import sgd

from pcode.communication.base import Communicator
from pcode.errors import UserError
from pcode.optim.flat import FlatStore
from pcode.timing import StepTimer
from pcode.topology.base import Topology


def parameter_groups(
    model: nn.Module, weight_decay: float, without_decay: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Two param_groups: all parameters with weight_decay, and those named without any.

    Args:
        without_decay: names of parameters (of normalisation layers, usually).
    """
    spared = set(without_decay)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if name not in spared], "weight_decay": weight_decay},
        {"params": [p for name, p in named if name in spared], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class Law(torch.optim.Optimizer):
    """A node's state and recursion. `step()` is called by all nodes equally often.

    The local step D (all laws): d = g + weight_decay * x ; buf = momentum * buf + d (the first
    buf is d) ; with nesterov d = d + momentum * buf, else d = buf. It is that of torch.optim.SGD
    with dampening 0. Only x is ever exchanged, never buf.

    Args:
        params: parameters or param_groups, as for torch.optim.SGD; lr, momentum, nesterov and
            weight_decay may differ between groups and be changed between steps (schedulers).
        communicator: this node's view of the others.
        topology: the graph; communicator.num_nodes nodes.

    Attributes:
        x, g, buf: the flat vectors of parameters, gradients and momentum.
        num_steps: steps taken.
        timer: where the time of a step goes (local_update, compress, wait, mix).
        compresses: whether the law sends compressed messages: it takes a compressor and a seed.
        flags: the flags that the constructor takes besides, by the same names.
    """

    compresses: ClassVar[bool] = False
    flags: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        params: Iterable[Any],
        communicator: Communicator,
        topology: Topology,
        *,
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        if nesterov and momentum == 0:
            raise UserError("nesterov needs a momentum above 0")
        if topology.num_nodes != communicator.num_nodes:
            raise UserError(
                f"the graph has {topology.num_nodes} nodes, the run {communicator.num_nodes}"
            )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)
        self.communicator, self.topology = communicator, topology
        self.store = FlatStore(self.param_groups)
        self.layout, self.x, self.g = self.store.layout, self.store.x, self.store.g
        self.buf = torch.zeros_like(self.x)
        self.num_steps = 0
        self.timer = StepTimer()

    def _recursion(self) -> None:
        """One step of the law, from the gradients in g."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of this node, from the gradients of its parameters.

        Raises:
            CommunicationError: an exchange with a neighbour failed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.store.collect_gradients()
        self._recursion()
        self.num_steps += 1
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As the constructor does; afterwards the layout of the vectors is fixed.

        Raises:
            UserError: the law exists already.
        """
        if hasattr(self, "store"):
            raise UserError("parameters cannot be added to a law: its vectors are laid out")
        super().add_param_group(param_group)

    def finish(self) -> None:
        """Complete what is under way between nodes: after training, before keeping the state."""

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Zero the gradients; they stay views of the flat vector whatever set_to_none says."""
        self.store.collect_gradients()
        self.g.zero_()

    def local_step(self) -> None:
        """x -= lr * d, with d = D(g), in one pass over the vectors."""
        with self.timer("local_update"):
            for group, part in zip(self.param_groups, self.store.slices, strict=True):
                sgd(
                    [self.x[part]],
                    [self.g[part]],
                    [self.buf[part]],
                    fused=True,
                    lr=group["lr"],
                    momentum=group["momentum"],
                    nesterov=group["nesterov"],
                    weight_decay=group["weight_decay"],
                    dampening=0.0,
                    maximize=False,
                )

    @property
    def message_bytes(self) -> int:
        """Bytes of one message to one neighbour."""
        return self.x.nbytes

    def _vectors(self) -> dict[str, torch.Tensor]:
        """The vectors that are the state of a law besides x."""
        return {"buf": self.buf}

    def state_dict(self) -> dict[str, Any]:
        """The whole state besides the parameters themselves, after finish()."""
        self.finish()
        groups = [
            {name: value for name, value in group.items() if name != "params"}
            for group in self.param_groups
        ]
        vectors = {name: vector.clone() for name, vector in self._vectors().items()}
        return {"num_steps": self.num_steps, "param_groups": groups, "vectors": vectors}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state_dict() of the same law over the same parameters."""
        self.finish()
        vectors = self._vectors()
        if vectors.keys() != state_dict["vectors"].keys():
            raise UserError(
                f"the state holds {', '.join(state_dict['vectors'])}, not {', '.join(vectors)}"
            )
        self.num_steps = state_dict["num_steps"]
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update(saved)
        for name, vector in vectors.items():
            vector.copy_(state_dict["vectors"][name])
