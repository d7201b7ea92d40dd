"""One node of a run: its model, its optimizer and its training step."""

import hashlib
import math
import time
import warnings
from typing import Any

import torch
from torch import nn

from pcode.communication import Communicator
from pcode.communication.gathering import average, is_same_everywhere
from pcode.datasets import Batches
from pcode.datasets.base import LocalRank, Order
from pcode.models import normalization_parameters
from pcode.optim import DecentralizedOptimizer, make_optimizer, parameter_groups
from pcode.training.losses import STEPS_AHEAD, Losses, LossScaler
from pcode.training.plan import Plan
from pcode.training.tasks import TASKS, autocast, cross_entropy
from pcode.utils.devices import device_of, to_device
from pcode.utils.errors import CommunicationError, DivergenceError
from pcode.utils.seeding import derive_seed

# Far from that of a model that still learns, and from what float32 holds.
LARGEST_GRADIENT = 1e15
# Batch dimension of the state that a recurrent model carries from batch to batch.
_COLUMNS = 1


class Node:
    """One node's model and optimizer, on one of the processes that it consists of.

    These take a part of each batch and average their gradients; what they do from there on is the
    same on all, and so are the bits of all that they keep, but for what their part of the batch
    alone decides: running statistics of the inputs, and a state that is carried from batch to
    batch.

    Args:
        plan: the run's plan, the same on every node.
        communicator: this node's view of the others.
        device: where its model and its vectors lie; None: where `world` says.

    Attributes:
        dataset: the run's, for a model on the device.
        last_step_seconds: of the last step ("total") and of its parts.
    """

    def __init__(
        self, plan: Plan, communicator: Communicator, device: torch.device | None = None
    ) -> None:
        self.plan, self.communicator, self.rank = plan, communicator, communicator.rank
        self.local_ranks = communicator.local_ranks
        self.local_rank = LocalRank(self.local_ranks.rank, self.local_ranks.size)
        self._share = 1.0
        learning = plan.config.learning
        self.seed, self.amp = learning.manual_seed, learning.amp
        launch = plan.config.launch
        self.device = device or device_of(launch.on_cuda, launch.world, communicator.process)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # of this thread: simulated nodes have one each
            torch.backends.cudnn.deterministic = True
            # An LSTM's weights are views of x, which cuDNN copies together at each call.
            message = "RNN module weights are not part of single contiguous chunk"
            warnings.filterwarnings("ignore", message)
        self.dataset = plan.dataset_on(self.device)
        self.schedule = plan.schedule(self.rank)
        self.task = TASKS[plan.dataset.task]
        self.carried: Any = None
        self.model = plan.model().to(self.device)
        self._forward: nn.Module = (
            torch.compile(self.model) if learning.compile else self.model  # type: ignore[assignment]
        )
        self._scaler = LossScaler(self.device) if self.amp == "fp16" else None
        # With continue, loss and gradient are read before anything is sent: NaN is never sent.
        self._sends_finite = launch.on_failure == "continue"
        steps_ahead = 0 if self._sends_finite else STEPS_AHEAD
        self._losses = Losses(self.device, communicator, launch.time_limit_seconds, steps_ahead)
        groups = parameter_groups(
            self.model, learning.weight_decay, normalization_parameters(self.model)
        )
        self.optimizer: DecentralizedOptimizer = make_optimizer(
            groups, communicator, plan.topology, plan.config.flat(), plan.compressor
        )
        self.clip_norm = plan.clip_norm
        self.timer = self.optimizer.timer
        self.last_step_seconds: dict[str, float] = {}
        self.restart_timer()

    def batches_ahead(self) -> Batches:
        """Iterate over this process's part of the remaining batches of the current epoch."""
        plan = self.plan
        epoch, first = divmod(self.optimizer.num_steps, plan.steps_per_epoch)
        if first == 0:  # nothing is carried over from the epoch before
            self.carried = None
        samples, batch_size = plan.partition(epoch)[self.rank], plan.config.data.batch_size
        self._share = self.local_rank.share_of(min(batch_size, len(samples)))
        order = Order(self.seed, self.rank, epoch, self.local_rank)
        return self.dataset.train_batches(samples, plan.steps_per_epoch, batch_size, order, first)

    def train_step(self, batches: Batches) -> list[float]:
        """Make a step on the next batch; return the losses that have become known, usually one.

        That of this step on a CPU, of the step before on a GPU: see `outstanding_losses`. Each is
        what this process adds to the node's mean loss.

        Raises:
            DivergenceError: the loss is above LARGEST_LOSS, or it or what is to be compressed is
                not finite; with `--on_failure continue` also where the gradient is not, or has an
                entry above LARGEST_GRADIENT.
            CommunicationError: an exchange failed.
        """
        step, on_gpu = self.optimizer.num_steps, self.device.type == "cuda"
        start = time.perf_counter()
        before = dict(self.timer.seconds)
        self.communicator.fail_point("data", step)
        with self.timer("data"):
            inputs, targets = (to_device(part, self.device) for part in next(batches))
            if on_gpu and inputs.ndim == 4:
                # cuDNN's convolutions are fastest with it.
                inputs = inputs.contiguous(memory_format=torch.channels_last)
        self.optimizer.epoch = step / self.plan.steps_per_epoch
        rate = self.schedule(self.optimizer.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Dropout draws from torch's global generator: it starts from this step's own number.
        seed_dropout = torch.cuda.manual_seed if on_gpu else torch.default_generator.manual_seed
        seed_dropout(derive_seed(self.seed, "forward", self.rank, step, *self.local_rank.numbers))
        self.communicator.fail_point("forward", step, lambda: self.optimizer.x.fill_(math.nan))
        with self.timer("forward"):
            with autocast(self.amp, self.device):
                outputs, self.carried = self.task.forward(self._forward, inputs, self.carried)
            loss = cross_entropy(outputs, targets)
        known = self._losses.add(loss, step)
        self.communicator.fail_point(
            "backward", step, lambda: loss.register_hook(lambda gradient: gradient * math.inf)
        )
        with self.timer("backward"):
            self.optimizer.zero_grad()
            # By its share of the samples, so that the sum over the local ranks is the mean over the
            # batch.
            own = loss if self.local_ranks.size == 1 else loss * self._share
            if self._scaler is not None:
                own = self._scaler.scaled(own)
            own.backward()
        if self.local_ranks.size > 1:
            with self.timer("wait"):
                self.optimizer.store.collect_gradients()
                self.local_ranks.all_reduce(self.optimizer.g, step)
        with self.timer("backward"):
            if self._scaler is not None:
                self.optimizer.store.collect_gradients()
                self._scaler.scale_back(self.optimizer.g)
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
            if self._sends_finite:
                self._check_gradient(step)
        self.optimizer.step()
        self._losses.end_step()
        # Not the timer's own sums: what is received between two steps is no step's.
        parts = {name: after - before[name] for name, after in self.timer.seconds.items()}
        self.last_step_seconds = {"total": time.perf_counter() - start, **parts}
        self.timed_steps += 1
        for name, seconds in self.last_step_seconds.items():
            self._timed[name] += seconds
        return [self._share * loss for loss in known]

    def _check_gradient(self, step: int) -> None:
        """Raise DivergenceError where a step by it could make the vectors infinite."""
        found = [parameter.grad for parameter in self.model.parameters()]
        gradients = [gradient for gradient in found if gradient is not None]
        largest = nn.utils.get_total_norm(gradients, math.inf).item()
        if not largest <= LARGEST_GRADIENT:
            reason = f"the largest entry of the gradient is {largest:g}"
            raise DivergenceError(reason, rank=self.rank, step=step)

    def outstanding_losses(self) -> list[float]:
        """Return the losses of steps that train_step has not returned, which it waits for.

        Raises:
            DivergenceError, CommunicationError: as train_step.
        """
        return [self._share * loss for loss in self._losses.read()]

    def restart_timer(self) -> None:
        """Reset the mean step times."""
        self.timer.synchronize()
        self.timed_steps = 0
        self._timed = dict.fromkeys(("total", *self.timer.seconds), 0.0)

    def step_seconds(self) -> dict[str, float] | None:
        """Return mean seconds of a step and its parts; None where they are not to be measured."""
        if self.timed_steps == 0 or not self.plan.config.watch.track_time:
            return None
        self.timer.synchronize()
        return {name: seconds / self.timed_steps for name, seconds in self._timed.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return all that the node is between two steps, in plain values; all nodes call it.

        What is carried is that of the whole batch; running statistics are this process's, unless
        they have been averaged.
        """
        carried = None
        if self.carried is not None:
            own = [state.detach().contiguous() for state in self.carried]
            carried = [torch.cat(self.local_ranks.all_gather(state), _COLUMNS) for state in own]
        return {
            "x": self.optimizer.x,
            "buffers": dict(self.model.named_buffers()),
            "optimizer": self.optimizer.state_dict(),
            "scheme": self.plan.config.learning.lr_schedule_scheme,
            "schedule": self.schedule.scheme.state_dict(),
            "carried": carried,
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state_dict exactly."""
        self._load_model(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.scheme.load_state_dict(state["schedule"])
        self.carried = None
        if state["carried"] is not None:
            self.carried = tuple(
                to_device(self.local_rank.slice_of(whole, _COLUMNS).contiguous(), self.device)
                for whole in state["carried"]
            )
        if self._scaler is not None:
            self._scaler.load_state_dict(state["scaler"])

    def warm_start(self, state: dict[str, Any], step: int) -> None:
        """Load what fits of the state of another run or other nodes; resynchronise() follows.

        Args:
            step: where this run stands then.
        """
        self._load_model(state)
        self.optimizer.warm_start(state["optimizer"])
        self.optimizer.num_steps = step
        if state["scheme"] == self.plan.config.learning.lr_schedule_scheme:
            self.schedule.scheme.load_state_dict(state["schedule"])

    @torch.no_grad()
    def _load_model(self, state: dict[str, Any]) -> None:
        self.optimizer.x.copy_(state["x"])
        buffers = dict(self.model.named_buffers())
        if differing := sorted(buffers.keys() ^ state["buffers"].keys()):
            raise ValueError(f"the model has other buffers: they differ in {differing[0]}")
        for name, buffer in buffers.items():
            buffer.copy_(state["buffers"][name])

    def average_statistics(self) -> None:
        """Give the processes of the node the mean of their running statistics.

        Before they are used or saved. They are linear in what the batches add to them, so that it
        matters by rounding alone how often that is.
        """
        statistics = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        if statistics and self.local_ranks.size > 1:
            average(self.local_ranks, statistics)

    def finish(self) -> None:
        """Complete the pending exchange, and check the parameters.

        Raises:
            DivergenceError: the parameters are not finite.
            CommunicationError: an exchange failed, or the node's processes have come apart.
        """
        self.optimizer.finish()
        step = self.optimizer.num_steps
        self._losses.wait(step)
        if not bool(self.optimizer.x.isfinite().all()):
            raise DivergenceError("the parameters are not finite", rank=self.rank, step=step)
        several = self.local_ranks.size > 1
        if several and not is_same_everywhere(self.local_ranks, self.optimizer.x.cpu(), step):
            reason = "its processes hold different parameters"
            raise CommunicationError(reason, rank=self.rank, step=step)


def parameters_digest(model: nn.Module) -> bytes:
    """SHA-256 of the float32 parameters, in the order of model.named_parameters()."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()
