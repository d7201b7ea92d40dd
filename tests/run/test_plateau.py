"""A learning rate that follows the training loss, in whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.run.runs import finished


def test_all_nodes_drop_their_rate_when_the_loss_stalls(tmp_path: Path) -> None:
    """With a rate of 1e-6 nothing improves: the rate drops after the 12th epoch's loss."""
    flags = (
        *("--lr_schedule_scheme", "reduce_on_plateau", "--lr", "1e-6", "--lr_decay", "4"),
        *("--arch", "mlp", "--n_mpi_process", "3", "--batch_size", "479", "--train_fast", "True"),
        *("--weight_decay", "0", "--momentum_factor", "0"),
    )
    results = {}
    for name, backend, epochs in (("kept", "sim", 12), ("sim", "sim", 14), ("mpi", "mpi", 14)):
        place = tmp_path / name
        place.mkdir()
        results[name] = finished(place, *flags, "--backend", backend, "--num_epochs", str(epochs))
    assert results["kept"]["learning_rate"] == 1e-6
    assert results["sim"]["learning_rate"] == pytest.approx(1e-6 / 4)
    assert results["mpi"]["learning_rate"] == pytest.approx(1e-6 / 4)
    assert results["mpi"]["parameters_sha256"] == results["sim"]["parameters_sha256"]
