"""A run's plan from its flags, checked before anything is written."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from torch import nn

from pcode.compression import COMPRESSORS, Compressor
from pcode.compression.kernels.cpu import cache
from pcode.config import Config
from pcode.config.options import AUTO
from pcode.consensus import GammaSearch, search_gamma
from pcode.datasets import load_dataset, partition_scheme, smallest_share
from pcode.datasets.text import Text
from pcode.datasets.word_vectors import load_embeddings
from pcode.models import builder, normalization_parameters, task_of
from pcode.models.base import shape_error
from pcode.optim import DecentralizedOptimizer, local_options, optimizer_class, parameter_groups
from pcode.optim.compressed import CompressedOptimizer
from pcode.topology import Graph, Topology, make_graph
from pcode.training.plan import Plan
from pcode.training.records import check_folder, load_model, model_file, runs_folder
from pcode.training.resume import ResumePoint, find_resume_point
from pcode.utils.devices import check_compiler
from pcode.utils.errors import UserError, naming_flags
from pcode.utils.layout import Layout
from pcode.utils.options import declared_by, options_of, taken_by


def check_launch(config: Config) -> None:
    """Raise UserError where a backend, or a node's processes, cannot do what is asked of them."""
    launch, batch_size = config.launch, config.data.batch_size
    local_size = launch.n_sub_process
    if launch.on_failure == "continue" and launch.backend not in ("mpi", "sim"):
        raise UserError(
            f"--on_failure continue: --backend {launch.backend} cannot go on without a node; "
            "--backend mpi"
        )
    if launch.backend == "nccl" and launch.on_cuda is False:
        raise UserError(
            "--backend nccl: it talks between GPUs, and no node uses one; --backend mpi or gloo"
        )
    if launch.backend == "nccl" and launch.comm_device == "cpu":
        raise UserError(
            "--backend nccl: it takes no messages from host memory (--comm_device cpu); "
            "--backend mpi or gloo"
        )
    if batch_size % local_size:
        raise UserError(
            f"--n_sub_process {local_size} --batch_size {batch_size}: the batch of a node is "
            "shared by its processes, in equal parts: it has to be a multiple of their number"
        )
    if local_size > 1 and launch.on_failure == "continue":
        raise UserError(
            f"--on_failure continue --n_sub_process {local_size}: a node cannot go on without "
            "one of its processes; --on_failure stop, and --max_restarts"
        )


def components(
    config: Config, topology: Graph | None = None
) -> tuple[Graph, Compressor, type[DecentralizedOptimizer]]:
    """Return the graph, or the one given, the compressor and the optimizer, which fit together.

    Raises:
        UserError: they do not.
    """
    flags, learning, num_nodes = config.flat(), config.learning, config.launch.n_mpi_process
    if topology is None:
        name = config.graph.graph_topology
        with naming_flags(f"--graph_topology {name} --n_mpi_process {num_nodes}"):
            topology = make_graph(name, num_nodes, learning.manual_seed, flags)
    kind = COMPRESSORS[config.graph.comm_op]
    compressor = kind(**taken_by(kind, flags))
    optimizer = optimizer_class(learning.optimizer, topology)
    with naming_flags(f"--optimizer {learning.optimizer}"):
        optimizer.validate(
            topology,
            compressor=compressor,
            adam=local_options(flags).get("adam"),
            local_step=learning.local_step,
            **declared_by(optimizer, flags),
        )
    return topology, compressor, optimizer


def make_plan(config: Config) -> Plan:
    """Check a configuration and work out what follows from it; writes nothing.

    Raises:
        UserError: what was asked for cannot be done.
    """
    check_launch(config)
    check_folder(config)
    # Before a data set is fetched.
    builder(config.model.arch)
    partition_scheme(config.data.partition_data)
    learning = config.learning
    if learning.compile and not config.launch.on_cuda:
        check_compiler("--compile True", "C++", "CXX", ("g++", "clang++"), "or --compile False")
    if learning.clip_grad and not learning.clip_grad_val:
        raise UserError("--clip_grad True: needs a --clip_grad_val above 0")
    flags = config.flat()
    topology, compressor, optimizer = components(config)
    dataset = load_dataset(config.data.data, flags)
    embeddings, notices = None, (*topology.notices, *dataset.notices, *cache.notices())
    if config.model.rnn_use_pretrained_emb and isinstance(dataset, Text):
        size = config.options["rnn_n_hidden"]
        rows, known, skipped = load_embeddings(config.data.data_dir, dataset.vocabulary, size)
        embeddings, notices = (rows, known), (*notices, *skipped)
    plan = Plan(
        config=config,
        topology=topology,
        dataset=dataset,
        compressor=compressor,
        layout=Layout((), ()),
        timestamp=config.watch.timestamp,
        embeddings=embeddings,
    )
    _check_task(plan)
    plan.partition(epoch=0)
    plan.schedule(rank=0)
    model = plan.model()
    _check_batches(plan, model)
    groups = parameter_groups(model, 0.0, normalization_parameters(model))
    layout = Layout.of(named for group in groups for named in group["params"])
    warnings = []
    if optimizer.compresses:
        assert isinstance(topology, Topology), "no such optimizer takes another graph"
        warnings = optimizer.warnings(topology, compressor, layout, **flags)
    plan = dataclasses.replace(
        plan,
        layout=layout,
        warnings=(*notices, *(f"--optimizer {learning.optimizer}: {each}" for each in warnings)),
        evaluated=_evaluated(config, model) if config.watch.evaluate else None,
    )
    gamma, search = _gamma(plan)
    resolved = dataclasses.replace(
        config,
        options={**config.options, "consensus_stepsize": gamma},
        # Its name is the folder's; a run started from config.yaml gets a folder of its own.
        watch=dataclasses.replace(config.watch, timestamp=None),
    )
    left_out: list[str] = []
    start = None if plan.evaluated else _start(plan, resolved, left_out.append)
    return dataclasses.replace(
        plan,
        config=_at_rest(resolved, start),
        search=search,
        start=start,
        warnings=(*plan.warnings, *left_out),
    )


def _start(plan: Plan, resolved: Config, note: Callable[[str], object]) -> ResumePoint | None:
    """Return where the run goes on from: before its end, or at the end of one of its own."""
    runs = runs_folder(resolved)
    start = find_resume_point(resolved, runs, plan.topology, plan.steps_per_epoch, note)
    new = None if plan.timestamp is None else runs / plan.timestamp
    if new is not None and new.exists() and (start is None or not start.same):
        raise UserError(f"--timestamp {plan.timestamp}: the run {new} exists")
    if start is None or start.manifest is None:
        return start
    most, step = plan.num_steps, plan.steps_after(start.manifest.epoch)
    if step > most or (step == most and not start.same):
        raise UserError(
            f"--resume {start.run}: its checkpoint is after {start.manifest.epoch:g} epochs, and "
            f"the run is to have {most / plan.steps_per_epoch:g}; a larger --num_epochs"
        )
    return start


def _at_rest(config: Config, start: ResumePoint | None) -> Config:
    """Return what config.yaml is to hold: flags that start the same run again, from the beginning.

    A run that began with another's models begins with them again.
    """
    if config.watch.evaluate:
        return config
    resume, index = (None, None) if start is None else start.origin
    if start is not None and not start.same:  # also where it was found
        resume, index = str(start.run), config.watch.checkpoint_index
    watch = dataclasses.replace(config.watch, resume=resume, checkpoint_index=index)
    return dataclasses.replace(config, watch=watch)


def _check_task(plan: Plan) -> None:
    """Raise UserError for a model, a partition or a precision that is for other data."""
    config, dataset, amp = plan.config, plan.dataset, plan.config.learning.amp
    arch, scheme, data = config.model.arch, config.data.partition_data, config.data.data
    task = task_of(arch)
    if task != dataset.task:
        raise UserError(f"--arch {arch}: is a model for {task}, --data {data} for {dataset.task}")
    if partition_scheme(scheme).by_label and not dataset.labelled:
        raise UserError(f"--partition_data {scheme}: --data {data} has no labels; random or sorted")
    if task == "language" and amp is not None and config.launch.on_cuda is False:
        raise UserError(
            f"--amp {amp}: torch's LSTM takes it on few processors (with AVX-512 for these types); "
            "on a GPU, or without --amp"
        )
    if task == "language" and amp == "bf16":
        raise UserError("--amp bf16: torch gives cuDNN's LSTM float16 all the same; --amp fp16")


def _check_batches(plan: Plan, model: nn.Module) -> None:
    """Raise UserError for batches of which batch normalisation would see one number of a channel.

    And shares of the data of which a process of its node would get none.
    """
    data, num_local_ranks = plan.config.data, plan.config.launch.n_sub_process
    smallest = smallest_share(
        data.dealing, len(plan.dataset.train_targets), plan.topology.num_nodes
    )
    if smallest < num_local_ranks:
        raise UserError(
            f"--n_sub_process {num_local_ranks}: the smallest share of the data that a node gets "
            f"has {smallest} samples, fewer than it has processes"
        )
    if min(data.batch_size, smallest) // num_local_ranks > 1 or plan.dataset.task == "language":
        return
    reason = shape_error(model, plan.dataset.input_shape, batch_size=1)
    if reason is not None:
        arch = f"--arch {plan.config.model.arch}"
        if num_local_ranks > 1:
            arch += f" --n_sub_process {num_local_ranks}"
        raise UserError(f"{arch}: fails on batches of 1: {reason}")


def _evaluated(config: Config, model: nn.Module) -> tuple[Path, ...]:
    """Return the models that --evaluate True asks for, once they have been found to fit.

    Nodes that the run has lost left none.
    """
    watch = config.watch
    if watch.resume in (None, AUTO):
        raise UserError("--evaluate True: needs the folder of a run: --resume RUN")
    folder = Path(str(watch.resume))
    num_nodes = config.launch.n_mpi_process

    def file(node: int) -> Path:
        return model_file(folder / str(node), watch.checkpoint_index)

    nodes = sorted(int(place.name) for place in folder.glob("*") if place.name.isdecimal())
    found = tuple(file(node) for node in nodes if file(node).is_file())
    if len(found) > num_nodes:
        raise UserError(f"--n_mpi_process {num_nodes}: the run --resume {folder} has {len(found)}")
    if len(found) < num_nodes:
        missing = next(file(node) for node in range(num_nodes) if file(node) not in found)
        hint = f"; it has those of {len(found)} nodes: --n_mpi_process" if found else ""
        raise UserError(f"--resume {folder}: there is no model {missing}{hint}")
    load_model(model, found[0])
    return found


def _gamma(plan: Plan) -> tuple[float | None, GammaSearch | None]:
    """Return the optimizer's gamma, if it has one, and how it was found if it was searched."""
    gamma, optimizer = plan.config.options["consensus_stepsize"], plan.optimizer
    if "consensus_stepsize" not in options_of(optimizer):
        return None, None
    if gamma == "auto":
        assert issubclass(optimizer, CompressedOptimizer), "of those that compress some have gamma"
        assert isinstance(plan.topology, Topology), "no such optimizer takes another graph"
        seed = plan.config.learning.manual_seed
        search = search_gamma(plan.topology, plan.compressor, plan.layout, seed, optimizer)
        return search.best, search
    return optimizer.default_consensus_stepsize(plan.compressor) if gamma is None else gamma, None
