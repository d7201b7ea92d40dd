"""What a run will do, worked out and checked from its configuration before anything is written."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pcode.compression import COMPRESSORS, Compressor
from pcode.config import Config
from pcode.config.options import AUTO, Learning, Watch
from pcode.consensus import GammaSearch, check_gamma, search_gamma
from pcode.datasets import (
    Dataset,
    load_dataset,
    partition_indices,
    partition_scheme,
    smallest_share,
)
from pcode.datasets.embeddings import load_embeddings
from pcode.datasets.text_columns import Text
from pcode.errors import UserError
from pcode.layout import Layout
from pcode.models import RNNLanguageModel, architecture, make_model, normalization_parameters
from pcode.models.trial import objection
from pcode.optim import AdamOptions, Law, law_class, parameter_groups
from pcode.optim.flat import flat_layout
from pcode.registry import taken_by
from pcode.topology import Graph, Topology, make_graph, surviving_graph
from pcode.training.records import load_model, model_file
from pcode.training.schedule import Schedule, make_schedule
from pcode.training.start import Start, find_start

LONGEST_NAME_BYTES = 255  # of a file on the usual file systems


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
        timestamp: the name of the run, or None for the time of its start.
        doubts: reasons why the law may fail with this compressor on this graph.
        search: how gamma was found, where that was left to a search.
        evaluated_run: the folder of the run whose models are to be evaluated, if no training is.
        start: where the run goes on from, if not from the beginning.
        embeddings: pretrained vectors of words, and for which words there are some.
        dealt: the shares of the epoch last asked for: simulated nodes ask one after another.
    """

    config: Config
    topology: Graph
    dataset: Dataset
    compressor: Compressor
    layout: Layout
    message_bytes: int
    steps_per_epoch: int
    num_steps: int
    timestamp: str | None
    doubts: tuple[str, ...] = ()
    search: GammaSearch | None = None
    evaluated_run: Path | None = None
    start: Start | None = None
    embeddings: tuple[torch.Tensor, torch.Tensor] | None = None
    dealt: dict[int, list[torch.Tensor]] = field(default_factory=dict, repr=False)

    @property
    def num_epochs(self) -> int:
        """Epochs that are at least begun."""
        return -(-self.num_steps // self.steps_per_epoch)

    @property
    def law(self) -> type[Law]:
        return law_class(self.config.learning.optimizer, self.topology)

    @property
    def compresses(self) -> bool:
        return self.law.compresses

    @property
    def remarks(self) -> list[str]:
        """What is to be said of the law before it starts."""
        return self.law.remarks(**taken_by(self.law, self.config.flat()))

    @property
    def clip_norm(self) -> float | None:
        """The norm to which the loop clips a node's gradient, where the law does not."""
        learning = self.config.learning
        if learning.clip_grad:
            return None if "clip_grad" in self.law.flags else learning.clip_grad_val
        if self.dataset.task == "language":
            return self.config.model.rnn_clip or None
        return None

    def schedule(self, rank: int) -> Schedule:
        """A node's learning rate; each call makes one of its own."""
        end = self.num_steps / self.steps_per_epoch
        return make_schedule(self.config, self.topology, rank, end)

    def model(self) -> nn.Module:
        """The model, initialised as on every node."""
        config = self.config
        model = make_model(
            config.model.arch,
            self.dataset.input_shape,
            self.dataset.num_classes,
            config.learning.manual_seed,
            config.flat(),
        )
        if isinstance(model, RNNLanguageModel) and self.embeddings is not None:
            model.set_embeddings(*self.embeddings)
        return model

    def for_survivors(self, survivors: Sequence[int]) -> Plan:
        """The plan of the nodes that are left; their new ranks are their places in the list."""
        num_nodes, data, learning = len(survivors), self.config.data, self.config.learning
        if num_nodes == self.topology.num_nodes:
            return self
        name, rebuilt = self.config.graph.graph_topology, None
        with suppress(UserError):  # there is none with so many nodes
            rebuilt = make_graph(name, num_nodes, learning.manual_seed)
        steps_per_epoch = self.dataset.batches_per_epoch(num_nodes, data.batch_size)
        launch = dataclasses.replace(self.config.launch, n_mpi_process=num_nodes)
        return dataclasses.replace(
            self,
            config=dataclasses.replace(self.config, launch=launch),
            topology=surviving_graph(self.topology, survivors, rebuilt),
            steps_per_epoch=steps_per_epoch,
            num_steps=_num_steps(learning, steps_per_epoch, num_nodes),
            dealt={},
        )

    def partition(self, epoch: int) -> list[torch.Tensor]:
        """Every node's training samples in an epoch."""
        data = self.config.data
        epoch = epoch if data.reshuffle_per_epoch else 0
        if epoch not in self.dealt:
            self.dealt.clear()
            self.dealt[epoch] = partition_indices(
                self.dataset.train_targets,
                self.topology.num_nodes,
                data.partition_data,
                self.config.learning.manual_seed,
                epoch,
            )
        return self.dealt[epoch]


def local_options(config: Config) -> dict[str, Any]:
    """What a law takes for its local step, besides the weight decay of its groups."""
    learning = config.learning
    adam = None
    if learning.local_optimizer == "adam":
        adam = AdamOptions(
            learning.adam_beta_1,
            learning.adam_beta_2,
            learning.adam_eps,
            learning.local_adam_memory_treatment,
        )
    return {
        "lr": learning.lr,
        "momentum": learning.momentum_factor,
        "nesterov": learning.use_nesterov,
        "adam": adam,
        "local_step": learning.local_step,
        "turn_on_local_step_from": learning.turn_on_local_step_from,
    }


def _check_devices(config: Config) -> None:
    if config.launch.on_cuda and not torch.cuda.is_available():
        raise UserError(
            "--on_cuda True: this machine has no GPU that torch can use; --on_cuda False"
        )
    if config.launch.on_cuda:
        raise UserError("--on_cuda True: training on GPUs is not built yet; --on_cuda False")
    if config.launch.on_failure == "continue" and config.launch.backend not in ("mpi", "sim"):
        raise UserError(
            f"--on_failure continue: --backend {config.launch.backend} cannot go on without a "
            "node; --backend mpi"
        )
    if config.launch.backend == "nccl":
        raise UserError("--backend nccl: training on GPUs is not built yet; --backend mpi or gloo")


def _check_folder(config: Config) -> None:
    """A run's folder is CHECKPOINT/DATA/ARCH/EXPERIMENT/TIMESTAMP."""
    watch = config.watch
    for name, value in (("experiment", watch.experiment), ("timestamp", watch.timestamp)):
        if value is not None and (value in ("", "..") or Path(value).name != value):
            raise UserError(f"--{name} {value!r}: must be the name of one folder")
        if value is not None and len(os.fsencode(value)) > LONGEST_NAME_BYTES:
            raise UserError(f"--{name}: longer than {LONGEST_NAME_BYTES} bytes")
    place = runs_folder(config).absolute()
    existing = next(folder for folder in (place, *place.parents) if _is_there(watch, folder))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--checkpoint {watch.checkpoint}: cannot write into {existing}")
    if watch.resume is None:
        _check_new(config)


def _is_there(watch: Watch, place: Path) -> bool:
    """Whether there is anything of that name, a link to nowhere included."""
    try:
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UserError(f"--checkpoint {watch.checkpoint}: {error.strerror}") from None
    return True


def _check_new(config: Config) -> None:
    """Refuse to overwrite a run."""
    timestamp = config.watch.timestamp
    if timestamp is not None and (runs_folder(config) / timestamp).exists():
        raise UserError(
            f"--timestamp {timestamp}: the run {runs_folder(config) / timestamp} exists"
        )


def runs_folder(config: Config) -> Path:
    """The folder in which the runs of this experiment have theirs, by timestamp."""
    watch = config.watch
    return Path(watch.checkpoint, config.data.data, config.model.arch, watch.experiment)


def make_plan(config: Config) -> Plan:
    """Check a configuration and work out what follows from it; writes nothing.

    Raises:
        UserError: what was asked for cannot be done.
    """
    _check_devices(config)
    _check_folder(config)
    # Before a data set is fetched.
    architecture(config.model.arch)
    partition_scheme(config.data.partition_data)
    learning, num_nodes = config.learning, config.launch.n_mpi_process
    uses_momentum = learning.local_optimizer == "sgd"
    if uses_momentum and learning.use_nesterov and learning.momentum_factor == 0:
        raise UserError("--use_nesterov True: needs a --momentum_factor above 0")
    if learning.clip_grad and not learning.clip_grad_val:
        raise UserError("--clip_grad True: needs a --clip_grad_val above 0")
    topology = _topology(config)
    compressor_class = COMPRESSORS[config.graph.comm_op]
    compressor = compressor_class(**taken_by(compressor_class, config.flat()))
    law = law_class(learning.optimizer, topology)
    _check_law(law, config, topology, compressor if law.compresses else None)
    timestamp = config.watch.timestamp
    dataset = load_dataset(config.data.data, config.flat())
    steps_per_epoch = dataset.batches_per_epoch(num_nodes, config.data.batch_size)
    num_steps = _num_steps(learning, steps_per_epoch, num_nodes)
    plan = Plan(
        config=config,
        topology=topology,
        dataset=dataset,
        compressor=compressor,
        layout=Layout((), ()),
        message_bytes=0,
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps,
        timestamp=timestamp,
        embeddings=_embeddings(config, dataset),
    )
    _check_task(config, dataset)
    plan.partition(epoch=0)
    plan.schedule(rank=0)
    model = plan.model()
    _check_batches(plan, model)
    layout = flat_layout(parameter_groups(model, 0.0, normalization_parameters(model)))
    gamma, search, doubts = None, None, []
    if law.compresses:
        assert isinstance(topology, Topology), "no such law takes another graph"
        doubts = law.doubts(topology, compressor, layout)
        if "consensus_stepsize" in law.flags:
            gamma, search = _gamma(config, law, topology, compressor, layout)
    evaluated_run = _evaluated_run(config, model)
    resolved = _resolve(config, gamma)
    start = None
    if evaluated_run is None:
        start = find_start(resolved, runs_folder(config), topology, steps_per_epoch)
        _check_start(start, config, num_steps)
    return dataclasses.replace(
        plan,
        config=_at_rest(resolved, start),
        layout=layout,
        message_bytes=compressor.message_bytes(layout)
        if law.compresses
        else 4 * layout.num_entries,
        doubts=tuple(doubts),
        search=search,
        evaluated_run=evaluated_run,
        start=start,
    )


def _check_start(start: Start | None, config: Config, num_steps: int) -> None:
    if start is None or not start.same:
        _check_new(config)
        return
    if start.manifest is not None and start.manifest.step > num_steps:
        raise UserError(
            f"--resume {start.run}: its checkpoint is after {start.manifest.step} steps, and the "
            f"run is to have {num_steps}; a larger --num_epochs"
        )


def _at_rest(config: Config, start: Start | None) -> Config:
    """What config.yaml is to hold: flags that start the same run again, from the beginning.

    A run that began with another's models begins with them again.
    """
    if config.watch.evaluate or (start is not None and not start.same):
        return config
    resume, index = (None, None) if start is None else start.origin
    watch = dataclasses.replace(config.watch, resume=resume, checkpoint_index=index)
    return dataclasses.replace(config, watch=watch)


def _num_steps(learning: Learning, steps_per_epoch: int, num_nodes: int) -> int:
    """Steps of each node in the whole run."""
    if learning.stop_criteria == "iteration":
        return -(-learning.num_iterations // num_nodes)
    return steps_per_epoch * learning.num_epochs


def _embeddings(config: Config, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor] | None:
    options = config.model
    if not options.rnn_use_pretrained_emb or not isinstance(dataset, Text):
        return None
    return load_embeddings(config.data.data_dir, dataset.vocabulary, options.rnn_n_hidden)


def _check_task(config: Config, dataset: Dataset) -> None:
    """Refuse a model or a partition that is for other data."""
    arch, scheme, data = config.model.arch, config.data.partition_data, config.data.data
    task = architecture(arch).task
    if task != dataset.task:
        raise UserError(f"--arch {arch}: is a model for {task}, --data {data} for {dataset.task}")
    if partition_scheme(scheme).by_label and not dataset.labelled:
        raise UserError(f"--partition_data {scheme}: --data {data} has no labels; random or sorted")


def _check_batches(plan: Plan, model: nn.Module) -> None:
    """Refuse batches of one sample where batch normalisation would see one number of a channel."""
    data = plan.config.data
    smallest = smallest_share(
        data.partition_data, len(plan.dataset.train_targets), plan.topology.num_nodes
    )
    if min(data.batch_size, smallest) > 1 or plan.dataset.task == "language":
        return
    reason = objection(model, plan.dataset.input_shape, batch_size=1)
    if reason is not None:
        raise UserError(f"--arch {plan.config.model.arch}: fails on batches of 1: {reason}")


def _evaluated_run(config: Config, model: nn.Module) -> Path | None:
    """The run whose models --evaluate True asks for, once they have been found to fit."""
    watch = config.watch
    if not watch.evaluate:
        return None
    if watch.resume in (None, AUTO):
        raise UserError("--evaluate True: needs the folder of a run: --resume RUN")
    folder = Path(str(watch.resume))
    files = [
        model_file(folder / str(rank), watch.checkpoint_index)
        for rank in range(config.launch.n_mpi_process)
    ]
    num_nodes = sum(place.name.isdecimal() for place in folder.glob("*"))
    if num_nodes > len(files):
        raise UserError(f"--n_mpi_process {len(files)}: the run --resume {folder} has {num_nodes}")
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError(f"--resume {folder}: there is no model {missing[0]}")
    load_model(model, files[0])
    return folder


def _check_law(
    law: type[Law], config: Config, topology: Graph, compressor: Compressor | None
) -> None:
    local = local_options(config)
    try:
        law.refuse(
            topology,
            compressor=compressor,
            adam=local["adam"],
            local_step=local["local_step"],
            **taken_by(law, config.flat()),
        )
    except UserError as error:
        if str(error).startswith("--"):
            raise
        raise UserError(f"--optimizer {config.learning.optimizer}: {error}") from None


def _gamma(
    config: Config, law: type[Law], topology: Topology, compressor: Compressor, layout: Layout
) -> tuple[float, GammaSearch | None]:
    """The consensus step size, and how it was found where that was left to a search."""
    gamma = config.graph.consensus_stepsize
    if gamma == "auto":
        assert law.consensus is not None, "a law with gamma names its gossip"
        seed = config.learning.manual_seed
        search = search_gamma(topology, compressor, layout, seed, law.consensus)
        return search.best, search
    gamma = law.default_consensus_stepsize(compressor) if gamma is None else gamma
    check_gamma(gamma)
    return gamma, None


def _topology(config: Config) -> Graph:
    name, num_nodes = config.graph.graph_topology, config.launch.n_mpi_process
    try:
        return make_graph(name, num_nodes, config.learning.manual_seed)
    except UserError as error:
        if str(error).startswith("--"):
            raise
        flags = f"--graph_topology {name} --n_mpi_process {num_nodes}"
        raise UserError(f"{flags}: {error}") from None


def _resolve(config: Config, gamma: float | None) -> Config:
    """Fill in what was left to the run; gamma is None where the law has none."""
    return dataclasses.replace(
        config,
        launch=dataclasses.replace(config.launch, on_cuda=False),
        graph=dataclasses.replace(config.graph, consensus_stepsize=gamma),
        # Its name is the folder's; a run started from config.yaml gets a folder of its own.
        watch=dataclasses.replace(config.watch, timestamp=None),
    )
