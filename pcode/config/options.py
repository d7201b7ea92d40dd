"""Every flag of a run: frozen dataclasses, from which the parser is made.

A field's name is the flag's name; its type, default and `flag(...)` are all the parser knows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pcode import compression, datasets, models, optim, schedules
from pcode.config.fields import flag
from pcode.config.reasons import (
    biasing,
    checkpointing,
    clipping_words,
    compressing_densenet,
    compressing_optimizer,
    data_dir_read,
    decaying,
    drawing_shares,
    evaluating,
    masking,
    mpi_launch,
    not_needed,
    only_if,
    only_if_compressor_takes,
    only_if_model_takes,
    only_if_optimizer_takes,
    only_if_scheme_takes,
    only_if_source_takes,
    rate_warming_up,
    resuming,
    saving_models,
    scaling_up,
    several_local_steps,
    simulated,
    warming_up,
    without_cuda_messages,
    without_gpus,
)
from pcode.datasets import partition
from pcode.topology import DRAWN, TOPOLOGIES
from pcode.training import precision

# --resume auto
AUTO = "auto"
MOST_PROCESSES = 4096


@dataclass(frozen=True)
class Launch:
    """Launch and devices"""

    n_mpi_process: int = flag(2, "number of nodes", minimum=1, maximum=MOST_PROCESSES)
    n_sub_process: int = flag(
        1,
        "GPUs of each node (processes on the CPU): they share its batches, average their gradients",
        minimum=1,
        maximum=MOST_PROCESSES,
    )
    world: tuple[int, ...] = flag(
        (0,),
        "GPU id of every GPU of the run, node after node; repeated cyclically when short",
        minimum=0,
        irrelevant=without_gpus,
    )
    hostfile: str | None = flag(
        None, "file of `HOST slots=N` lines; none: this machine", irrelevant=mpi_launch
    )
    backend: str = flag(
        "mpi",
        "how nodes talk; sim: all nodes in this process",
        choices=("mpi", "nccl", "gloo", "sim"),
    )
    python_path: str | None = flag(
        None, "interpreter on the hosts; none: this one", irrelevant=mpi_launch
    )
    mpi_path: str | None = flag(
        None, "prefix of the MPI installation; none: the installed one", irrelevant=mpi_launch
    )
    mpi_env: str | None = flag(
        None, "variables handed to the ranks: A=1,B=2", irrelevant=mpi_launch
    )
    work_dir: str | None = flag(
        None, "working directory on the hosts; none: this one", irrelevant=mpi_launch
    )
    use_ipc: bool = flag(
        False, "CUDA IPC in the MPI's shared-memory transport", irrelevant=without_cuda_messages
    )
    on_cuda: bool | None = flag(None, "train on GPUs; auto: where there is one")
    comm_device: str | None = flag(
        None,
        "where messages are exchanged; none: where the model is",
        choices=(None, "cpu", "cuda"),
        irrelevant=without_gpus,
    )
    num_threads: int | None = flag(
        None,
        "CPU threads of a process; none: cores / processes on this machine",
        minimum=1,
        maximum=4096,
    )
    time_limit_seconds: float = flag(
        300.0,
        "a message that takes longer ends the run with an error",
        minimum=0.001,
        maximum=1e7,
        irrelevant=simulated,
    )
    max_restarts: int = flag(
        0,
        "after a failure, start again from the last checkpoint, so many times",
        minimum=0,
        irrelevant=mpi_launch,
    )
    on_failure: str = flag(
        "stop",
        "continue: go on without nodes that died (mpi); a node whose numbers are not finite takes "
        "the others' model (mpi, sim)",
        choices=("stop", "continue"),
    )
    num_workers: int = flag(
        2,
        "data loading processes",
        aliases=("-j",),
        minimum=0,
        irrelevant=only_if_source_takes("num_workers"),
    )
    pin_memory: bool = flag(
        True, "page-locked memory for batches", irrelevant=only_if_source_takes("pin_memory")
    )
    local_rank: int | None = flag(None, "accepted; nodes find their rank", irrelevant=not_needed)
    remote_exec: bool = flag(False, "accepted; a hostfile says where", irrelevant=not_needed)
    clean_python: bool = flag(False, "accepted; no process is left", irrelevant=not_needed)
    user: str | None = flag(None, "a label of the run")
    project: str | None = flag(None, "a label of the run")

    @property
    def num_processes(self) -> int:
        """Ranks of the run, node after node."""
        return self.n_mpi_process * self.n_sub_process


@dataclass(frozen=True)
class Data:
    """Data"""

    data: str = flag(
        "digits",
        f"data set, one of {', '.join(datasets.DATASETS)}; "
        "synthetic:SHAPE:CLASSES:SIZE, synthetic:text:VOCABULARY:WORDS",
    )
    data_dir: str = flag("./data", "where data sets are kept", irrelevant=data_dir_read)
    download: bool = flag(
        False,
        "fetch the data set where it is not there yet",
        irrelevant=only_if_source_takes("download"),
    )
    use_lmdb_data: bool = flag(
        False, "ImageNet from LMDB", irrelevant=only_if_source_takes("use_lmdb_data")
    )
    partition_data: str = flag(
        "random",
        f"how the training data is shared among nodes: {', '.join(partition.SCHEMES)}; "
        "dirichlet:ALPHA:MINIMUM",
    )
    reshuffle_per_epoch: bool = flag(
        False,
        "partition anew after every epoch",
        irrelevant=drawing_shares,
    )
    batch_size: int = flag(
        32, "mini-batch of one node, whose processes share it", aliases=("-b",), minimum=1
    )
    base_batch_size: int | None = flag(
        None,
        "batch size that --lr is meant for; none: batch_size",
        minimum=1,
        irrelevant=only_if("lr_scaleup", True),
    )


@dataclass(frozen=True)
class Model:
    """Model"""

    arch: str = flag("resnet20", f"architecture, one of {', '.join(models.NAMES)}", aliases=("-a",))
    densenet_growth_rate: int = flag(
        12,
        "channels that a layer adds",
        minimum=1,
        maximum=65536,
        irrelevant=only_if_model_takes("densenet_growth_rate"),
    )
    densenet_bc_mode: bool = flag(
        False,
        "bottleneck layers, and fewer channels after each block",
        irrelevant=only_if_model_takes("densenet_bc_mode"),
    )
    densenet_compression: float = flag(
        0.5,
        "share of the channels that remains after a block, with densenet_bc_mode",
        irrelevant=compressing_densenet,
    )
    wideresnet_widen_factor: int = flag(
        4,
        "how many times wider than 16, 32, 64 channels",
        minimum=1,
        maximum=4096,
        irrelevant=only_if_model_takes("wideresnet_widen_factor"),
    )
    mlp_num_layers: int = flag(
        2,
        "linear layers, with the classifier",
        minimum=1,
        maximum=1000,
        irrelevant=only_if_model_takes("mlp_num_layers"),
    )
    mlp_hidden_size: int = flag(
        128,
        "units of a hidden layer",
        minimum=1,
        maximum=65536,
        irrelevant=only_if_model_takes("mlp_hidden_size"),
    )
    drop_rate: float = flag(
        0.0, "dropout probability", minimum=0, irrelevant=only_if_model_takes("drop_rate")
    )
    rnn_n_hidden: int = flag(
        200,
        "units of an LSTM layer, and numbers that stand for a word",
        minimum=1,
        maximum=65536,
        irrelevant=only_if_model_takes("rnn_n_hidden"),
    )
    rnn_n_layers: int = flag(
        2,
        "LSTM layers",
        minimum=1,
        maximum=1000,
        irrelevant=only_if_model_takes("rnn_n_layers"),
    )
    rnn_bptt_len: int = flag(
        35,
        "words through which a gradient goes back",
        minimum=1,
        irrelevant=only_if_source_takes("rnn_bptt_len"),
    )
    rnn_clip: float = flag(
        0.25,
        "norm to which a language model's gradient is clipped; 0: none",
        minimum=0,
        irrelevant=clipping_words,
    )
    rnn_use_pretrained_emb: bool = flag(
        False,
        "start from the vectors of the file DATA_DIR/*.Nd.txt, N = rnn_n_hidden (GloVe's format)",
        irrelevant=only_if_model_takes("rnn_n_hidden"),
    )
    rnn_tie_weights: bool = flag(
        True,
        "one matrix for words that come in and words that go out",
        irrelevant=only_if_model_takes("rnn_tie_weights"),
    )
    rnn_weight_norm: bool = flag(
        False,
        "weight normalisation of the hidden-to-hidden matrices",
        irrelevant=only_if_model_takes("rnn_weight_norm"),
    )


@dataclass(frozen=True)
class Learning:
    """Learning"""

    optimizer: str = flag(
        "parallel_choco",
        "the optimizer: how nodes step and mix",
        choices=optim.OPTIMIZERS,
    )
    local_optimizer: str = flag("sgd", "the local step", choices=("sgd", "adam"))
    lr: float = flag(
        0.1,
        "learning rate, before scale-up; that at the beginning where it changes",
        minimum=0,
        irrelevant=only_if_scheme_takes("lr"),
    )
    momentum_factor: float = flag(
        0.9,
        "momentum of the local step",
        minimum=0,
        maximum=1,
        irrelevant=only_if("local_optimizer", "sgd"),
    )
    use_nesterov: bool = flag(
        False, "Nesterov momentum", irrelevant=only_if("local_optimizer", "sgd")
    )
    weight_decay: float = flag(1e-4, "L2 penalty; none on normalisation parameters", minimum=0)
    adam_beta_1: float = flag(
        0.9, "decay of Adam's first moment", irrelevant=only_if("local_optimizer", "adam")
    )
    adam_beta_2: float = flag(
        0.999, "decay of Adam's second moment", irrelevant=only_if("local_optimizer", "adam")
    )
    adam_eps: float = flag(
        1e-8, "added to Adam's denominator", irrelevant=only_if("local_optimizer", "adam")
    )
    local_adam_memory_treatment: str | None = flag(
        None,
        "Adam's moments at an exchange: none keeps them, reset starts them again",
        choices=optim.MEMORY_TREATMENTS,
        irrelevant=only_if("local_optimizer", "adam"),
    )
    lr_schedule_scheme: str = flag(
        "constant",
        "how the learning rate changes, by the fractional epoch at every step",
        aliases=("--lr_scheduler",),
        choices=schedules.SCHEMES,
    )
    lr_change_epochs: tuple[float, ...] | None = flag(
        None,
        "epochs at which it changes; strict: where a phase ends and the next begins",
        aliases=("--lr_milestones",),
        minimum=0,
        irrelevant=only_if_scheme_takes("lr_change_epochs"),
    )
    lr_fields: str | None = flag(
        None,
        "strict: rates at the beginning and the end of each phase, before scale-up: a,b/c,d",
        irrelevant=only_if_scheme_takes("lr_fields"),
    )
    lr_scale_indicators: tuple[int, ...] | None = flag(
        None,
        "strict: how each phase changes: 0 linear, 1 polynomial (power 2), 2 convex decay",
        irrelevant=only_if_scheme_takes("lr_scale_indicators"),
    )
    lr_decay: float = flag(
        10.0,
        "divide the rate by this at each change (a value below 1 multiplies)",
        irrelevant=only_if_scheme_takes("lr_decay"),
    )
    lr_gamma: float | None = flag(
        None,
        "convex decay: the rate before scale-up is lr_gamma / (lr_mu (lr_alpha + epochs))",
        irrelevant=decaying,
    )
    lr_mu: float | None = flag(
        None, "convex decay: divides the rate, as strong convexity does", irrelevant=decaying
    )
    lr_alpha: float | None = flag(
        None, "convex decay: epochs to add to those since training began", irrelevant=decaying
    )
    lr_onecycle_low: float = flag(
        0.15,
        "one cycle: rate at its beginning and its end, before scale-up",
        minimum=0,
        irrelevant=only_if_scheme_takes("lr_onecycle_low"),
    )
    lr_onecycle_high: float = flag(
        3.0,
        "one cycle: rate at its middle, before scale-up",
        minimum=0,
        irrelevant=only_if_scheme_takes("lr_onecycle_high"),
    )
    lr_onecycle_extra_low: float = flag(
        0.0015,
        "one cycle: rate at the end of training, before scale-up",
        minimum=0,
        irrelevant=only_if_scheme_takes("lr_onecycle_extra_low"),
    )
    lr_onecycle_num_epoch: float = flag(
        46,
        "one cycle: its length in epochs; the rest of training goes from low to extra low",
        irrelevant=only_if_scheme_takes("lr_onecycle_num_epoch"),
    )
    lr_scaleup: bool = flag(
        False, "multiply the rates by batch_size / base_batch_size and lr_scaleup_factor"
    )
    lr_scaleup_type: str = flag(
        "linear",
        "multiply by it, or by its square root",
        choices=("linear", "sqrt"),
        irrelevant=only_if("lr_scaleup", True),
    )
    lr_scaleup_factor: str = flag(
        "graph",
        "graph: neighbours and self; world: nodes; or a number",
        irrelevant=only_if("lr_scaleup", True),
    )
    lr_warmup: bool = flag(
        False,
        "begin without scale-up and reach it linearly; the scheme keeps its course meanwhile",
        irrelevant=scaling_up,
    )
    lr_warmup_epochs: float = flag(5, "epochs of warm-up", minimum=0, irrelevant=rate_warming_up)
    num_epochs: int = flag(
        5, "epochs to train", minimum=1, irrelevant=only_if("stop_criteria", "epoch")
    )
    num_iterations: int = flag(
        32000,
        "steps in all, shared by the nodes",
        minimum=1,
        irrelevant=only_if("stop_criteria", "iteration"),
    )
    stop_criteria: str = flag("epoch", "what ends a run", choices=("epoch", "iteration"))
    clip_grad: bool = flag(False, "clip the gradient (dgc: of each tensor) to clip_grad_val")
    clip_grad_val: float | None = flag(
        None, "norm to clip to", minimum=0, irrelevant=only_if("clip_grad", True)
    )
    amp: str | None = flag(
        None,
        "compute forward and backward in part with so many bits (torch.autocast)",
        choices=(None, *precision.DTYPES),
    )
    compile: bool = flag(False, "compile the model with torch.compile")
    local_step: int = flag(1, "local steps from one exchange to the next", minimum=1)
    turn_on_local_step_from: int = flag(
        0, "first epoch with --local_step", minimum=0, irrelevant=several_local_steps
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
        irrelevant=compressing_optimizer,
    )
    compress_ratio: float = flag(
        0.9, "share that is dropped", irrelevant=only_if_compressor_takes("compress_ratio")
    )
    quantize_level: int = flag(
        8, "bits of a magnitude", irrelevant=only_if_compressor_takes("quantize_level")
    )
    is_biased: bool = flag(
        True,
        "biased form of the compressor",
        irrelevant=biasing,
    )
    majority_vote: bool = flag(
        False,
        "ef_sign_sgd: step by the sign of the nodes' votes",
        irrelevant=only_if_optimizer_takes("majority_vote"),
    )
    mask_momentum: bool = flag(
        False,
        "dgc: no momentum left where a coordinate was sent",
        irrelevant=masking,
    )
    comm_algo: str | None = flag(None, "accepted; the graph says who sends", irrelevant=not_needed)
    compress_warmup_values: tuple[float, ...] = flag(
        (0.75, 0.9375, 0.984375, 0.996, 0.999),
        "dgc: share that is dropped in each epoch of the warm-up",
        minimum=0,
        irrelevant=warming_up,
    )
    compress_warmup_epochs: int = flag(
        0,
        "dgc: epochs of the warm-up",
        minimum=0,
        irrelevant=only_if_optimizer_takes("compress_warmup_epochs"),
    )
    consensus_stepsize: float | Literal["auto"] | None = flag(
        None,
        "gamma; none: by compressor; auto: by a short search on the run's graph and compressor",
        aliases=("--choco_consenus_stepsize",),
        minimum=0,
        irrelevant=only_if_optimizer_takes("consensus_stepsize"),
    )
    overlap: bool = flag(
        True,
        "exchange while the next gradient is computed; the same numbers come out",
        irrelevant=only_if_optimizer_takes("overlap"),
    )


@dataclass(frozen=True)
class Watch:
    """Watching, evaluating, keeping"""

    evaluate: bool = flag(
        False, "evaluate the models of the run --resume, without training", aliases=("-e",)
    )
    eval_freq: int = flag(1, "epochs between evaluations", minimum=1, irrelevant=evaluating)
    evaluate_avg: bool = flag(False, "evaluate the averaged model as well", irrelevant=evaluating)
    evaluate_consensus: bool = flag(
        False, "measure the consensus distance at each evaluation", irrelevant=evaluating
    )
    train_fast: bool = flag(False, "no evaluation before the end")
    track_time: bool = flag(True, "measure the parts of a step")
    track_detailed_time: bool = flag(False, "record the parts of every step, not their means alone")
    display_tracked_time: bool = flag(
        False, "print the parts of a step", irrelevant=only_if("track_time", True)
    )
    summary_freq: int = flag(100, "steps between two records of the training loss", minimum=1)
    checkpoint: str = flag("./data/checkpoint", "where runs are kept", aliases=("-c",))
    experiment: str = flag("demo", "name of the experiment")
    timestamp: str | None = flag(None, "name of the run; none: the time of its start")
    resume: str | None = flag(
        None,
        "folder of a run that goes on, or whose models --evaluate True reads; auto: the last one "
        "of the experiment with these flags that has not ended, if there is one",
    )
    checkpoint_index: int | None = flag(
        None,
        "the epoch after which to resume or evaluate; none: the last one kept",
        minimum=1,
        irrelevant=resuming,
    )
    checkpoint_minutes: float | None = flag(
        None,
        "minutes between two checkpoints; none: one after every epoch",
        minimum=0,
        irrelevant=checkpointing,
    )
    keep_checkpoints: int = flag(
        2, "how many of the last checkpoints are kept", minimum=1, irrelevant=checkpointing
    )
    save_all_models: bool = flag(False, "keep models and checkpoints of every epoch")
    save_some_models: tuple[int, ...] | None = flag(
        None,
        "epochs after which models and checkpoints are kept",
        minimum=1,
        irrelevant=saving_models,
    )

    def saves_model_after(self, epoch: int) -> bool:
        """Whether the models are kept after that many epochs."""
        return self.save_all_models or epoch in (self.save_some_models or ())


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
