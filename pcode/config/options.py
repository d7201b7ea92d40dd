"""Every run-wide flag: fields of frozen dataclasses, one dataclass for each section of `--help`.

What only an optimizer, compressor, graph, model, data set or scheme takes, it declares itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import not_
from typing import Any

from pcode import compression, datasets, models, optim, schedules
from pcode.config.launch_options import Launch, not_needed
from pcode.datasets import partition
from pcode.topology import TOPOLOGIES, written
from pcode.utils.options import needs, option, taken_by

# --resume auto
AUTO = "auto"
# --partition_data whose parameter is a flag
NON_IID = "non_iid_dirichlet"
Flags = Mapping[str, Any]
# Where a run lies, who made it, what it shows: runs are not compared by that.
_aside = partial(option, compared=False)


_of_language = needs("arch", holds=lambda name: models.task_of(name) == "language")
_drawing_shares = needs("partition_data", holds=lambda name: partition.partition_scheme(name).drawn)


def _clipping_words(flags: Flags) -> str | None:
    if flags["clip_grad"]:
        return "--clip_grad_val is what the gradient is clipped to"
    return _of_language(flags)


def data_dir_unread(flags: Flags) -> str | None:
    """Return the reason why the folder matters neither for the data set nor for word vectors."""
    if flags["rnn_use_pretrained_emb"] and _of_language(flags) is None:
        return None
    taken = taken_by(datasets.loader(flags["data"]), flags)
    return needs("data", holds=lambda name: "data_dir" in taken)(flags)


def _several_local_steps(flags: Flags) -> str | None:
    if flags["local_step"] == 1:
        return "--local_step is 1"
    by_epochs, num_epochs = flags["stop_criteria"] == "epoch", flags["num_epochs"]
    if by_epochs and flags["turn_on_local_step_from"] >= num_epochs:
        return f"training ends after --num_epochs {num_epochs}"
    return None


_scaled = needs("lr_scaleup")
_scaling_up = needs("lr_scaleup", "without --lr_scaleup True there is no larger rate to warm up to")
_evaluating = needs(
    "train_fast", "--train_fast True evaluates at the end only, and then all of it", not_
)
_checkpointing = needs(
    "train_fast", "--train_fast True keeps the checkpoint at the end alone", not_
)


def _without_compression(flags: Flags) -> str | None:
    name = flags["optimizer"]
    if optim.OPTIMIZERS[name].compresses:
        return None
    return f"--optimizer {name} takes no compressor"


def _saving_models(flags: Flags) -> str | None:
    if flags["save_all_models"]:
        return "--save_all_models True keeps all"
    epochs, num_epochs = flags["save_some_models"] or (), flags["num_epochs"]
    if flags["stop_criteria"] == "epoch" and min(epochs, default=0) > num_epochs:
        return f"training ends after --num_epochs {num_epochs}"
    return None


@dataclass(frozen=True)
class Data:
    """Data"""

    data: str = option(
        "digits",
        f"data set, one of {', '.join(datasets.DATASETS)}; "
        "synthetic:SHAPE:CLASSES:SIZE, synthetic:text:VOCABULARY:WORDS",
        "NAME",
    )
    data_dir: str = _aside(
        "./data", "where data sets lie", "DIR", irrelevant=data_dir_unread, decides=False
    )
    partition_data: str = option(
        "random",
        f"how the training data is shared among nodes: {', '.join(partition.SCHEMES)}; "
        "dirichlet:ALPHA:MINIMUM, classes:K",
        "NAME",
    )
    non_iid_alpha: float = option(
        1.0,
        "concentration of non_iid_dirichlet: the smaller, the more unequal",
        above=0,
        irrelevant=needs("partition_data", holds=lambda name: name == NON_IID),
    )
    reshuffle_per_epoch: bool = option(
        False, "partition anew after every epoch", irrelevant=_drawing_shares
    )
    batch_size: int = option(
        32, "mini-batch of one node, whose processes share it", aliases=("-b",), minimum=1
    )
    base_batch_size: int | None = option(
        None, "batch size that --lr is meant for; none: batch_size", minimum=1, irrelevant=_scaled
    )

    @property
    def dealing(self) -> str:
        """The scheme with its parameters."""
        is_bare = self.partition_data == NON_IID
        return f"{NON_IID}:{self.non_iid_alpha}" if is_bare else self.partition_data


@dataclass(frozen=True)
class Model:
    """Model"""

    arch: str = option(
        "resnet20", f"architecture, one of {', '.join(models.NAMES)}", "NAME", aliases=("-a",)
    )
    rnn_clip: float = option(
        0.25,
        "norm to which a language model's gradient is clipped; 0: none",
        "NORM",
        minimum=0,
        irrelevant=_clipping_words,
    )
    rnn_use_pretrained_emb: bool = option(
        False,
        "start from the vectors of a file in DATA_DIR, *.Nd.txt, *.txt or *.vec, N = rnn_n_hidden",
        irrelevant=_of_language,
    )


@dataclass(frozen=True)
class Learning:
    """Learning"""

    optimizer: str = option(
        "parallel_choco",
        "how nodes step and mix",
        "NAME",
        choices=optim.OPTIMIZERS,
        synonyms=optim.ALIASES,
    )
    local_optimizer: str = option("sgd", "the local step", "NAME", choices=optim.LOCAL_OPTIMIZERS)
    weight_decay: float = option(
        1e-4, "L2 penalty; none on normalisation parameters", "DECAY", minimum=0
    )
    lr_schedule_scheme: str = option(
        "constant",
        "how the learning rate changes, by the fractional epoch at every step",
        "NAME",
        aliases=("--lr_scheduler",),
        choices=schedules.SCHEMES,
        synonyms=schedules.ALIASES,
    )
    lr_scaleup: bool = option(
        False, "multiply the rates by batch_size / base_batch_size and lr_scaleup_factor"
    )
    lr_scaleup_type: str = option(
        "linear",
        "multiply by it, or by its square root",
        choices=("linear", "sqrt"),
        irrelevant=_scaled,
    )
    lr_scaleup_factor: str = option(
        "graph", "graph: neighbours and self; world: nodes; or a number", irrelevant=_scaled
    )
    lr_warmup: bool = option(
        False,
        "begin without scale-up and reach it linearly; the scheme keeps its course meanwhile",
        irrelevant=_scaling_up,
    )
    lr_warmup_epochs: float = option(
        5,
        "epochs of warm-up",
        "EPOCHS",
        minimum=0,
        irrelevant=lambda flags: needs("lr_warmup")(flags) or _scaling_up(flags),
    )
    num_epochs: int = option(
        5,
        "epochs to train",
        minimum=1,
        irrelevant=needs("stop_criteria", holds="epoch".__eq__),
        decides=False,
    )
    num_iterations: int = option(
        32000,
        "steps in all, shared by the nodes",
        minimum=1,
        irrelevant=needs("stop_criteria", holds="iteration".__eq__),
        decides=False,
    )
    stop_criteria: str = option("epoch", "what ends a run", choices=("epoch", "iteration"))
    clip_grad: bool = option(False, "clip the gradient (dgc: of each tensor) to clip_grad_val")
    clip_grad_val: float | None = option(
        None, "norm to clip to", "NORM", minimum=0, irrelevant=needs("clip_grad")
    )
    amp: str | None = option(
        None,
        "compute forward and backward in part with so many bits (torch.autocast)",
        "TYPE",
        choices=(None, "bf16", "fp16"),
    )
    compile: bool = option(False, "compile the model with torch.compile")
    local_step: int = option(1, "local steps from one exchange to the next", minimum=1)
    turn_on_local_step_from: int = option(
        0, "first epoch with --local_step", minimum=0, irrelevant=_several_local_steps
    )
    avg_model: bool = option(False, "average the nodes' models when training ends", decides=False)
    manual_seed: int = _aside(6, "the one seed of the run", "SEED", minimum=0)


@dataclass(frozen=True)
class Graph:
    """Graph and compression"""

    graph_topology: str = option(
        "ring", f"the file of a graph, or one of {', '.join(map(written, TOPOLOGIES))}", "NAME"
    )
    drop_messages: float = option(
        0.0, "probability with which each message is lost, on purpose", "P", minimum=0, below=1
    )
    comm_op: str = option(
        "sign",
        "compressor",
        "NAME",
        choices=compression.COMPRESSORS,
        irrelevant=_without_compression,
    )
    comm_algo: str | None = option(
        None, "accepted; the graph says who sends", irrelevant=not_needed
    )


@dataclass(frozen=True)
class Watch:
    """Watching, evaluating, saving"""

    evaluate: bool = option(
        False, "evaluate the models of the run --resume, without training", aliases=("-e",)
    )
    eval_freq: int = option(1, "epochs between evaluations", minimum=1, irrelevant=_evaluating)
    evaluate_avg: bool = option(
        False, "evaluate the averaged model as well", irrelevant=_evaluating
    )
    evaluate_consensus: bool = option(
        False, "measure the consensus distance at each evaluation", irrelevant=_evaluating
    )
    train_fast: bool = option(False, "no evaluation before the end")
    track_time: bool = option(True, "measure the parts of a step")
    track_detailed_time: bool = option(
        False, "record the parts of every step, not their means alone"
    )
    display_tracked_time: bool = _aside(
        False, "print the parts of a step", irrelevant=needs("track_time")
    )
    summary_freq: int = _aside(100, "steps between two records of the training loss", minimum=1)
    checkpoint: str = _aside("./data/checkpoint", "where runs are saved", "DIR", aliases=("-c",))
    experiment: str = option("demo", "name of the experiment", "NAME")
    timestamp: str | None = _aside(None, "name of the run; none: the time of its start", "NAME")
    resume: str | None = _aside(
        None,
        "folder of a run that goes on, or whose models --evaluate True reads; auto: the last one "
        "of the experiment with these flags that has not ended, if there is one",
        "DIR",
    )
    checkpoint_index: int | None = _aside(
        None,
        "the epoch after which to resume or evaluate; none: the last one",
        "EPOCH",
        minimum=1,
        irrelevant=needs("resume", "it has no effect without --resume"),
    )
    checkpoint_minutes: float | None = option(
        None,
        "minutes between two checkpoints; none: one after every epoch",
        "MINUTES",
        minimum=0,
        irrelevant=_checkpointing,
    )
    keep_checkpoints: int = option(
        2, "how many of the last checkpoints are retained", minimum=1, irrelevant=_checkpointing
    )
    save_all_models: bool = _aside(False, "retain models and checkpoints of every epoch")
    save_some_models: tuple[int, ...] | None = _aside(
        None,
        "epochs after which models and checkpoints are retained",
        "EPOCH",
        minimum=1,
        irrelevant=_saving_models,
    )

    def saves_model_after(self, epoch: int) -> bool:
        """Return whether the models are saved after that many epochs."""
        return self.save_all_models or epoch in (self.save_some_models or ())


@dataclass(frozen=True)
class Config:
    """A whole configuration, in groups. Immutable; `dataclasses.replace` makes another.

    Attributes:
        options: the values of the flags that components declare (see parser.py), by name.
    """

    launch: Launch = field(default_factory=Launch)
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    learning: Learning = field(default_factory=Learning)
    graph: Graph = field(default_factory=Graph)
    watch: Watch = field(default_factory=Watch)
    options: Mapping[str, Any] = field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """Return the values of all flags, by name."""
        groups = [vars(group) for name, group in vars(self).items() if name != "options"]
        return {name: value for group in (*groups, self.options) for name, value in group.items()}
