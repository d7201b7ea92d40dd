"""Flags: the whole set is accepted, bad ones are one line, files and command line combine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcode.config import make_config, parse, to_yaml
from pcode.errors import UserError

# The published flag set.
FLAGS = """
n_mpi_process n_sub_process world hostfile backend python_path mpi_path mpi_env work_dir use_ipc
on_cuda comm_device local_rank remote_exec clean_python user project num_workers pin_memory
data data_dir use_lmdb_data partition_data reshuffle_per_epoch batch_size base_batch_size arch
densenet_growth_rate densenet_bc_mode densenet_compression wideresnet_widen_factor mlp_num_layers
mlp_hidden_size drop_rate rnn_n_hidden rnn_n_layers rnn_bptt_len rnn_clip rnn_use_pretrained_emb
rnn_tie_weights rnn_weight_norm optimizer lr momentum_factor use_nesterov weight_decay adam_beta_1
adam_beta_2 adam_eps local_adam_memory_treatment lr_schedule_scheme lr_change_epochs lr_fields
lr_scale_indicators lr_decay lr_gamma lr_mu lr_alpha lr_onecycle_low lr_onecycle_high
lr_onecycle_extra_low lr_onecycle_num_epoch lr_scaleup lr_scaleup_type lr_scaleup_factor lr_warmup
lr_warmup_epochs num_epochs num_iterations stop_criteria clip_grad clip_grad_val local_step
turn_on_local_step_from avg_model manual_seed graph_topology comm_op compress_ratio quantize_level
is_biased majority_vote mask_momentum comm_algo compress_warmup_values compress_warmup_epochs
consensus_stepsize evaluate eval_freq evaluate_avg evaluate_consensus train_fast track_time
track_detailed_time display_tracked_time summary_freq checkpoint experiment timestamp resume
checkpoint_index save_all_models save_some_models
""".split()

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


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_takes_its_default(name: str) -> None:
    value = make_config().flat()[name]
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    parsed = parse([f"--{name}", text])
    assert parsed.config == make_config()
    assert parsed.given == {name}


def test_the_published_flags_parse() -> None:
    config = parse(PUBLISHED).config
    assert config.launch.n_mpi_process == 16
    assert config.launch.world == (0,) * 8
    assert config.learning.lr_change_epochs == (150.0, 225.0)
    assert config.graph.consensus_stepsize == 0.5
    assert config.learning.weight_decay == 1e-4


def test_a_flag_without_effect_is_one_warning_that_says_why() -> None:
    assert parse(["--quantize_level", "4"]).warnings == (
        "--quantize_level: it has no effect with --comm_op sign",
    )
    assert parse(["--optimizer", "sgd", "--comm_op", "sign"]).warnings == (
        "--comm_op: --optimizer sgd sends the parameters or gradients themselves",
    )
    assert parse(["--lr", "0.2"]).warnings == ()


@pytest.mark.parametrize(
    ("spelling", "name", "value"),
    [
        ("--choco_consenus_stepsize 0.3", "consensus_stepsize", 0.3),
        ("--lr_milestones 3,4", "lr_change_epochs", (3.0, 4.0)),
        ("--lr_scheduler MultiStepLR", "lr_schedule_scheme", "custom_multistep"),
        ("--optimizer parallel_choco_v", "optimizer", "parallel_choco"),
        ("-b 7", "batch_size", 7),
        ("-a mlp", "arch", "mlp"),
        ("-j 3", "num_workers", 3),
        ("-c elsewhere", "checkpoint", "elsewhere"),
        ("--use_nesterov yes", "use_nesterov", True),
        ("--use_nesterov 0", "use_nesterov", False),
        ("--on_cuda auto", "on_cuda", None),
    ],
)
def test_other_spellings(spelling: str, name: str, value: object) -> None:
    assert parse(spelling.split()).config.flat()[name] == value


def test_the_command_line_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text("lr: 1e-2\nnum_epochs: 7\nlr_milestones: [1, 2]\nuse_nesterov: yes\n")
    config = parse(["--config", str(file), "--num_epochs", "9"]).config
    assert (config.learning.lr, config.learning.num_epochs) == (0.01, 9)
    assert config.learning.lr_change_epochs == (1.0, 2.0)
    assert config.learning.use_nesterov is True
    assert config.learning.momentum_factor == 0.9


def test_a_written_configuration_is_read_back_without_warnings(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    config = parse(["--lr", "0.03", "--world", "1,2", "--timestamp", "12", "--arch", "mlp"]).config
    file.write_text(to_yaml(config))
    again = parse(["--config", str(file)])
    assert again.config == config
    assert again.warnings == ()


BAD = [
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
    "--optimizer dcd_psgd",
    "--comm_op zip",
    "--comm_op quantize_qsgd",
    "--arch resnet50",
    "--arch alexnet",
    "--data cifar10",
    "--partition_data dirichlet",
    "--lr_schedule_scheme strict",
    "--n_sub_process 2",
    "--local_step 4",
    "--clip_grad True",
    "--resume somewhere",
    "--lr",
    "stray",
]


@pytest.mark.parametrize("arguments", BAD)
def test_bad_flags_are_one_line(arguments: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(arguments.split())
    message = str(caught.value)
    assert "\n" not in message
    assert arguments.split(maxsplit=1)[0].lstrip("-") in message


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
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "flags.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        parse(["--config", str(file)])
    assert "\n" not in str(caught.value)


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
