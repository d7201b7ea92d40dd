"""Who has which labels: the shares of a run's nodes as a table and as a picture.

python -m pcode.tools.shares --data digits --n_mpi_process 16 --partition_data non_iid_dirichlet \
    --non_iid_alpha 0.1 --picture labels.png

All flags of run.py are taken, also `--config FILE.yaml`; those on the data, the number of nodes and
--manual_seed decide. The areas of a picture's circles are numbers of samples.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pcode.config import parse
from pcode.datasets import load_dataset, partition_indices
from pcode.tools.command import FORMATS, Parser, check_writable, tool
from pcode.utils.errors import UserError
from pcode.utils.tables import aligned

# Of the largest circle, in points; inches of a node and a label, up to those of a picture.
DIAMETER, PITCH, LONGEST = 17.0, 0.27, 20.0

Counts = NDArray[np.int64]


def count(arguments: Sequence[str]) -> Counts:
    """Return how many samples of each label every node of a run has: nodes x labels.

    Raises:
        UserError: flags that are wrong, or data without labels.
    """
    config = parse(arguments).config
    dataset = load_dataset(config.data.data, config.flat())
    if not dataset.labelled:
        raise UserError(f"--data {config.data.data}: has no labels")
    targets, num_nodes = dataset.train_targets, config.launch.n_mpi_process
    shares = partition_indices(
        targets, num_nodes, config.data.dealing, config.learning.manual_seed, epoch=0
    )
    num_labels = int(targets.max()) + 1
    return np.stack([np.bincount(targets[each].numpy(), minlength=num_labels) for each in shares])


def table(counts: Counts) -> list[str]:
    """Say for each node how many samples and labels it has, and how much one label makes of it."""
    rows = [["node", "samples", "labels", "most of one label"]]
    for node, of in enumerate(counts):
        num_samples, num_labels = of.sum(), np.count_nonzero(of)
        rows.append([f"{node}", f"{num_samples}", f"{num_labels}", f"{of.max() / num_samples:.0%}"])
    return aligned(rows, set())


def draw(counts: Counts, path: Path) -> None:
    """Draw a circle for each node and label; the path's suffix says the format."""
    sides = np.minimum(1.2 + PITCH * np.array(counts.shape), LONGEST)
    figure = Figure(figsize=tuple(sides), layout="constrained")
    panel = figure.subplots()
    nodes, labels = np.nonzero(counts)
    areas = counts[nodes, labels] / counts.max() * DIAMETER**2
    panel.scatter(nodes, labels, areas, color="#0072B2", linewidths=0)
    panel.set(xlabel="node", ylabel="label", aspect="equal")
    panel.set_xlim(-0.7, len(counts) - 0.3)
    panel.set_ylim(-0.7, counts.shape[1] - 0.3)
    panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


@tool("shares")
def main(arguments: Sequence[str]) -> None:
    """Print the table, and draw on request."""
    parser = Parser("python -m pcode.tools.shares", __doc__, argument_default=argparse.SUPPRESS)
    parser.add_argument("--picture", type=Path, help="file to draw into (.png, .pdf, .svg)")
    own, of_run = parser.parse_known_args(arguments)
    picture = getattr(own, "picture", None)
    check_writable("picture", picture, FORMATS)
    counts = count(of_run)
    print(*table(counts), sep="\n")
    if picture is not None:
        draw(counts, picture)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
