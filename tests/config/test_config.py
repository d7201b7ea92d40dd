"""Flags: the whole set is accepted, bad ones are one line, files and command line combine."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pcode.config import config_of_run, make_config, parse, to_yaml
from pcode.utils.errors import UserError

# The published flag set, with its defaults.
DEFAULTS: dict[str, Any] = {
    **{"n_mpi_process": 2, "n_sub_process": 1, "world": (0,), "hostfile": None, "backend": "mpi"},
    **{"python_path": None, "mpi_path": None, "mpi_env": None, "work_dir": None},
    **{"use_ipc": False, "on_cuda": None, "comm_device": None, "local_rank": None},
    **{"remote_exec": False, "clean_python": False, "user": None, "project": None},
    **{"num_workers": 2, "pin_memory": True, "data": "digits", "data_dir": "./data"},
    **{"use_lmdb_data": False, "partition_data": "random", "reshuffle_per_epoch": False},
    **{"batch_size": 32, "base_batch_size": None, "arch": "resnet20"},
    **{"densenet_growth_rate": 12, "densenet_bc_mode": False, "densenet_compression": 0.5},
    **{"wideresnet_widen_factor": 4, "mlp_num_layers": 2, "mlp_hidden_size": 128},
    **{"drop_rate": 0.0, "rnn_n_hidden": 200, "rnn_n_layers": 2, "rnn_bptt_len": 35},
    **{"rnn_clip": 0.25, "rnn_use_pretrained_emb": False, "rnn_tie_weights": True},
    **{"rnn_weight_norm": False, "optimizer": "parallel_choco", "lr": 0.1},
    **{"momentum_factor": 0.9, "use_nesterov": False, "weight_decay": 1e-4, "adam_beta_1": 0.9},
    **{"adam_beta_2": 0.999, "adam_eps": 1e-8, "local_adam_memory_treatment": None},
    **{"lr_schedule_scheme": "constant", "lr_change_epochs": None, "lr_fields": None},
    **{"lr_scale_indicators": None, "lr_decay": 10.0, "lr_gamma": None, "lr_mu": None},
    **{"lr_alpha": None, "lr_onecycle_low": 0.15, "lr_onecycle_high": 3.0},
    **{"lr_onecycle_extra_low": 0.0015, "lr_onecycle_num_epoch": 46, "lr_scaleup": False},
    **{"lr_scaleup_type": "linear", "lr_scaleup_factor": "graph", "lr_warmup": False},
    **{"lr_warmup_epochs": 5, "num_epochs": 5, "num_iterations": 32000},
    **{"stop_criteria": "epoch", "clip_grad": False, "clip_grad_val": None, "local_step": 1},
    **{"turn_on_local_step_from": 0, "avg_model": False, "manual_seed": 6},
    **{"graph_topology": "ring", "comm_op": "sign", "compress_ratio": 0.9, "quantize_level": 8},
    **{"is_biased": True, "majority_vote": False, "mask_momentum": False, "comm_algo": None},
    **{"compress_warmup_values": (0.75, 0.9375, 0.984375, 0.996, 0.999)},
    **{"compress_warmup_epochs": 0, "consensus_stepsize": None, "evaluate": False},
    **{"eval_freq": 1, "evaluate_avg": False, "evaluate_consensus": False, "train_fast": False},
    **{"track_time": True, "track_detailed_time": False, "display_tracked_time": False},
    **{"summary_freq": 100, "checkpoint": "./data/checkpoint", "experiment": "demo"},
    **{"timestamp": None, "resume": None, "checkpoint_index": None, "save_all_models": False},
    **{"save_some_models": None, "download": False, "amp": None, "compile": False},
}

PUBLISHED = (
    "--arch resnet20 --optimizer parallel_choco --avg_model True --experiment demo --data digits "
    "--pin_memory True --batch_size 128 --base_batch_size 64 --num_workers 2 --eval_freq 1 "
    "--num_epochs 300 --partition_data random --reshuffle_per_epoch True --stop_criteria epoch "
    "--n_mpi_process 16 --n_sub_process 1 --world 0,0,0,0,0,0,0,0 --on_cuda True --use_ipc False "
    "--comm_device cuda --lr 0.1 --lr_scaleup True --lr_scaleup_factor graph --lr_warmup True "
    "--lr_warmup_epochs 5 --lr_schedule_scheme custom_multistep --lr_change_epochs 150,225 "
    "--lr_decay 10 --weight_decay 1e-4 --use_nesterov True --momentum_factor 0.9 --comm_op sign "
    "--choco_consenus_stepsize 0.5 --compress_ratio 0.9 --quantize_level 16 --is_biased True "
    "--hostfile iccluster/hostfile --graph_topology ring --track_time True "
    "--display_tracked_time True --python_path conda/bin/python --mpi_path .openmpi/ "
    "--evaluate_avg True"
).split()


@pytest.mark.parametrize(("name", "value"), DEFAULTS.items())
def test_every_flag_has_its_default_and_takes_it(name: str, value: Any) -> None:
    assert make_config().flat()[name] == value
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    parsed = parse([f"--{name}", text])
    assert parsed.config == make_config()
    assert parsed.given == {name}


def test_the_published_flags_parse() -> None:
    config = parse(PUBLISHED).config
    assert config.launch.n_mpi_process == 16
    assert config.launch.world == (0,) * 8
    assert config.options["lr_change_epochs"] == (150.0, 225.0)
    assert config.options["consensus_stepsize"] == 0.5
    assert config.learning.weight_decay == 1e-4


def test_a_flag_without_effect_is_one_warning_that_says_why() -> None:
    assert parse(["--quantize_level", "4"]).warnings == (
        "--quantize_level: it has no effect with --comm_op sign",
    )
    assert parse(["--optimizer", "sgd", "--comm_op", "sign"]).warnings == (
        "--comm_op: --optimizer sgd takes no compressor",
    )
    assert parse(["--lr", "0.2"]).warnings == ()


def test_a_yaml_file_means_what_stands_there(tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text("timestamp: 2026-13-45\nexperiment: 010\nuser: ~\nproject: null\nlr: .5\n")
    config = parse(["--config", str(file)]).config
    assert (config.watch.timestamp, config.watch.experiment) == ("2026-13-45", "010")
    assert (config.launch.user, config.launch.project, config.options["lr"]) == (None, None, 0.5)


YAML_BOOLS = "true True TRUE yes Yes YES on On ON false False FALSE no No NO off Off OFF".split()


@pytest.mark.parametrize("value", [True, False])
def test_yamls_words_for_true_and_false(tmp_path: Path, value: bool) -> None:
    file, flags = tmp_path / "flags.yaml", ["use_nesterov", "on_cuda", "lr_scaleup", "download"]
    words = [word for word in YAML_BOOLS if yaml.safe_load(word) is value]
    assert len(words) == 9
    for word, quote in itertools.product(words, ("", "'", '"')):
        file.write_text("".join(f"{flag}: {quote}{word}{quote}\n" for flag in flags))
        found = parse(["--config", str(file)]).config.flat()
        assert [found[flag] for flag in flags] == [value] * len(flags)
    # Where a flag is text, so are they.
    file.write_text("experiment: off\n", encoding="utf-8-sig")
    assert parse(["--config", str(file)]).config.watch.experiment == "off"


def test_an_empty_word_is_no_flag() -> None:
    with pytest.raises(UserError, match="no such flag"):
        parse([""])


@pytest.mark.parametrize(
    ("spelling", "name", "value"),
    [
        ("--choco_consenus_stepsize 0.3", "consensus_stepsize", 0.3),
        ("--lr_milestones 3,4", "lr_change_epochs", (3.0, 4.0)),
        ("--lr_scheduler MultiStepLR", "lr_schedule_scheme", "custom_multistep"),
        ("--optimizer parallel_choco_v", "optimizer", "parallel_choco"),
        ("--optimizer dcd", "optimizer", "dcd_psgd"),
        ("--optimizer ecd", "optimizer", "ecd_psgd"),
        ("--consensus_stepsize auto", "consensus_stepsize", "auto"),
        ("-b 7", "batch_size", 7),
        ("-a mlp", "arch", "mlp"),
        ("-j 3", "num_workers", 3),
        ("-c elsewhere", "checkpoint", "elsewhere"),
        ("--use_nesterov yes", "use_nesterov", True),
        ("--use_nesterov 0", "use_nesterov", False),
        ("--use_nesterov ON", "use_nesterov", True),
        ("--use_nesterov off", "use_nesterov", False),
        ("--on_cuda Off", "on_cuda", False),
        ("--on_cuda auto", "on_cuda", None),
    ],
)
def test_other_spellings(spelling: str, name: str, value: object) -> None:
    assert parse(spelling.split()).config.flat()[name] == value


def test_the_command_line_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text("lr: 1e-2\nnum_epochs: 7\nlr_milestones: [1, 2]\nuse_nesterov: yes\n")
    config = parse(["--config", str(file), "--num_epochs", "9"]).config
    assert (config.options["lr"], config.learning.num_epochs) == (0.01, 9)
    assert config.options["lr_change_epochs"] == (1.0, 2.0)
    assert config.options["use_nesterov"] is True
    assert config.options["momentum_factor"] == 0.9


def test_local_steps_that_begin_after_the_last_epoch_are_warned_of() -> None:
    flags = ["--num_epochs", "3", "--local_step", "2", "--turn_on_local_step_from"]
    assert parse([*flags, "2"]).warnings == ()
    assert parse([*flags, "3"]).warnings == (
        "--turn_on_local_step_from: training ends after --num_epochs 3",
    )


def test_a_written_configuration_is_read_back_without_warnings(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    config = parse(
        [
            "--lr_scheduler",
            "MultiStepLR",
            "--lr_milestones",
            "1,2",
            "--timestamp",
            "12",
            "--arch",
            "mlp",
        ]
    ).config
    file.write_text(to_yaml(config))
    again = parse(["--config", str(file)])
    assert again.config == config
    assert again.warnings == ()


BAD = [
    "--batch_size 100000000000000000000",
    "--n_mpi_process 1000000",
    "--num_threads 1000000",
    "--mlp_hidden_size 1000000000000",
    "--time_limit_seconds 1e300",
    "--num_iterations 1" + "0" * 400,
    "--num_iterations 1" + "0" * 5000,
    "--optimizer a\x0bb",
    "--checkpoint a\x00b",
    "--no_such_flag 1",
    "--num_epoch 3",
    "--lr fast",
    "--lr nan",
    "--lr inf",
    "--lr -1",
    "--num_epochs 0",
    "--num_epochs 2.5",
    "--batch_size 0",
    "--use_nesterov maybe",
    "--world a,b",
    "--world 0,-1",
    "--backend carrier_pigeon",
    "--optimizer adam",
    "--local_optimizer lamb",
    "--local_adam_memory_treatment average",
    "--comm_op zip",
    "--consensus_stepsize automatic",
    "--compress_warmup_values .5,-1",
    "--n_sub_process 0",
    "--local_step 0",
    "--clip_grad_val -1",
    "--checkpoint_index 0",
    "--save_some_models 1,x",
    "--lr",
    "stray",
]


@pytest.mark.parametrize("arguments", BAD)
def test_bad_flags_are_one_line(arguments: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(arguments.split(" "))
    message = str(caught.value)
    assert "\n" not in message
    assert arguments.split(" ", maxsplit=1)[0].lstrip("-") in message


@pytest.mark.parametrize(
    "content",
    [
        b"lr: [1, 2",
        b"- a\n- b\n",
        b"\xff\xfe\x00",
        b"no_such_flag: 1",
        b"lr: {a: 1}",
        b"lr: text",
        b"just words",
        b"1: 2",
        b"[" * 3000,
        b"num_epochs: 1" + b"0" * 5000,
        b"lr: 1\nlr_milestones: 3\nlr_change_epochs: 4",
        b"lr: .1\nbatch_size: 3\nlr: .2",
        b'checkpoint: "a\\0b"',
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "flags.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        parse(["--config", str(file)])
    assert "\n" not in str(caught.value)


def test_aliases_stand_for_values_but_not_for_many(tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text("lr_change_epochs: &epochs [1, 2]\nsave_some_models: *epochs\n")
    flat = parse(["--config", str(file)]).config.flat()
    assert (flat["lr_change_epochs"], flat["save_some_models"]) == ((1.0, 2.0), (1, 2))
    # a kilobyte a thousand times
    file.write_text(f"user: &a {'x' * 1024}\nlr_change_epochs: [{'*a, ' * 1024}]\n")
    with pytest.raises(UserError, match="not a YAML file: aliases that stand for more than"):
        parse(["--config", str(file)])


@pytest.mark.parametrize("content", ["user: &a b\nproject: *a\n", "include: flags.yaml\n"])
def test_a_run_s_file_is_what_a_run_writes(tmp_path: Path, content: str) -> None:
    (tmp_path / "flags.yaml").touch()
    (tmp_path / "config.yaml").write_text(content)
    parse(["--config", str(tmp_path / "config.yaml")])
    with pytest.raises(UserError) as caught:
        config_of_run(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/config.yaml: ")


@given(st.text(max_size=200))
def test_any_file_is_a_configuration_or_one_line(text: str) -> None:
    from tempfile import TemporaryDirectory  # noqa: PLC0415  # hypothesis reuses tmp_path

    with TemporaryDirectory() as folder:
        file = Path(folder) / "flags.yaml"
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        message = ""
        try:
            parse(["--config", str(file)])
        except UserError as error:
            message = str(error)
        assert "\n" not in message
