"""What a run will do, worked out from its configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from pcode.compression import Compressor
from pcode.config import Config
from pcode.consensus import GammaSearch
from pcode.datasets import Dataset, partition_indices
from pcode.models import RNNLanguageModel, make_model
from pcode.optim import DecentralizedOptimizer, optimizer_class
from pcode.topology import Graph, make_graph, surviving_graph
from pcode.training.resume import ResumePoint
from pcode.training.schedule import Schedule, make_schedule
from pcode.utils.errors import UserError
from pcode.utils.layout import Layout
from pcode.utils.options import declared_by

# Added to a number of steps that is whole but for rounding.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Plan:
    """A checked configuration and what follows from it.

    Attributes:
        config: every flag, with what was left to the run filled in.
        topology, dataset, compressor: as configured.
        layout: the tensors of the model in the order of the flat vectors.
        timestamp: the name of the run, or None for the time of its start.
        warnings: what was put right or passed over in the user's files, and reasons why the
            optimizer may fail with this compressor on this graph.
        search: how gamma was found, where that was left to a search.
        evaluated: the files of the models to be evaluated, by rank, if no training is to be.
        start: where the run goes on from, if not from the beginning.
        embeddings: pretrained vectors of words, and for which words there are some.
        dealt: the shares of the epoch last asked for: simulated nodes ask one after another.
        moved: the data set for each device: simulated nodes share it.
    """

    config: Config
    topology: Graph
    dataset: Dataset
    compressor: Compressor
    layout: Layout
    timestamp: str | None
    warnings: tuple[str, ...] = ()
    search: GammaSearch | None = None
    evaluated: tuple[Path, ...] | None = None
    start: ResumePoint | None = None
    embeddings: tuple[torch.Tensor, torch.Tensor] | None = None
    dealt: dict[int, list[torch.Tensor]] = field(default_factory=dict, repr=False)
    moved: dict[torch.device, Dataset] = field(default_factory=dict, repr=False)

    @property
    def steps_per_epoch(self) -> int:
        """Of each node: the same on all."""
        batch_size = self.config.data.batch_size
        return self.dataset.batches_per_epoch(self.topology.num_nodes, batch_size)

    @property
    def num_steps(self) -> int:
        """Of each node, in the whole run."""
        learning = self.config.learning
        if learning.stop_criteria == "iteration":
            return -(-learning.num_iterations // self.topology.num_nodes)
        return self.steps_per_epoch * learning.num_epochs

    def steps_after(self, epochs: float) -> int:
        """Return the steps of a node within so many epochs, which others counted."""
        return int(epochs * self.steps_per_epoch + ROUNDING)

    @property
    def optimizer(self) -> type[DecentralizedOptimizer]:
        return optimizer_class(self.config.learning.optimizer, self.topology)

    @property
    def message_bytes(self) -> int:
        """One message to one neighbour (for all-reduce: the vector that is reduced)."""
        flags = self.config.flat()
        return self.optimizer.message_bytes_of(self.layout, self.compressor, **flags)

    @property
    def clip_norm(self) -> float | None:
        """The norm to which the loop clips a node's gradient, where the optimizer does not."""
        learning = self.config.learning
        if learning.clip_grad:
            return None if self.optimizer.clips_gradients else learning.clip_grad_val
        if self.dataset.task == "language":
            return self.config.model.rnn_clip or None
        return None

    def schedule(self, rank: int) -> Schedule:
        """Return a node's learning rate; each call makes one of its own."""
        num_epochs = self.num_steps / self.steps_per_epoch
        return make_schedule(self.config, self.topology, rank, num_epochs)

    def model(self) -> nn.Module:
        """Return the model, initialised as on every node."""
        data, flags = self.dataset, self.config.flat()
        shape, seed = data.input_shape, flags["manual_seed"]
        model = make_model(flags["arch"], shape, data.num_classes, seed, flags)
        if isinstance(model, RNNLanguageModel) and self.embeddings is not None:
            model.set_embeddings(*self.embeddings)
        return model

    def dataset_on(self, device: torch.device) -> Dataset:
        """Return the data set for a model on that device."""
        if device not in self.moved:
            self.moved[device] = self.dataset.on(device)
        return self.moved[device]

    def for_survivors(self, survivors: Sequence[int]) -> Plan:
        """Plan for the nodes that are left; their new ranks are their places in the list."""
        num_nodes, seed = len(survivors), self.config.learning.manual_seed
        if num_nodes == self.topology.num_nodes:
            return self
        name, flags, remade = self.config.graph.graph_topology, self.config.flat(), None
        with suppress(UserError):  # there is none with so many nodes
            remade = make_graph(name, num_nodes, seed, flags)
        launch = dataclasses.replace(self.config.launch, n_mpi_process=num_nodes)
        graph = surviving_graph(self.topology, survivors, remade)
        try:
            self.optimizer.validate(graph, **declared_by(self.optimizer, flags))
        except UserError:  # a chain is a tree, and its weights' eigenvalues are above -1/3
            graph = make_graph("chain", num_nodes, seed, flags)
        return dataclasses.replace(
            self, config=dataclasses.replace(self.config, launch=launch), topology=graph, dealt={}
        )

    def partition(self, epoch: int) -> list[torch.Tensor]:
        """Return every node's training samples in an epoch."""
        data = self.config.data
        epoch = epoch if data.reshuffle_per_epoch else 0
        if epoch not in self.dealt:
            self.dealt.clear()
            targets, num_nodes = self.dataset.train_targets, self.topology.num_nodes
            seed = self.config.learning.manual_seed
            shares = partition_indices(targets, num_nodes, data.dealing, seed, epoch)
            self.dealt[epoch] = shares
        return self.dealt[epoch]
