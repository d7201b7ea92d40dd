"""The same parameters under mpi, gloo and sim, overlapped or not, and twice in a row."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.run.runs import finished

ARCH = ("--arch", "resnet8")
SMALL = (*ARCH, "--num_epochs", "1")
RING = ("--graph_topology", "ring", "--n_mpi_process", "4", *ARCH, "--num_epochs", "2")
TORUS = ("--graph_topology", "torus", "--n_mpi_process", "9", *SMALL)
D_PSGD = ("--optimizer", "sgd", "--graph_topology", "ring", "--n_mpi_process", "3", *SMALL)
CENTRALIZED = ("--optimizer", "sgd", "--graph_topology", "complete", "--n_mpi_process", "3", *SMALL)
Truth = Callable[..., list[str]]


def digests(folder: Path, *flags: str) -> list[str]:
    result = finished(folder, *flags)
    found: list[str] = result["parameters_sha256"]
    assert len(set(found)) > 1, "nodes of a decentralized run do not hold the same parameters"
    return found


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """What sim gives."""

    @cache
    def simulated(*flags: str) -> list[str]:
        return digests(tmp_path_factory.mktemp("sim"), *flags, "--backend", "sim")

    return simulated


@pytest.mark.parametrize(
    "way",
    [
        ("--backend", "mpi"),
        ("--backend", "mpi", "--overlap", "False"),
        ("--backend", "gloo"),
        ("--backend", "sim", "--overlap", "False"),
        ("--backend", "sim"),
    ],
    ids=" ".join,
)
def test_choco_on_a_ring(tmp_path: Path, truth: Truth, way: tuple[str, ...]) -> None:
    assert digests(tmp_path, *RING, *way) == truth(*RING)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["mpi", "gloo"])
def test_processes_that_share_nothing_from_their_start_give_the_same(
    tmp_path: Path, truth: Truth, backend: str
) -> None:
    """Each with its own hashes of strings, as users start them."""
    result = finished(tmp_path, *RING, "--backend", backend, python=sys.executable)
    assert result["parameters_sha256"] == truth(*RING)


@pytest.mark.parametrize(
    "way", [("--backend", "mpi"), ("--backend", "gloo", "--overlap", "False")], ids=" ".join
)
def test_choco_on_a_torus(tmp_path: Path, truth: Truth, way: tuple[str, ...]) -> None:
    assert digests(tmp_path, *TORUS, *way) == truth(*TORUS)


@pytest.mark.parametrize("backend", ["mpi", "gloo"])
def test_d_psgd(tmp_path: Path, truth: Truth, backend: str) -> None:
    assert digests(tmp_path, *D_PSGD, "--backend", backend) == truth(*D_PSGD)


@pytest.mark.parametrize("backend", ["mpi", "gloo", "sim"])
def test_centralized_nodes_stay_equal(tmp_path: Path, backend: str) -> None:
    result = finished(tmp_path, *CENTRALIZED, "--backend", backend)
    assert len(set(result["parameters_sha256"])) == 1
    assert result["consensus_distance"] == pytest.approx(0, abs=1e-5)
    # 2 (n - 1) / n of the gradient, which is what the best all-reduce sends
    assert result["bytes_sent_per_step"] == pytest.approx(4 / 3 * 4 * result["num_parameters"])


def test_another_seed_is_another_run(tmp_path: Path, truth: Truth) -> None:
    other = digests(tmp_path, *D_PSGD, "--backend", "sim", "--manual_seed", "7")
    assert set(other).isdisjoint(truth(*D_PSGD))
