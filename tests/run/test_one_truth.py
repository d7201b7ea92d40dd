"""The same parameters under mpi, gloo and sim, overlapped or not, and twice in a row."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.run.runs import finished

RING = ("--graph_topology", "ring", "--n_mpi_process", "4", "--num_epochs", "3")
TORUS = ("--graph_topology", "torus", "--n_mpi_process", "9", "--num_epochs", "3")
D_PSGD = ("--optimizer", "sgd", "--graph_topology", "ring", "--n_mpi_process", "3")
CENTRALIZED = ("--optimizer", "sgd", "--graph_topology", "complete", "--n_mpi_process", "3")
SMALL = ("--arch", "resnet8", "--num_epochs", "1")


def digests(folder: Path, *flags: str) -> list[str]:
    result = finished(folder, *flags)
    found: list[str] = result["parameters_sha256"]
    assert len(set(found)) > 1, "nodes of a decentralized run do not hold the same parameters"
    return found


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], list[str]]:
    """What sim gives."""
    return {
        flags: digests(tmp_path_factory.mktemp("sim"), *flags, "--backend", "sim")
        for flags in (RING, TORUS, (*D_PSGD, *SMALL))
    }


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
def test_choco_on_a_ring(
    tmp_path: Path, truth: dict[tuple[str, ...], list[str]], way: tuple[str, ...]
) -> None:
    assert digests(tmp_path, *RING, *way) == truth[RING]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["mpi", "gloo"])
def test_processes_that_share_nothing_from_their_start_give_the_same(
    tmp_path: Path, truth: dict[tuple[str, ...], list[str]], backend: str
) -> None:
    """Each with its own hashes of strings, as users start them."""
    result = finished(tmp_path, *RING, "--backend", backend, python=sys.executable)
    assert result["parameters_sha256"] == truth[RING]


@pytest.mark.parametrize(
    "way", [("--backend", "mpi"), ("--backend", "gloo", "--overlap", "False")], ids=" ".join
)
def test_choco_on_a_torus(
    tmp_path: Path, truth: dict[tuple[str, ...], list[str]], way: tuple[str, ...]
) -> None:
    assert digests(tmp_path, *TORUS, *way) == truth[TORUS]


@pytest.mark.parametrize("backend", ["mpi", "gloo"])
def test_d_psgd(tmp_path: Path, truth: dict[tuple[str, ...], list[str]], backend: str) -> None:
    flags = (*D_PSGD, *SMALL)
    assert digests(tmp_path, *flags, "--backend", backend) == truth[flags]


@pytest.mark.parametrize("backend", ["mpi", "gloo", "sim"])
def test_centralized_nodes_stay_equal(tmp_path: Path, backend: str) -> None:
    result = finished(tmp_path, *CENTRALIZED, *SMALL, "--backend", backend)
    assert len(set(result["parameters_sha256"])) == 1
    assert result["consensus_distance"] == pytest.approx(0, abs=1e-5)
    # 2 (n - 1) / n of the gradient, which is what the best all-reduce sends
    assert result["bytes_sent_per_step"] == pytest.approx(4 / 3 * 4 * result["num_parameters"])


def test_another_seed_is_another_run(
    tmp_path: Path, truth: dict[tuple[str, ...], list[str]]
) -> None:
    flags = (*D_PSGD, *SMALL)
    other = digests(tmp_path, *flags, "--backend", "sim", "--manual_seed", "7")
    assert set(other).isdisjoint(truth[flags])
