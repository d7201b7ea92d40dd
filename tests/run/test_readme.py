"""The README's programs run as they stand."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

from pcode.communication import Simulation
from pcode.compression import COMPRESSORS
from pcode.config import make_config
from pcode.optim import OPTIMIZERS
from pcode.topology import TOPOLOGIES
from pcode.training.loop import run_node
from pcode.training.planning import make_plan
from pcode.training.sync import StopRequest
from tests.support.pages import program
from tests.support.programs import run_mpi


def test_the_own_training_loop(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(program("README.md", "own_loop"))
    done = run_mpi(4, [str(file)], timeout=120)
    assert done.returncode == 0, done.stderr
    losses = dict(re.findall(r"node (\d): loss (\d+\.\d+)", done.stdout))
    assert set(losses) == {"0", "1", "2", "3"}
    assert all(float(loss) < 1e-2 for loss in losses.values())


def test_extensions_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for registry, added in ((COMPRESSORS, "half"), (TOPOLOGIES, "tree"), (OPTIMIZERS, "alone")):
        monkeypatch.setitem(registry, added, None)  # removed at the end
    exec(program("docs/writing-a-compressor.md", "half"), {})
    exec(program("docs/writing-a-topology.md", "tree"), {})
    exec(program("docs/writing-an-optimizer.md", "alone"), {})
    for flags in ({"comm_op": "half", "graph_topology": "tree"}, {"optimizer": "alone"}):
        config = make_config(
            **flags, n_mpi_process=4, arch="mlp", num_epochs=3, checkpoint=str(tmp_path)
        )
        plan = make_plan(config)
        summary, _ = Simulation(4).run(partial(run_node, plan, request=StopRequest()))[0]
        assert summary["test_top1"] > 50
