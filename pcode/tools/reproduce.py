"""Run a whole table of the paper and show it beside the paper's figures.

    python -m pcode.tools.reproduce table1 [--epochs 40] [--seeds 3] [--jobs 2]
        [--folder data/table1] [--markdown FILE.md] [--picture FILE.png] [--output FILE.json]

table1: DCD-, ECD- and CHOCO-SGD with eleven compressors on a ring of 8 (arXiv 1907.09356, table 1),
rehearsed on scikit-learn's digits: ResNet-20, batch 16 a node, shares drawn anew every epoch,
nesterov momentum .9, weight decay 1e-4, the learning rate .1 divided by 10 at one half and three
quarters; gamma is each compressor's default, the paper's tuned one; random-k and qsgd are unbiased
for DCD and ECD, as their theory asks, and biased (contractions) for CHOCO. The paper tuned the rate
for each cell; here it is the same for all. "div": the loss or a vector is no longer finite; a run
that sits at chance (10 %) has a figure. Every run is simulated in a process of its own, `jobs` at a
time; a finished one of the same flags is not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from tqdm import tqdm

from pcode.errors import UserError
from pcode.exit_status import DIVERGED
from pcode.tools.command import FORMATS, Parser, call, check_file

ROOT = Path(__file__).parents[2]
LAWS = {
    "all-reduce": ("--optimizer", "sgd", "--graph_topology", "complete"),
    # Their theory asks for unbiased compression.
    "DCD": ("--optimizer", "dcd_psgd", "--is_biased", "False"),
    "ECD": ("--optimizer", "ecd_psgd", "--is_biased", "False"),
    "CHOCO": ("--optimizer", "parallel_choco"),
}
NOT_COMPRESSED = "float32"
COMPRESSIONS = {
    **{
        f"qsgd {bits}": ("--comm_op", "quantize_qsgd", "--quantize_level", f"{bits}")
        for bits in (16, 8, 4, 2)
    },
    **{
        f"{short} {kept} %": ("--comm_op", name, "--compress_ratio", f"{1 - kept / 100:g}")
        for short, name in (("random", "compress_random_k"), ("top", "compress_top_k"))
        for kept in (50, 10, 1)
    },
    "sign": ("--comm_op", "sign"),
}
# arXiv 1907.09356, table 1: CIFAR-10, 300 epochs, mean of 3 runs, test top-1 in %. None: diverged.
# Of ECD with top-k two of three runs diverged.
PAPER: dict[str, dict[str, float | None]] = {
    "all-reduce": {NOT_COMPRESSED: 92.64},
    **{
        law: dict(zip(COMPRESSIONS, figures, strict=True))
        for law, figures in {
            "DCD": (92.51, 92.36, 23.56, None, 92.05, None, None, 92.40, 91.97, 89.79, 92.40),
            "ECD": (92.02, 59.11, None, None, None, None, None, 17.03, 16.78, 18.03, None),
            "CHOCO": (92.34, 92.30, 91.92, 91.41, 92.54, 91.87, 91.32, 92.54, 92.29, 91.73, 92.46),
        }.items()
    },
}
COMMON = (
    *("--backend", "sim", "--n_mpi_process", "8", "--num_threads", "1", "--data", "digits"),
    *("--arch", "resnet20", "--batch_size", "16", "--reshuffle_per_epoch", "True"),
    *("--use_nesterov", "True", "--lr_schedule_scheme", "custom_multistep"),
    *("--train_fast", "True"),
)


@dataclass(frozen=True)
class Cell:
    """One figure of the table."""

    law: str
    compression: str

    def flags(self, seed: int, epochs: int) -> tuple[str, ...]:
        """Those of run.py."""
        return (
            *(*COMMON, *LAWS[self.law], *COMPRESSIONS.get(self.compression, ())),
            *("--num_epochs", f"{epochs}", "--manual_seed", f"{seed}"),
            *("--lr_change_epochs", f"{epochs / 2:g},{3 * epochs / 4:g}"),
        )

    def run(self, seed: int, epochs: int, folder: Path) -> float | None:
        """Test top-1 (%) of one run, or None where it diverged; from its folder where it ran.

        Raises:
            RuntimeError: run.py failed otherwise.
        """
        flags = self.flags(seed, epochs)
        digest = hashlib.sha256(" ".join(flags).encode()).hexdigest()[:8]
        name = f"{self.law}-{self.compression}-{seed}-{digest}".replace(" ", "").replace("%", "")
        found = sorted(folder.glob(f"digits/resnet20/{name}/*/summary.json"))
        if found:
            return float(json.loads(found[-1].read_text())["test_top1"])
        diverged = folder / f"{name}.diverged"
        if diverged.exists():
            return None
        places = ("--checkpoint", str(folder), "--experiment", name)
        done = subprocess.run(
            [sys.executable, str(ROOT / "run.py"), *flags, *places],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == DIVERGED:
            diverged.write_text(done.stderr)
            return None
        if done.returncode != 0:
            raise RuntimeError(f"{name} ended with status {done.returncode}: {done.stderr}")
        return self.run(seed, epochs, folder)


CELLS = [Cell(law, compression) for law in PAPER for compression in PAPER[law]]
Results = dict[Cell, list[float | None]]


def run_all(cells: Iterable[Cell], seeds: range, epochs: int, folder: Path, jobs: int) -> Results:
    """Every cell with every seed, `jobs` at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    work = [(cell, seed) for cell in cells for seed in seeds]
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(work), unit="run") as bar:

        def one(item: tuple[Cell, int]) -> float | None:
            result = item[0].run(item[1], epochs, folder)
            bar.update()
            return result

        figures = list(pool.map(one, work))
    results: Results = {}
    for (cell, _), figure in zip(work, figures, strict=True):
        results.setdefault(cell, []).append(figure)
    return results


def text(figures: list[float | None]) -> str:
    """Mean and standard deviation of the runs that did not diverge, and how many did."""
    ended = [figure for figure in figures if figure is not None]
    if not ended:
        return "div"
    mean = f"{statistics.mean(ended):.2f}"
    if len(ended) > 1:
        mean += f" ± {statistics.stdev(ended):.2f}"
    lost = len(figures) - len(ended)
    return mean + (f" ({lost} of {len(figures)} div)" if lost else "")


def markdown(results: Results) -> str:
    """The table, the paper's figure beside ours."""
    laws = [law for law in PAPER if law != "all-reduce"]
    lines = [
        "| | " + " | ".join(f"{law} | paper" for law in laws) + " |",
        "|---|" + "---:|---:|" * len(laws),
    ]
    for compression in COMPRESSIONS:
        cells = []
        for law in laws:
            paper = PAPER[law][compression]
            shown = "div" if paper is None else f"{paper:.2f}"
            cells.append(f"{text(results[Cell(law, compression)])} | {shown}")
        lines.append(f"| {compression} | " + " | ".join(cells) + " |")
    baseline = results[Cell("all-reduce", NOT_COMPRESSED)]
    lines.append("")
    lines.append(
        f"Without compression, all-reduce: {text(baseline)} "
        f"(paper {PAPER['all-reduce'][NOT_COMPRESSED]:.2f}). "
        "Of the paper's runs of ECD with top-k two of three diverged."
    )
    return "\n".join(lines) + "\n"


def draw(results: Results, path: Path) -> None:
    """A panel for each law: ours (full, with deviation) and the paper's (hollow); x: diverged."""
    mpl.use("Agg")
    laws = [law for law in PAPER if law != "all-reduce"]
    figure, panels = plt.subplots(
        len(laws), 1, figsize=(8, 7), sharex=True, sharey=True, layout="constrained"
    )
    baseline = results[Cell("all-reduce", NOT_COMPRESSED)]
    ended = [each for each in baseline if each is not None]
    for law, panel in zip(laws, panels, strict=True):
        if ended:
            panel.axhline(statistics.mean(ended), color="tab:gray", linewidth=1)
        for index, compression in enumerate(COMPRESSIONS):
            figures = results[Cell(law, compression)]
            good = [each for each in figures if each is not None]
            bad = len(figures) - len(good)
            if good:
                error = statistics.stdev(good) if len(good) > 1 else 0.0
                panel.errorbar(
                    index - 0.12, statistics.mean(good), error, fmt="o", color="tab:blue", capsize=3
                )
            panel.plot([index - 0.12] * bool(bad), [3] * bool(bad), "x", color="tab:blue")
            paper = PAPER[law][compression]
            marker = {"marker": "x"} if paper is None else {"marker": "o", "mfc": "none"}
            panel.plot(index + 0.12, 3 if paper is None else paper, color="tab:orange", **marker)
        panel.set_ylabel(f"{law}\ntest top-1 (%)")
        panel.set_ylim(0, 104)
        panel.grid(axis="y", alpha=0.3)
    panels[-1].set_xticks(range(len(COMPRESSIONS)), list(COMPRESSIONS), rotation=30, ha="right")
    keys: list[dict[str, Any]] = [
        {"marker": "o", "color": "tab:blue", "label": "digits, ours"},
        {"marker": "o", "mfc": "none", "color": "tab:orange", "label": "CIFAR-10, paper"},
        {"marker": "x", "color": "black", "label": "diverged"},
        {"linestyle": "-", "color": "tab:gray", "label": "all-reduce, ours"},
    ]
    handles = [Line2D([], [], **{"linestyle": "", **key}) for key in keys]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=150)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = Parser(
        prog="reproduce",
        description=description,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", choices=("table1",))
    parser.add_argument("--epochs", type=int, default=40, help="of each run [40]")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each cell [3]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time [cores]")
    parser.add_argument("--folder", type=Path, default=Path("data/table1"), help="of the runs")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    parser.add_argument("--picture", type=Path, help=f"file to draw into ({', '.join(FORMATS)})")
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    parsed = parser.parse_args(arguments)
    for name in ("epochs", "seeds", "jobs"):
        if getattr(parsed, name) < 1:
            raise UserError(f"--{name} {getattr(parsed, name)}: must be at least 1")
    for name in ("markdown", "picture", "output"):
        check_file(name, getattr(parsed, name), FORMATS if name == "picture" else ())
    if parsed.folder.exists() and not parsed.folder.is_dir():
        raise UserError(f"--folder {parsed.folder}: is no folder")
    return parsed


def _run(arguments: Sequence[str]) -> None:
    options = _parse(arguments)
    seeds = range(1, options.seeds + 1)
    results = run_all(CELLS, seeds, options.epochs, options.folder, options.jobs)
    table = markdown(results)
    print(table)
    if options.markdown is not None:
        options.markdown.write_text(table, encoding="utf-8")
    if options.picture is not None:
        draw(results, options.picture)
    if options.output is not None:
        rows = [
            {"law": cell.law, "compression": cell.compression, "test_top1": figures}
            for cell, figures in results.items()
        ]
        content = {"epochs": options.epochs, "seeds": list(seeds), "cells": rows}
        options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Run a table; the exit status, 2 for a mistake."""
    return call("reproduce", _run, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
