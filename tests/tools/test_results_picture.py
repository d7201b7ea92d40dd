"""The pictures of the results tool, and one real run."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from pcode.main import main as run_main
from pcode.tools.results import main
from pcode.tools.results_picture import (
    AGAINST,
    EPOCHS,
    Quantity,
    course_figure,
    draw_all,
    judged,
    line_style,
    step_figure,
)
from pcode.tools.results_runs import METRICS, find_runs
from pcode.tools.results_table import group_runs
from pcode.utils.timing import PARTS
from tests.tools.result_folders import points_of, rows_of, runs_of, write_run

TEST = Quantity("test top-1 (%)", "test")


def test_curves_carry_the_records(tmp_path: Path) -> None:
    finals = ((60, 70, 80), (62, 76, 81), (70, 70, 91))
    for seed, tests in enumerate(finals):
        write_run(tmp_path / f"{seed}", {"manual_seed": seed}, tests)
    write_run(tmp_path / "fast", {"train_fast": True}, (77,))
    runs = runs_of(tmp_path)
    axes: dict[str, list[float]] = {
        "epochs": [1, 2, 3],
        "bytes": [0.015, 0.03, 0.045],
        "time": [2, 4, 6],
    }
    labels = {"epochs": "epoch", "bytes": "sent by a node (MB)", "time": "training time (s)"}
    mean, error = np.mean(finals, axis=0), np.std(finals, axis=0, ddof=1)
    for name, x in axes.items():
        figure = course_figure(runs, AGAINST[name], TEST)
        assert figure is not None
        (panel,) = figure.axes
        assert (panel.get_xlabel(), panel.get_ylabel()) == (labels[name], TEST.label)
        assert panel.get_xscale() == ("log" if name == "bytes" else "linear")
        curve, single = panel.get_lines()
        np.testing.assert_allclose(points_of(curve), np.stack((np.array(x), mean), axis=1))
        (band,) = panel.collections
        corners = np.asarray(band.get_paths()[0].vertices)
        for at, middle, deviation in zip(x, mean, error, strict=True):
            heights = corners[np.isclose(corners[:, 0], at), 1]
            assert heights.min() == pytest.approx(middle - deviation)
            assert heights.max() == pytest.approx(middle + deviation)
        assert (len(points_of(single)), single.get_linestyle()) == (1, "None")
        assert single.get_marker() != curve.get_marker()


def test_curves_never_look_the_same() -> None:
    styles = {str(line_style(index)) for index in range(56)}
    assert len(styles) == 56


def test_a_bar_splits_a_step(tmp_path: Path) -> None:
    write_run(tmp_path / "1", {"lr": 0.1}, (70,))
    write_run(tmp_path / "2", {"lr": 0.2}, (70,), ending=None)
    figure = step_figure(runs_of(tmp_path))
    assert figure is not None
    (panel,) = figure.axes
    assert panel.get_xlabel() == "time of a step (ms)"
    assert [text.get_text() for text in panel.get_yticklabels()] == ["lr 0.1", "lr 0.2"]
    widths = [bar.get_width() for bar in panel.patches if isinstance(bar, Rectangle)]
    # Parts of 1 to 7 ms; 40 ms in all.
    np.testing.assert_allclose(np.array(widths), np.repeat([*range(1, 8), 12], 2))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [*(part.replace("_", " ") for part in PARTS), "other"]


def test_each_data_set_has_its_own_table_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs/1", {}, (60, 70))
    perplexities = (900.0, 200.0, 80.5)
    write_run(tmp_path / "runs/2", {"data": "ptb"}, perplexities, "perplexity", distance=0)
    flags = ["--pictures", str(tmp_path / "new/pictures"), "--format", "svg"]
    files = ["--markdown", str(tmp_path / "t.md"), "--csv", str(tmp_path / "t.csv")]
    assert main([str(tmp_path / "runs"), *flags, *files]) == 0
    folder = tmp_path / "new/pictures"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*.svg")}
    courses = [f"{stem}_{x}" for stem in ("accuracy", "perplexity") for x in AGAINST]
    expected = {f"digits/{name}.svg" for name in (*courses[:3], "consensus", "step_time")}
    # Where all nodes are the same at every record, a log axis has nothing to show.
    assert names == expected | {f"ptb/{name}.svg" for name in (*courses[3:], "step_time")}
    printed = capsys.readouterr()
    assert "nothing was recorded above 0 for consensus (ptb)" in printed.err
    text = (tmp_path / "t.md").read_text()
    assert "## digits\n" in text
    assert "test perplexity" in text.partition("## ptb\n")[2]
    assert "| 80.5 |" in text.partition("## ptb\n")[2]
    digits, ptb = rows_of(tmp_path / "t.csv")
    assert (digits["test_top1"], digits["test_perplexity"]) == ("70", "")
    assert (ptb["test_top1"], float(ptb["best_test_perplexity"])) == ("", 80.5)

    by_data = group_runs(find_runs([tmp_path / "runs"]))
    figure = course_figure(by_data["ptb"], EPOCHS, judged(METRICS["perplexity"], by_data["ptb"]))
    assert figure is not None
    assert figure.axes[0].get_yscale() == "log"
    assert figure.axes[0].get_ylabel() == "test perplexity, mean over nodes"


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_formats_are_what_their_names_say(tmp_path: Path, suffix: str) -> None:
    write_run(tmp_path / "run", {}, (60, 70))
    written, empty = draw_all(runs_of(tmp_path), tmp_path, suffix)
    assert empty == []
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix]
    assert len(written) == 5
    assert all(path.read_bytes().startswith(start) for path in written)


def test_a_real_run(tmp_path: Path) -> None:
    flags = "--backend sim --n_mpi_process 2 --arch mlp --num_epochs 2 --evaluate_consensus True"
    for seed in (1, 2):
        own = ["--manual_seed", f"{seed}", "--checkpoint", str(tmp_path / "runs")]
        assert run_main([*flags.split(), *own, "--summary_freq", "5"]) == 0
    table, pictures = tmp_path / "t.csv", tmp_path / "pictures"
    places = ["--csv", str(table), "--pictures", str(pictures)]
    assert main([str(tmp_path / "runs"), *places]) == 0
    rows = rows_of(table)
    for row in rows:
        summary = json.loads((Path(row["folder"]) / "summary.json").read_text())
        assert float(row["test_top1"]) == summary["test_top1"]
        assert float(row["worst_test_top1"]) == min(summary["test_top1_per_node"])
        assert float(row["averaged_model_test_top1"]) == summary["averaged_model_test_top1"]
        assert int(row["bytes_total"]) == summary["bytes_sent_total"]
        assert float(row["bytes_per_step"]) == summary["bytes_sent_per_step"]
        assert float(row["step_seconds"]) == summary["step_seconds"]["total"]
        assert float(row["training_seconds"]) > 0
    assert {row["manual_seed"] for row in rows} == {"1", "2"}
    assert len(list(pictures.glob("*.png"))) == 5

    figure = course_figure(runs_of(tmp_path / "runs"), AGAINST["bytes"], TEST)
    assert figure is not None
    (line,) = figure.axes[0].get_lines()
    final = statistics.fmean(float(row["test_top1"]) for row in rows)
    sent = float(rows[0]["bytes_total"]) / 2 / 1e6
    np.testing.assert_allclose(points_of(line)[-1], np.array((sent, final)))
