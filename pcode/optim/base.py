"""What every optimizer is: a torch.optim.Optimizer whose step also mixes with the neighbours."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import nn

from pcode.communication.base import Communicator
from pcode.compression.base import Compressor
from pcode.optim.flat import FlatStore
from pcode.optim.local import AdamOptions, LocalAdam, LocalSGD, LocalStep
from pcode.topology.base import Graph, Topology
from pcode.topology.directed import Directed
from pcode.topology.lossy import Lossy, without_losses
from pcode.utils.errors import UserError
from pcode.utils.layout import Layout
from pcode.utils.timing import StepTimer

# Tolerance for the computed eigenvalues of a matrix of a few thousand weights.
ROUNDING = 1e-9
# Without its wrapper, whose first call imports torch's compiler: a second at every rank's start.
_ADD_PARAM_GROUP = inspect.unwrap(torch.optim.Optimizer.add_param_group)
SMALLEST_RATE = 1e-8
# Entries that stay in a CPU's cache with those of several vectors.
BLOCK = 1 << 16
COUNTS = ("num_steps", "num_exchanges", "steps_since_exchange", "epoch")


def over_rate(movement: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    """movement /= lr; where that is next to 0, as at the start of a warm-up, 0.

    Nodes that are apart move by mixing alone there, by any multiple of their rate.
    """
    if group["lr"] < SMALLEST_RATE:
        return movement.zero_()
    return movement.div_(group["lr"])


def parameter_groups(
    model: nn.Module, weight_decay: float, without_decay: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Make two param_groups: all parameters with weight_decay, and those named without any.

    Args:
        without_decay: names of parameters (of normalisation layers, usually).
    """
    no_decay = set(without_decay)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {
            "params": [(name, p) for name, p in named if (name in no_decay) == exempt],
            "weight_decay": 0.0 if exempt else weight_decay,
        }
        for exempt in (False, True)
    ]
    return [group for group in groups if group["params"]]


class DecentralizedOptimizer(torch.optim.Optimizer):
    """Base class of decentralized optimizers; all nodes call `step()` equally often.

    The local step D is that of torch.optim.SGD with dampening 0, or of torch.optim.Adam. Only x is
    ever exchanged, never momentum.

    Args:
        params: parameters or param_groups, named or not, as for torch.optim.SGD; lr, momentum,
            nesterov and weight_decay may differ between groups and be changed between steps
            (schedulers).
        topology: the graph; communicator.size nodes.
        compressor: Q, for the optimizers that send compressed messages.
        adam: makes the local step Adam's, which takes neither momentum nor nesterov.
        local_step: local steps from one exchange to the next, the one that exchanges included.
        turn_on_local_step_from: the epoch from which local_step holds; before, it is 1.

    Attributes:
        x: the flat vector of parameters, which are views of it.
        g: the flat vector into which step() copies the gradients, unless reads_gradients_in_place.
        local: the local step, with its vectors.
        num_steps, num_exchanges, steps_since_exchange: how many there were.
        epoch: the fractional epoch, which the training loop sets before each step.
        timer: where the time of a step goes (local_update, compress, wait, mix).
        compresses: whether the optimizer sends compressed messages: it takes a compressor and a
            seed.
        centralized: whether every node needs every other's message, with equal weights.
        time_varying: whether the edges may change from round to round.
        takes_directed: whether links may lead one way, with weights whose columns alone sum to 1.
        takes_losses: whether it goes on where messages are lost.
        reads_gradients_in_place: whether the recursion reads each parameter.grad itself, and g is
            not filled before it.
        dtype: of the parameters and of all vectors; compressors take float32.
        takes_adam, takes_local_steps: whether the recursion is defined with them.
        clips_gradients: whether it does as --clip_grad says by itself.
        state_vectors: names of the vectors that are its state besides x and those of the local
            step: checkpoints save and restore them.

    Raises:
        ValueError: arguments that do not fit together, or UserError for what `validate` says.
    """

    compresses: ClassVar[bool] = False
    centralized: ClassVar[bool] = False
    time_varying: ClassVar[bool] = False
    takes_directed: ClassVar[bool] = False
    takes_losses: ClassVar[bool] = False
    reads_gradients_in_place: ClassVar[bool] = False
    dtype: ClassVar[torch.dtype] = torch.float32
    takes_adam: ClassVar[bool] = True
    takes_local_steps: ClassVar[bool] = True
    clips_gradients: ClassVar[bool] = False
    state_vectors: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        params: Iterable[Any],
        communicator: Communicator,
        topology: Graph,
        *,
        compressor: Compressor | None = None,
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        adam: AdamOptions | None = None,
        local_step: int = 1,
        turn_on_local_step_from: float = 0.0,
    ) -> None:
        if nesterov and momentum == 0 and adam is None:
            raise ValueError("nesterov needs a momentum above 0")
        if topology.num_nodes != communicator.size:
            raise ValueError(
                f"the graph has {topology.num_nodes} nodes, the run {communicator.size}"
            )
        self.validate(topology, compressor=compressor, adam=adam, local_step=local_step)
        defaults = {"lr": lr, "momentum": momentum, "nesterov": nesterov}
        super().__init__(params, defaults | {"weight_decay": weight_decay})
        self.communicator, self.topology = communicator, topology
        self.store = FlatStore(self.param_groups, self.dtype)
        self.layout, self.x, self.g = self.store.layout, self.store.x, self.store.g
        store, groups = self.store, self.param_groups
        self.local: LocalStep = (
            LocalSGD(store, groups) if adam is None else LocalAdam(store, groups, adam)
        )
        self._num_local_steps, self._turn_on_from = local_step, turn_on_local_step_from
        self.steps_since_exchange = 0
        self.num_steps = self.num_exchanges = 0
        self.epoch = 0.0
        self.timer = StepTimer(self.x.device)

    @classmethod
    def on_graph(cls, graph: Graph) -> type[DecentralizedOptimizer]:
        """Return the class to use on that graph: another one where it does the same more simply."""
        return cls

    @classmethod
    def validate(
        cls,
        topology: Graph,
        *,
        compressor: Compressor | None = None,
        adam: AdamOptions | None = None,
        local_step: int = 1,
        **options: Any,
    ) -> None:
        """Raise UserError for what the optimizer cannot work with.

        Args:
            options: its own, where they are known.
        """
        if isinstance(topology, Lossy) and not cls.takes_losses:
            raise UserError(
                "what its nodes keep of others is right only where every message arrives; "
                "--drop_messages is for sgd (D-PSGD), decentralized_qg_sgd, d2, decentlam, sgp and "
                "relay"
            )
        topology = without_losses(topology)
        if isinstance(topology, Directed) and not cls.takes_directed:
            raise UserError(
                f"with {topology.name!r}, whose links lead one way, weights leave no mean: "
                "--optimizer sgp"
            )
        if not (cls.time_varying or isinstance(topology, Topology)):
            raise UserError(
                "its nodes keep what follows from all messages of a neighbour, which is right only "
                f"where every link is used in every round; with {topology.name!r}, whose links "
                "change, use --optimizer sgd (D-PSGD), decentralized_qg_sgd, gradient_tracking, "
                "decentlam or sgp"
            )
        if cls.centralized and topology.spectral_gap < 1 - ROUNDING:
            raise UserError(
                "it is centralized: every node adds every node's message, which a graph "
                f"{topology.name!r} does not bring; --graph_topology complete, or a decentralized "
                "optimizer, as parallel_choco"
            )
        if adam is not None and not cls.takes_adam:
            raise UserError("it is defined for the direction of SGD; --local_optimizer sgd")
        if local_step > 1 and not cls.takes_local_steps:
            raise UserError("it sends every gradient, so that each step exchanges; --local_step 1")

    @classmethod
    def warnings(
        cls, topology: Topology, compressor: Compressor, layout: Layout, **flags: Any
    ) -> list[str]:
        """Return why it may fail, by the papers; flags are all of the run."""
        return []

    @classmethod
    def notes(cls, **flags: Any) -> list[str]:
        """Return what else to say before a run of what it will do; flags are all of the run."""
        return []

    @classmethod
    def default_consensus_stepsize(cls, compressor: Compressor) -> float:
        """gamma, of an optimizer with one, where the user gives none."""
        return compressor.default_consensus_stepsize

    @property
    def steps_per_exchange(self) -> int:
        """Local steps from one exchange to the next, at this epoch."""
        return self._num_local_steps if self.epoch >= self._turn_on_from else 1

    def _start(self) -> None:
        """Initialise what needs the other nodes, before the first step."""

    def _recursion(self) -> None:
        """Make a step that exchanges; the gradients are in g, or with `reads_gradients_in_place`
        where backward has left them.
        """
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step of this node, from the gradients of its parameters.

        Raises:
            CommunicationError: an exchange with a neighbour failed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.num_steps == 0:
            self._start()
        self.steps_since_exchange += 1
        exchanges = self.steps_since_exchange >= self.steps_per_exchange
        if not (exchanges and self.reads_gradients_in_place):
            self.store.collect_gradients()
        if exchanges:
            self._recursion()
            self.steps_since_exchange = 0
            self.num_exchanges += 1
            self.local.exchanged()
        else:
            self.take_local_step()
        self.num_steps += 1
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raise ValueError once the vectors are laid out: for the constructor alone."""
        if hasattr(self, "store"):
            raise ValueError("parameters cannot be added to an optimizer: its vectors are laid out")
        _ADD_PARAM_GROUP(self, param_group)

    def finish(self) -> None:
        """Wait for the pending exchange: after training, and before saving the state."""

    def cancel_pending(self) -> None:
        """Drop the pending exchange, which has failed."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Zero the gradients as torch's optimizers do; otherwise they are views of g."""
        if not set_to_none:
            self.store.collect_gradients()
            self.g.zero_()
            return
        for parameter in self.store.parameters:
            parameter.grad = None

    def take_local_step(self) -> None:
        """x -= lr * d, with d = D(g), in one pass over the vectors."""
        with self.timer("local_update"):
            self.local.step()

    def apply(self, direction: torch.Tensor, to: torch.Tensor | None = None) -> None:
        """x -= lr * direction, or another vector than x."""
        target = self.x if to is None else to
        for group, part in zip(self.param_groups, self.store.slices, strict=True):
            target[part].add_(direction[part], alpha=-group["lr"])

    def blocks(self) -> Iterator[tuple[dict[str, Any], slice]]:
        """Cut the vectors into parts, each with its param_group, that fit a CPU's cache.

        Several operations on one part after the other pass over memory once.
        """
        for group, part in zip(self.param_groups, self.store.slices, strict=True):
            size = max(1, part.stop - part.start) if self.x.is_cuda else BLOCK
            for start in range(part.start, part.stop, size):
                yield group, slice(start, min(start + size, part.stop))

    def divide_by_rate(self, movement: torch.Tensor) -> None:
        """movement /= lr, of each group; see `over_rate`."""
        for group, part in zip(self.param_groups, self.store.slices, strict=True):
            over_rate(movement[part], group)

    @classmethod
    def message_bytes_of(cls, layout: Layout, compressor: Compressor, **flags: Any) -> int:
        """Return the bytes of a message to one neighbour; flags are all of the run."""
        return 4 * layout.num_entries

    def _vectors(self) -> dict[str, torch.Tensor]:
        """Return the vectors that are its state besides x."""
        return {**self.local.vectors, **{name: getattr(self, name) for name in self.state_vectors}}

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state besides the parameters, after finish(); the vectors themselves."""
        self.finish()
        groups = [
            {name: value for name, value in group.items() if name not in ("params", "param_names")}
            for group in self.param_groups
        ]
        counts = {name: getattr(self, name) for name in COUNTS}
        return {**counts, "param_groups": groups, "vectors": self._vectors()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state_dict() of the same optimizer over the same parameters.

        Raises:
            ValueError: it is another's.
        """
        self.finish()
        vectors = self._vectors()
        if vectors.keys() != state_dict["vectors"].keys():
            raise ValueError(
                f"the state holds {', '.join(state_dict['vectors'])}, not {', '.join(vectors)}"
            )
        for name, vector in vectors.items():
            if (shape := state_dict["vectors"][name].shape) != vector.shape:
                raise ValueError(f"{name} is {tuple(shape)} there and {tuple(vector.shape)} here")
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update(saved)
        self.warm_start(state_dict)

    @torch.no_grad()
    def warm_start(self, state_dict: dict[str, Any]) -> None:
        """Take over what fits of a state of other nodes, another graph or another optimizer.

        That is the counts of steps and the vectors that both have; afterwards `resynchronise`.
        """
        self.finish()
        for name in COUNTS:
            setattr(self, name, state_dict[name])
        for name, vector in self._vectors().items():
            saved = state_dict["vectors"].get(name)
            if saved is not None and saved.shape == vector.shape:
                vector.copy_(saved)

    def resynchronise(self) -> None:
        """Make copies of the neighbours' models exact by one exchange; all nodes call it.

        Raises:
            CommunicationError: the exchange failed.
        """
