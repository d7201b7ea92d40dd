"""python -m pcode.tools.shares: who has which labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pcode.tools.shares import count, main
from tests.resume.children import run, run_folder

FLAGS = ("--data", "digits", "--n_mpi_process", "4", "--partition_data", "non_iid_dirichlet")


def test_every_label_is_somebodys() -> None:
    """Of the 1,437 training samples, and with all of them on every node where none are dealt."""
    counts = count([*FLAGS, "--non_iid_alpha", "0.05"])
    assert counts.shape == (4, 10)
    assert counts.sum() == 1437
    equal = count(["--n_mpi_process", "3", "--partition_data", "none"])
    assert (equal == counts.sum(axis=0)).all()
    assert np.count_nonzero(counts) < 0.7 * counts.size


def test_they_are_those_of_a_run(tmp_path: Path) -> None:
    flags = [*FLAGS, "--non_iid_alpha", "0.3", "--arch", "mlp", "--num_epochs", "1"]
    assert run(tmp_path, flags).status == 0
    with np.load(run_folder(tmp_path) / "partition.npz") as shares:
        sizes = [len(shares[str(node)]) for node in range(4)]
    assert count(flags).sum(axis=1).tolist() == sizes


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "labels.svg"
    classes = ("--n_mpi_process", "10", "--partition_data", "classes:1")
    assert main([*classes, "--picture", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ") == ["node", "samples", "labels", "most of one label"]
    assert [line.split()[0] for line in lines[1:]] == [*map(str, range(10))]
    assert "<svg" in picture.read_text()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--partition_data", "dealt"], "--partition_data 'dealt' is not known"),
        (["--data", "synthetic:text:9:1000"], "--data synthetic:text:9:1000: has no labels"),
        (["--picture", "labels.txt"], "--picture labels.txt: the suffix must be one of"),
    ],
)
def test_a_mistake_is_one_line(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
