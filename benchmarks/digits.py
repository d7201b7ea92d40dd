"""CHOCO-SGD beside its uncompressed relatives on digits: the picture in the README.

    python benchmarks/digits.py [--seeds 3] [--epochs 30] [--picture FILE.png] [--output FILE.json]

ResNet-20, 8 simulated nodes, batch 32 per node, learning rate .1, divided by 10 at two thirds.
All-reduce SGD on the complete graph, D-PSGD and sign-CHOCO on a ring. Drawn: test top-1, mean over
the nodes, against epochs and against what a node has sent; line and band: mean over the seeds and
their standard deviation.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from harness import keep
from pcode.tools.results_picture import MEGABYTES, Curve, draw_curve
from pcode.tools.results_runs import find_runs

ROOT = Path(__file__).parents[1]
OPTIMIZERS = {
    "all-reduce SGD": ("--optimizer", "sgd", "--graph_topology", "complete"),
    "D-PSGD, ring": ("--optimizer", "sgd", "--graph_topology", "ring"),
    "CHOCO-SGD, sign, ring": ("--optimizer", "parallel_choco", "--comm_op", "sign"),
}


def curve(flags: tuple[str, ...], seed: int, epochs: int) -> dict[str, Any]:
    """Epochs, mean test top-1 (%) and MB sent by a node after each, of one run."""
    common = ("--backend", "sim", "--n_mpi_process", "8", "--num_epochs", str(epochs))
    rates = (
        "--lr_schedule_scheme",
        "custom_multistep",
        "--lr_change_epochs",
        f"{2 * epochs / 3:g}",
    )
    with tempfile.TemporaryDirectory() as folder:
        places = ("--manual_seed", str(seed), "--checkpoint", folder)
        subprocess.run(
            [sys.executable, str(ROOT / "run.py"), *common, *rates, *flags, *places],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (course,) = find_runs([Path(folder)])["course"]
    return {
        "epochs": list(course["epoch"]),
        "test_top1": list(course["test"]),
        "megabytes": list(course["bytes_sent"] / MEGABYTES.unit),
    }


def draw(curves: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Two panels: accuracy against epochs, and against bytes."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, panel in zip(("epochs", "megabytes"), panels, strict=True):
        for index, (name, runs) in enumerate(curves.items()):
            values = pd.DataFrame([run["test_top1"] for run in runs], columns=runs[0][axis]).T
            draw_curve(panel, Curve(name, values), index)
        panel.grid(alpha=0.3)
        panel.set_ylim(60, 100)
    panels[0].set_xlabel("epoch")
    panels[0].set_ylabel("test top-1 (%), mean over 8 nodes")
    panels[1].set_xlabel(MEGABYTES.label)
    panels[1].set_xscale("log")
    panels[0].legend(loc="lower right", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--picture", type=Path, default=Path("digits.png"))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    curves = {
        name: [curve(flags, seed, arguments.epochs) for seed in range(1, arguments.seeds + 1)]
        for name, flags in OPTIMIZERS.items()
    }
    draw(curves, arguments.picture)
    print("| optimizer | test top-1 (%) | sent by a node (MB) |")
    print("|---|---:|---:|")
    for name, runs in curves.items():
        final = [run["test_top1"][-1] for run in runs]
        error = statistics.stdev(final) if len(final) > 1 else 0.0
        sent = runs[0]["megabytes"][-1]
        print(f"| {name} | {statistics.mean(final):.2f} ± {error:.2f} | {sent:.1f} |")
    keep(arguments.output, {"seeds": arguments.seeds, "curves": curves})


if __name__ == "__main__":
    main()
