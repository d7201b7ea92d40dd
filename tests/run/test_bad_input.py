"""A user's mistake: one line that names it, exit status 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pcode.main import main
from tests.run.runs import run

# flags, what the line has to name
MISTAKES = [
    ("--no_such_flag 1", "--no_such_flag"),
    ("--comm_op zip", "--comm_op 'zip'"),
    ("--optimizer dgc --n_mpi_process 5", "--graph_topology complete"),
    ("--optimizer ef_sign_sgd --n_mpi_process 5", "--graph_topology complete"),
    ("--optimizer dgc --graph_topology complete", "--comm_op compress_top_k"),
    (
        "--optimizer dgc --graph_topology complete --comm_op compress_top_k "
        "--compress_warmup_values .5,2",
        "--compress_warmup_values 2",
    ),
    ("--optimizer ef_sign_sgd --graph_topology complete --local_step 2", "--local_step 1"),
    (
        "--optimizer ef_sign_sgd --graph_topology complete --local_optimizer adam",
        "--local_optimizer sgd",
    ),
    ("--optimizer parallel_choco --graph_topology random_matching", "--optimizer sgd"),
    ("--comm_op compress_top_k --compress_ratio 1", "--compress_ratio 1"),
    ("--comm_op compress_random_k --compress_ratio -.1", "--compress_ratio -0.1"),
    ("--comm_op quantize_qsgd --quantize_level 3", "--quantize_level 3"),
    ("--local_optimizer adam --adam_beta_2 1", "--adam_beta_2 1"),
    ("--local_optimizer adam --adam_eps 0", "--adam_eps 0"),
    ("--clip_grad True", "--clip_grad_val"),
    ("--graph_topology ring:3", "--graph_topology ring:3"),
    ("--graph_topology random_regular:x --n_mpi_process 8", "random_regular:x"),
    ("--graph_topology hypercube --n_mpi_process 6", "hypercube"),
    ("--data digit", "--data 'digit' is not known"),
    ("--data digits:3", "--data digits:3"),
    ("--data synthetic:3x", "--data synthetic:3x"),
    ("--data imagenet", "imagenet"),
    ("--data cifar10", "--download True"),
    ("--data ptb --arch rnn_lm", "ptb.train.txt"),
    ("--data rcv1 --arch logistic_regression", "rcv1"),
    ("--arch alexnets", "--arch 'alexnets' is not known"),
    ("--arch rnn_lm", "--arch rnn_lm"),
    ("--arch lenet", "--arch lenet"),
    ("--arch mlp --data synthetic:text", "--arch mlp"),
    ("--partition_data iid", "--partition_data 'iid'"),
    ("--partition_data dirichlet:x", "--partition_data dirichlet:x"),
    ("--data synthetic:text --arch rnn_lm --partition_data dirichlet", "has no labels"),
    ("--arch vgg11 --batch_size 1", "--arch vgg11: fails on batches of 1: Expected more than 1"),
    (
        "--arch vgg11 --n_mpi_process 8 --partition_data dirichlet:.1:1 --reshuffle_per_epoch True",
        "--arch vgg11: fails on batches of 1",
    ),
    ("--evaluate True", "--resume RUN"),
    ("--resume somewhere", "--evaluate True"),
    ("--evaluate True --resume somewhere", "somewhere/0/model.pt"),
    ("--lr_schedule_scheme strict", "--lr_schedule_scheme strict"),
    ("--lr_schedule_scheme custom_one_cycle", "--lr_onecycle_num_epoch"),
    ("--lr_schedule_scheme custom_convex_decay", "--lr_gamma"),
    ("--backend pigeon", "--backend 'pigeon'"),
    ("--graph_topology moebius", "--graph_topology 'moebius'"),
    ("--graph_topology social", "--n_mpi_process 2"),
    ("--graph_topology expander --n_mpi_process 8", "--graph_topology expander --n_mpi_process 8"),
    ("--graph_topology missing.txt", "missing.txt"),
    ("--graph_topology triangle.txt --n_mpi_process 4", "triangle.txt"),
    ("--graph_topology broken.txt --n_mpi_process 3", "line 2"),
    ("--graph_topology apart.txt --n_mpi_process 4", "not connected"),
    ("--n_mpi_process 0", "--n_mpi_process 0"),
    ("--n_mpi_process 2000 --backend sim", "2000"),
    ("--hostfile missing", "--hostfile missing"),
    ("--hostfile malformed", "line 1"),
    ("--hostfile small --n_mpi_process 4", "slots"),
    ("--hostfile .", "--hostfile ."),
    ("--world a,b", "--world"),
    ("--world 0,,1", "--world"),
    ("--config missing.yaml", "missing.yaml"),
    ("--config broken.yaml", "broken.yaml"),
    ("--config .", "--config ."),
    ("--mpi_path nowhere", "--mpi_path"),
    ("--python_path nowhere/python", "--python_path"),
    ("--work_dir nowhere", "--work_dir"),
    ("--mpi_env A", "--mpi_env"),
    ("--lr_schedule_scheme custom_multistep", "--lr_change_epochs"),
    ("--lr_scaleup True --lr_scaleup_factor some", "--lr_scaleup_factor some"),
    ("--consensus_stepsize 1.5", "--consensus_stepsize 1.5"),
    ("--consensus_stepsize 0", "--consensus_stepsize 0"),
    ("--momentum_factor 0 --use_nesterov True", "--use_nesterov"),
    ("--experiment ../elsewhere", "--experiment"),
    ("--timestamp a/b", "--timestamp"),
    ("--experiment ..", "--experiment"),
    ("--experiment=", "--experiment"),
    ("--experiment " + "x" * 300, "--experiment"),
    ("--drop_rate 2 --arch mlp", "--drop_rate"),
    ("--backend nccl", "--backend nccl"),
    ("--checkpoint small", "--checkpoint small"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {
        "triangle.txt": "0 1\n1 2\n2 0\n",
        "broken.txt": "0 1\n1 x\n",
        "apart.txt": "0 1\n2 3\n",
        "malformed": "a b c d\n",
        "small": "localhost slots=2\n",
        "broken.yaml": "lr: [",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("flags", "named"), MISTAKES)
def test_a_mistake_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: str, named: str
) -> None:
    before = sorted(folder.rglob("*"))
    assert main(flags.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("run.py: error: ")
    assert named in printed.err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--on_cuda", "True"]) == 2
    assert "--on_cuda True: this machine has no GPU" in capsys.readouterr().err


def test_a_run_that_exists_is_not_overwritten(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = folder / "data/checkpoint/digits/resnet20/demo/mine"
    taken.mkdir(parents=True)
    assert main(["--timestamp", "mine"]) == 2
    assert "--timestamp mine" in capsys.readouterr().err
    assert list(taken.iterdir()) == []


@pytest.mark.parametrize("flags", ["--lr fast", "--graph_topology expander --n_mpi_process 8"])
def test_from_the_shell(folder: Path, flags: str) -> None:
    done = run(folder, *flags.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("run.py: error: ")
    assert done.stderr.count("\n") == 1
    assert not (folder / "runs").exists()
