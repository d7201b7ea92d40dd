"""Why a flag cannot matter in a configuration: a function of the configuration for each reason.

Each gives one line, or None where the flag matters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from pcode import compression, datasets, models, optim, schedules
from pcode.config.fields import Reason
from pcode.datasets import partition

if TYPE_CHECKING:
    from pcode.config.options import Config


def only_if(name: str, *values: Any) -> Reason:
    """The flag matters only where the flag `name` has one of `values`."""

    def reason(config: Config) -> str | None:
        value = config.flat()[name]
        if value in values:
            return None
        return f"it has no effect with --{name} {value}"

    return reason


def optimizer(config: Config) -> type[optim.DecentralizedOptimizer]:
    """The optimizer, as on a graph that is not complete."""
    return optim.OPTIMIZERS[config.learning.optimizer][1]


def _only_if_taken(name: str, flag: str, taken: Callable[[Config], tuple[str, ...]]) -> Reason:
    """The flag matters only where what the flag `flag` names takes it; `taken` are all it takes."""

    def reason(config: Config) -> str | None:
        if name in taken(config):
            return None
        return f"it has no effect with --{flag} {config.flat()[flag]}"

    return reason


def only_if_optimizer_takes(name: str) -> Reason:
    return _only_if_taken(name, "optimizer", lambda config: optimizer(config).flags)


def only_if_model_takes(name: str) -> Reason:
    return _only_if_taken(name, "arch", lambda config: models.architecture(config.model.arch).flags)


def only_if_source_takes(name: str) -> Reason:
    return _only_if_taken(name, "data", lambda config: datasets.data_source(config.data.data).flags)


def only_if_scheme_takes(name: str) -> Reason:
    return _only_if_taken(
        name,
        "lr_schedule_scheme",
        lambda config: schedules.SCHEMES[config.learning.lr_schedule_scheme].flags,
    )


def only_if_compressor_takes(name: str) -> Reason:
    not_taken = _only_if_taken(
        name, "comm_op", lambda config: compression.COMPRESSORS[config.graph.comm_op].flags
    )
    return lambda config: not_taken(config) or compressing_optimizer(config)


def compressing_optimizer(config: Config) -> str | None:
    if optimizer(config).compresses:
        return None
    return f"--optimizer {config.learning.optimizer} sends the parameters or gradients themselves"


def mpi_launch(config: Config) -> str | None:
    if config.launch.backend == "sim":
        return "--backend sim runs all nodes in this process"
    if config.launch.num_processes == 1:
        return "one node runs in this process"
    return None


def several_local_steps(config: Config) -> str | None:
    learning = config.learning
    if learning.local_step == 1:
        return "--local_step is 1"
    if (
        learning.stop_criteria == "epoch"
        and learning.turn_on_local_step_from >= learning.num_epochs
    ):
        return f"training ends after --num_epochs {learning.num_epochs}"
    return None


def masking(config: Config) -> str | None:
    if config.learning.momentum_factor == 0:
        return "there is no momentum with --momentum_factor 0"
    return only_if_optimizer_takes("mask_momentum")(config)


def warming_up(config: Config) -> str | None:
    if config.graph.compress_warmup_epochs == 0:
        return "there is no warm-up with --compress_warmup_epochs 0"
    return only_if_optimizer_takes("compress_warmup_values")(config)


def biasing(config: Config) -> str | None:
    if config.graph.comm_op == "quantize_qsgd" and config.graph.quantize_level == 32:
        return "--quantize_level 32 keeps all bits"
    return only_if_compressor_takes("is_biased")(config)


def not_needed(config: Config) -> str:
    return "it is not needed any more"


def uses_gpus(config: Config) -> bool:
    """Whether nodes train on GPUs, or may: other hosts are not known."""
    launch = config.launch
    if launch.on_cuda is not None:
        return launch.on_cuda
    return launch.hostfile is not None or torch.cuda.is_available()


def without_gpus(config: Config) -> str | None:
    return None if uses_gpus(config) else "no node uses a GPU"


def without_cuda_messages(config: Config) -> str | None:
    if uses_gpus(config) and config.launch.comm_device == "cpu":
        return "messages are exchanged in host memory with --comm_device cpu"
    return without_gpus(config)


def simulated(config: Config) -> str | None:
    return "simulated nodes need no time limit" if config.launch.backend == "sim" else None


def evaluating(config: Config) -> str | None:
    if config.watch.train_fast:
        return "--train_fast True evaluates at the end only, and then all of it"
    return None


def checkpointing(config: Config) -> str | None:
    if config.watch.train_fast:
        return "--train_fast True keeps the checkpoint at the end alone"
    return None


def resuming(config: Config) -> str | None:
    if config.watch.resume is None:
        return "it has no effect without --resume"
    return None


def drawing_shares(config: Config) -> str | None:
    name = config.data.partition_data
    if partition.partition_scheme(name).drawn:
        return None
    return f"it has no effect with --partition_data {name}"


def saving_models(config: Config) -> str | None:
    if config.watch.save_all_models:
        return "--save_all_models True keeps all"
    learning, epochs = config.learning, config.watch.save_some_models or ()
    if learning.stop_criteria == "epoch" and min(epochs, default=0) > learning.num_epochs:
        return f"training ends after --num_epochs {learning.num_epochs}"
    return None


def data_dir_read(config: Config) -> str | None:
    """The folder matters for the data set, and for pretrained vectors."""
    reads_vectors = only_if_model_takes("rnn_n_hidden")(config) is None
    if config.model.rnn_use_pretrained_emb and reads_vectors:
        return None
    return only_if_source_takes("data_dir")(config)


def compressing_densenet(config: Config) -> str | None:
    if not config.model.densenet_bc_mode:
        return "it has no effect without --densenet_bc_mode True"
    return only_if_model_takes("densenet_compression")(config)


def clipping_words(config: Config) -> str | None:
    if config.learning.clip_grad:
        return "--clip_grad_val is what the gradient is clipped to"
    return only_if_model_takes("rnn_n_hidden")(config)


def decaying(config: Config) -> str | None:
    learning = config.learning
    indicators = learning.lr_scale_indicators
    if learning.lr_schedule_scheme == "strict" and indicators is not None and 2 not in indicators:
        return "none of --lr_scale_indicators is 2, convex decay"
    return only_if_scheme_takes("lr_gamma")(config)


def scaling_up(config: Config) -> str | None:
    if config.learning.lr_scaleup:
        return None
    return "without --lr_scaleup True there is no larger rate to warm up to"


def rate_warming_up(config: Config) -> str | None:
    if not config.learning.lr_warmup:
        return "it has no effect with --lr_warmup False"
    return scaling_up(config)
