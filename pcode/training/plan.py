"""What a run will do, worked out and checked from its configuration before anything is written."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pcode.compression import Compressor, make_compressor
from pcode.config import Config
from pcode.datasets import Dataset, batches_per_epoch, load_dataset, partition_indices
from pcode.errors import UserError
from pcode.layout import Layout
from pcode.models import make_model, normalization_parameters
from pcode.optim import law_class, parameter_groups
from pcode.topology import Topology, make_topology
from pcode.training.schedule import Schedule, make_schedule


@dataclass(frozen=True)
class Plan:
    """A checked configuration and what follows from it.

    Attributes:
        config: every flag, with what was left to the run filled in.
        topology, dataset, compressor: as configured.
        layout: the tensors of the model in the order of the flat vectors.
        message_bytes: one message to one neighbour (for all-reduce: the vector that is reduced).
        steps_per_epoch: the same on every node.
        num_steps: steps of each node in the whole run.
    """

    config: Config
    topology: Topology
    dataset: Dataset
    compressor: Compressor
    layout: Layout
    message_bytes: int
    steps_per_epoch: int
    num_steps: int

    @property
    def num_epochs(self) -> int:
        """Epochs that are at least begun."""
        return -(-self.num_steps // self.steps_per_epoch)

    @property
    def compresses(self) -> bool:
        return law_class(self.config.learning.optimizer, self.topology).compresses

    def schedule(self, rank: int) -> Schedule:
        return make_schedule(self.config, self.topology, rank)

    def model(self) -> nn.Module:
        """The model, initialised as on every node."""
        options = self.config.model
        return make_model(
            options.arch,
            self.dataset.num_channels,
            self.dataset.image_size,
            self.dataset.num_classes,
            self.config.learning.manual_seed,
            mlp_num_layers=options.mlp_num_layers,
            mlp_hidden_size=options.mlp_hidden_size,
            drop_rate=options.drop_rate,
        )

    def partition(self, epoch: int) -> list[torch.Tensor]:
        """Every node's training samples in an epoch."""
        data = self.config.data
        return partition_indices(
            self.dataset.train_targets,
            self.topology.num_nodes,
            data.partition_data,
            self.config.learning.manual_seed,
            epoch if data.reshuffle_per_epoch else 0,
        )


def _check_devices(config: Config) -> None:
    if config.launch.on_cuda and not torch.cuda.is_available():
        raise UserError(
            "--on_cuda True: this machine has no GPU that torch can use; --on_cuda False"
        )
    if config.launch.on_cuda:
        raise UserError("--on_cuda True: training on GPUs is not built yet; --on_cuda False")
    if config.launch.backend == "nccl":
        raise UserError("--backend nccl: needs GPUs; --backend mpi or gloo")


def _check_folder(config: Config) -> None:
    """A run's folder is CHECKPOINT/DATA/ARCH/EXPERIMENT/TIMESTAMP."""
    watch = config.watch
    for name, value in (("experiment", watch.experiment), ("timestamp", watch.timestamp)):
        if value is not None and (Path(value).name != value or "\0" in value):
            raise UserError(f"--{name} {value!r}: must be the name of one folder")
    place = Path(watch.checkpoint, config.data.data, config.model.arch, watch.experiment).absolute()
    existing = next(folder for folder in (place, *place.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--checkpoint {watch.checkpoint}: cannot write into {existing}")
    if watch.timestamp is not None and run_folder(config, watch.timestamp).exists():
        raise UserError(
            f"--timestamp {watch.timestamp}: the run {run_folder(config, watch.timestamp)} exists"
        )


def run_folder(config: Config, timestamp: str) -> Path:
    """The folder of the run of that name."""
    watch = config.watch
    return Path(watch.checkpoint, config.data.data, config.model.arch, watch.experiment, timestamp)


def make_plan(config: Config) -> Plan:
    """Check a configuration and work out what follows from it; writes nothing.

    Raises:
        UserError: what was asked for cannot be done.
    """
    _check_devices(config)
    _check_folder(config)
    learning, num_nodes = config.learning, config.launch.n_mpi_process
    topology = make_topology(config.graph.graph_topology, num_nodes)
    compressor = make_compressor(config.graph.comm_op)
    gamma = config.graph.consensus_stepsize
    if gamma is None:
        gamma = compressor.default_consensus_stepsize
    if not 0 < gamma <= 1:
        raise UserError(f"--consensus_stepsize {gamma:g}: must be above 0 and at most 1")
    if learning.use_nesterov and learning.momentum_factor == 0:
        raise UserError("--use_nesterov True: needs a --momentum_factor above 0")
    make_schedule(config, topology, rank=0)
    dataset = load_dataset(config.data.data, config.data.data_dir)
    steps_per_epoch = batches_per_epoch(
        len(dataset.train_targets), num_nodes, config.data.batch_size
    )
    num_steps = steps_per_epoch * learning.num_epochs
    if learning.stop_criteria == "iteration":
        num_steps = -(-learning.num_iterations // num_nodes)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data, base_batch_size=config.data.base_batch_size or config.data.batch_size
        ),
        graph=dataclasses.replace(config.graph, consensus_stepsize=gamma),
    )
    plan = Plan(
        config, topology, dataset, compressor, Layout((), ()), 0, steps_per_epoch, num_steps
    )
    plan.partition(epoch=0)
    groups = parameter_groups(plan.model(), 0.0, normalization_parameters(plan.model()))
    layout = Layout.of((str(i), p) for i, p in enumerate(p for g in groups for p in g["params"]))
    message_bytes = compressor.message_bytes(layout) if plan.compresses else 4 * layout.num_entries
    return dataclasses.replace(plan, layout=layout, message_bytes=message_bytes)
