"""Every flag of a run: frozen dataclasses, from which the parser is made.

A field's name is the flag's name; its type, default and `flag(...)` are all the parser knows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pcode import compression, datasets, models, optim
from pcode.config.fields import Reason, flag
from pcode.datasets import partition
from pcode.topology import DRAWN, TOPOLOGIES


def _only_if(name: str, *values: Any) -> Reason:
    """The flag matters only where the flag `name` has one of `values`."""

    def reason(config: Config) -> str | None:
        value = config.flat()[name]
        if value in values:
            return None
        return f"it has no effect with --{name} {value}"

    return reason


def _law(config: Config) -> type[optim.Law]:
    """The law, as on a graph that is not complete."""
    return optim.LAWS[config.learning.optimizer][1]


def _only_if_law_takes(name: str) -> Reason:
    def reason(config: Config) -> str | None:
        if name in _law(config).flags:
            return None
        return f"it has no effect with --optimizer {config.learning.optimizer}"

    return reason


def _only_if_compressor_takes(name: str) -> Reason:
    def reason(config: Config) -> str | None:
        if name in compression.COMPRESSORS[config.graph.comm_op].flags:
            return _compressing_law(config)
        return f"it has no effect with --comm_op {config.graph.comm_op}"

    return reason


def _compressing_law(config: Config) -> str | None:
    if _law(config).compresses:
        return None
    return f"--optimizer {config.learning.optimizer} sends the parameters or gradients themselves"


def _mpi_launch(config: Config) -> str | None:
    if config.launch.backend == "sim":
        return "--backend sim runs all nodes in this process"
    if config.launch.n_mpi_process == 1:
        return "one node runs in this process"
    return None


def _in_memory(config: Config) -> str | None:
    return f"--data {config.data.data} lies in memory as tensors"


def _several_local_steps(config: Config) -> str | None:
    learning = config.learning
    if learning.local_step == 1:
        return "--local_step is 1"
    if (
        learning.stop_criteria == "epoch"
        and learning.turn_on_local_step_from >= learning.num_epochs
    ):
        return f"training ends after --num_epochs {learning.num_epochs}"
    return None


def _masking(config: Config) -> str | None:
    if config.learning.momentum_factor == 0:
        return "there is no momentum with --momentum_factor 0"
    return _only_if_law_takes("mask_momentum")(config)


def _warming_up(config: Config) -> str | None:
    if config.graph.compress_warmup_epochs == 0:
        return "there is no warm-up with --compress_warmup_epochs 0"
    return _only_if_law_takes("compress_warmup_values")(config)


def _biasing(config: Config) -> str | None:
    if config.graph.comm_op == "quantize_qsgd" and config.graph.quantize_level == 32:
        return "--quantize_level 32 keeps all bits"
    return _only_if_compressor_takes("is_biased")(config)


def _not_needed(config: Config) -> str:
    return "it is not needed any more"


def _without_gpus(config: Config) -> str:
    return "no node uses a GPU"


def _simulated(config: Config) -> str | None:
    return "simulated nodes need no time limit" if config.launch.backend == "sim" else None


def _evaluating(config: Config) -> str | None:
    if config.watch.train_fast:
        return "--train_fast True evaluates at the end only, and then all of it"
    return None


def _scaling_up(config: Config) -> str | None:
    if config.learning.lr_scaleup:
        return None
    return "without --lr_scaleup True the rate starts at its final value"


@dataclass(frozen=True)
class Launch:
    """Launch and devices"""

    n_mpi_process: int = flag(2, "number of nodes", minimum=1, maximum=4096)
    n_sub_process: int = flag(1, "GPUs of each node", minimum=1, built=False)
    world: tuple[int, ...] = flag(
        (0,),
        "GPU id of every GPU of the run, node after node; repeated cyclically when short",
        minimum=0,
        irrelevant=_without_gpus,
    )
    hostfile: str | None = flag(
        None, "file of `HOST slots=N` lines; none: this machine", irrelevant=_mpi_launch
    )
    backend: str = flag(
        "mpi",
        "how nodes talk; sim: all nodes in this process",
        choices=("mpi", "nccl", "gloo", "sim"),
    )
    python_path: str | None = flag(
        None, "interpreter on the hosts; none: this one", irrelevant=_mpi_launch
    )
    mpi_path: str | None = flag(
        None, "prefix of the MPI installation; none: the installed one", irrelevant=_mpi_launch
    )
    mpi_env: str | None = flag(
        None, "variables handed to the ranks: A=1,B=2", irrelevant=_mpi_launch
    )
    work_dir: str | None = flag(
        None, "working directory on the hosts; none: this one", irrelevant=_mpi_launch
    )
    use_ipc: bool = flag(
        False, "CUDA IPC in the MPI's shared-memory transport", irrelevant=_without_gpus
    )
    on_cuda: bool | None = flag(None, "train on GPUs (not built yet); auto: no")
    comm_device: str | None = flag(
        None,
        "where messages are exchanged; none: where the model is",
        choices=(None, "cpu", "cuda"),
        irrelevant=_without_gpus,
    )
    num_threads: int | None = flag(
        None,
        "CPU threads of a node; none: cores / nodes on this machine",
        minimum=1,
        maximum=4096,
    )
    time_limit_seconds: float = flag(
        300.0,
        "a message that takes longer ends the run with an error",
        minimum=0.001,
        maximum=1e7,
        irrelevant=_simulated,
    )
    num_workers: int = flag(
        2, "data loading processes", aliases=("-j",), minimum=0, irrelevant=_in_memory
    )
    pin_memory: bool = flag(True, "page-locked memory for batches", irrelevant=_in_memory)
    local_rank: int | None = flag(None, "", irrelevant=_not_needed)
    remote_exec: bool = flag(False, "", irrelevant=_not_needed)
    clean_python: bool = flag(False, "", irrelevant=_not_needed)
    user: str | None = flag(None, "a label of the run")
    project: str | None = flag(None, "a label of the run")


@dataclass(frozen=True)
class Data:
    """Data"""

    data: str = flag(
        "digits",
        "data set",
        choices=datasets.DATASETS,
        not_built=datasets.PLANNED,
    )
    data_dir: str = flag("./data", "where data sets are kept", irrelevant=_only_if("data"))
    use_lmdb_data: bool = flag(False, "ImageNet from LMDB", irrelevant=_only_if("data", "imagenet"))
    partition_data: str = flag(
        "random",
        "how the training data is shared among nodes",
        choices=partition.SCHEMES,
        not_built=partition.PLANNED,
    )
    reshuffle_per_epoch: bool = flag(
        False,
        "partition anew after every epoch",
        irrelevant=_only_if("partition_data", "random", "dirichlet"),
    )
    batch_size: int = flag(32, "mini-batch of one node", aliases=("-b",), minimum=1)
    base_batch_size: int | None = flag(
        None,
        "batch size that --lr is meant for; none: batch_size",
        minimum=1,
        irrelevant=_only_if("lr_scaleup", True),
    )


@dataclass(frozen=True)
class Model:
    """Model"""

    arch: str = flag(
        "resnet20",
        "architecture",
        aliases=("-a",),
        choices=models.MODELS,
        not_built=models.PLANNED,
    )
    densenet_growth_rate: int = flag(12, "", irrelevant=_only_if("arch", "densenet"))
    densenet_bc_mode: bool = flag(False, "", irrelevant=_only_if("arch", "densenet"))
    densenet_compression: float = flag(0.5, "", irrelevant=_only_if("arch", "densenet"))
    wideresnet_widen_factor: int = flag(4, "", irrelevant=_only_if("arch", "wideresnet28"))
    mlp_num_layers: int = flag(
        2,
        "linear layers, with the classifier",
        minimum=1,
        maximum=1000,
        irrelevant=_only_if("arch", "mlp"),
    )
    mlp_hidden_size: int = flag(
        128, "units of a hidden layer", minimum=1, maximum=65536, irrelevant=_only_if("arch", "mlp")
    )
    drop_rate: float = flag(
        0.0,
        "dropout probability",
        minimum=0,
        irrelevant=_only_if("arch", "mlp", "densenet", "wideresnet28", "rnn_lm"),
    )
    rnn_n_hidden: int = flag(200, "", irrelevant=_only_if("arch", "rnn_lm"))
    rnn_n_layers: int = flag(2, "", irrelevant=_only_if("arch", "rnn_lm"))
    rnn_bptt_len: int = flag(35, "", irrelevant=_only_if("arch", "rnn_lm"))
    rnn_clip: float = flag(0.25, "", irrelevant=_only_if("arch", "rnn_lm"))
    rnn_use_pretrained_emb: bool = flag(False, "", irrelevant=_only_if("arch", "rnn_lm"))
    rnn_tie_weights: bool = flag(True, "", irrelevant=_only_if("arch", "rnn_lm"))
    rnn_weight_norm: bool = flag(False, "", irrelevant=_only_if("arch", "rnn_lm"))


@dataclass(frozen=True)
class Learning:
    """Learning"""

    optimizer: str = flag(
        "parallel_choco",
        "the law: how nodes step and mix",
        choices=optim.LAWS,
    )
    local_optimizer: str = flag("sgd", "the local step", choices=("sgd", "adam"))
    lr: float = flag(0.1, "learning rate", minimum=0)
    momentum_factor: float = flag(
        0.9, "momentum of the local step", minimum=0, irrelevant=_only_if("local_optimizer", "sgd")
    )
    use_nesterov: bool = flag(
        False, "Nesterov momentum", irrelevant=_only_if("local_optimizer", "sgd")
    )
    weight_decay: float = flag(1e-4, "L2 penalty; none on normalisation parameters", minimum=0)
    adam_beta_1: float = flag(
        0.9, "decay of Adam's first moment", irrelevant=_only_if("local_optimizer", "adam")
    )
    adam_beta_2: float = flag(
        0.999, "decay of Adam's second moment", irrelevant=_only_if("local_optimizer", "adam")
    )
    adam_eps: float = flag(
        1e-8, "added to Adam's denominator", irrelevant=_only_if("local_optimizer", "adam")
    )
    local_adam_memory_treatment: str | None = flag(
        None,
        "Adam's moments at an exchange: none keeps them, reset starts them again",
        choices=optim.MEMORY_TREATMENTS,
        irrelevant=_only_if("local_optimizer", "adam"),
    )
    lr_schedule_scheme: str = flag(
        "constant",
        "how the learning rate changes",
        aliases=("--lr_scheduler",),
        choices=("constant", "custom_multistep"),
        not_built=("strict", "custom_one_cycle", "custom_convex_decay", "reduce_on_plateau"),
    )
    lr_change_epochs: tuple[float, ...] | None = flag(
        None,
        "epochs at which it changes",
        aliases=("--lr_milestones",),
        minimum=0,
        irrelevant=_only_if("lr_schedule_scheme", "custom_multistep", "strict"),
    )
    lr_fields: str | None = flag(None, "", irrelevant=_only_if("lr_schedule_scheme", "strict"))
    lr_scale_indicators: str | None = flag(
        None, "", irrelevant=_only_if("lr_schedule_scheme", "strict")
    )
    lr_decay: float = flag(
        10.0,
        "divide by this at each change (a value below 1 multiplies)",
        irrelevant=_only_if("lr_schedule_scheme", "custom_multistep"),
    )
    lr_gamma: float | None = flag(
        None, "", irrelevant=_only_if("lr_schedule_scheme", "custom_convex_decay")
    )
    lr_mu: float | None = flag(
        None, "", irrelevant=_only_if("lr_schedule_scheme", "custom_convex_decay")
    )
    lr_alpha: float | None = flag(
        None, "", irrelevant=_only_if("lr_schedule_scheme", "custom_convex_decay")
    )
    lr_onecycle_low: float = flag(
        0.15, "", irrelevant=_only_if("lr_schedule_scheme", "custom_one_cycle")
    )
    lr_onecycle_high: float = flag(
        3.0, "", irrelevant=_only_if("lr_schedule_scheme", "custom_one_cycle")
    )
    lr_onecycle_extra_low: float = flag(
        0.0015, "", irrelevant=_only_if("lr_schedule_scheme", "custom_one_cycle")
    )
    lr_onecycle_num_epoch: int = flag(
        46, "", irrelevant=_only_if("lr_schedule_scheme", "custom_one_cycle")
    )
    lr_scaleup: bool = flag(False, "scale lr by batch_size / base_batch_size and the factor")
    lr_scaleup_type: str = flag(
        "linear",
        "how lr grows with the scale",
        choices=("linear", "sqrt"),
        irrelevant=_only_if("lr_scaleup", True),
    )
    lr_scaleup_factor: str = flag(
        "graph",
        "graph: neighbours and self; world: nodes; or a number",
        irrelevant=_only_if("lr_scaleup", True),
    )
    lr_warmup: bool = flag(
        False, "start at lr and reach the scaled lr linearly", irrelevant=_scaling_up
    )
    lr_warmup_epochs: float = flag(
        5, "epochs of warm-up", minimum=0, irrelevant=_only_if("lr_warmup", True)
    )
    num_epochs: int = flag(
        5, "epochs to train", minimum=1, irrelevant=_only_if("stop_criteria", "epoch")
    )
    num_iterations: int = flag(
        32000,
        "steps in all, shared by the nodes",
        minimum=1,
        irrelevant=_only_if("stop_criteria", "iteration"),
    )
    stop_criteria: str = flag("epoch", "what ends a run", choices=("epoch", "iteration"))
    clip_grad: bool = flag(False, "clip the gradient (dgc: of each tensor) to clip_grad_val")
    clip_grad_val: float | None = flag(
        None, "norm to clip to", minimum=0, irrelevant=_only_if("clip_grad", True)
    )
    local_step: int = flag(1, "local steps from one exchange to the next", minimum=1)
    turn_on_local_step_from: int = flag(
        0, "first epoch with --local_step", minimum=0, irrelevant=_several_local_steps
    )
    avg_model: bool = flag(False, "average the nodes' models when training ends")
    manual_seed: int = flag(6, "the one seed of the run", minimum=0)


@dataclass(frozen=True)
class Graph:
    """Graph and compression"""

    graph_topology: str = flag(
        "ring", f"the file of a graph, or one of {', '.join((*TOPOLOGIES, *DRAWN))}"
    )
    comm_op: str = flag(
        "sign",
        "compressor",
        choices=compression.COMPRESSORS,
        irrelevant=_compressing_law,
    )
    compress_ratio: float = flag(
        0.9, "share that is dropped", irrelevant=_only_if_compressor_takes("compress_ratio")
    )
    quantize_level: int = flag(
        8, "bits of a magnitude", irrelevant=_only_if_compressor_takes("quantize_level")
    )
    is_biased: bool = flag(
        True,
        "biased form of the compressor",
        irrelevant=_biasing,
    )
    majority_vote: bool = flag(
        False,
        "ef_sign_sgd: step by the sign of the nodes' votes",
        irrelevant=_only_if_law_takes("majority_vote"),
    )
    mask_momentum: bool = flag(
        False,
        "dgc: no momentum left where a coordinate was sent",
        irrelevant=_masking,
    )
    comm_algo: str | None = flag(None, "", irrelevant=_not_needed)
    compress_warmup_values: tuple[float, ...] = flag(
        (0.75, 0.9375, 0.984375, 0.996, 0.999),
        "dgc: share that is dropped in each epoch of the warm-up",
        minimum=0,
        irrelevant=_warming_up,
    )
    compress_warmup_epochs: int = flag(
        0,
        "dgc: epochs of the warm-up",
        minimum=0,
        irrelevant=_only_if_law_takes("compress_warmup_epochs"),
    )
    consensus_stepsize: float | Literal["auto"] | None = flag(
        None,
        "gamma; none: by compressor; auto: by a short search on the run's graph and compressor",
        aliases=("--choco_consenus_stepsize",),
        minimum=0,
        irrelevant=_only_if_law_takes("consensus_stepsize"),
    )
    overlap: bool = flag(
        True,
        "exchange while the next gradient is computed; the same numbers come out",
        irrelevant=_only_if_law_takes("overlap"),
    )


@dataclass(frozen=True)
class Watch:
    """Watching, evaluating, keeping"""

    evaluate: bool = flag(False, "evaluate a checkpoint", aliases=("-e",), built=False)
    eval_freq: int = flag(1, "epochs between evaluations", minimum=1, irrelevant=_evaluating)
    evaluate_avg: bool = flag(False, "evaluate the averaged model as well", irrelevant=_evaluating)
    evaluate_consensus: bool = flag(
        False, "measure the consensus distance at each evaluation", irrelevant=_evaluating
    )
    train_fast: bool = flag(False, "no evaluation before the end")
    track_time: bool = flag(True, "measure the parts of a step")
    track_detailed_time: bool = flag(False, "also per tensor", built=False)
    display_tracked_time: bool = flag(
        False, "print the parts of a step", irrelevant=_only_if("track_time", True)
    )
    summary_freq: int = flag(100, "steps between two records of the training loss", minimum=1)
    checkpoint: str = flag("./data/checkpoint", "where runs are kept", aliases=("-c",))
    experiment: str = flag("demo", "name of the experiment")
    timestamp: str | None = flag(None, "name of the run; none: the time of its start")
    resume: str | None = flag(None, "run to resume", built=False)
    checkpoint_index: str | None = flag(None, "", irrelevant=_only_if("resume"))
    save_all_models: bool = flag(False, "keep every checkpoint", built=False)
    save_some_models: str | None = flag(None, "epochs to keep", built=False)


@dataclass(frozen=True)
class Config:
    """A whole configuration, in groups. Immutable; `dataclasses.replace` makes another."""

    launch: Launch = field(default_factory=Launch)
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    learning: Learning = field(default_factory=Learning)
    graph: Graph = field(default_factory=Graph)
    watch: Watch = field(default_factory=Watch)

    def flat(self) -> dict[str, Any]:
        """Flag name -> value, over all groups."""
        return {name: value for group in vars(self).values() for name, value in vars(group).items()}
