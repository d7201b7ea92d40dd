"""What TensorBoard shows is what the log holds."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from tests.run.runs import finished, run_folder, summary


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) of every scalar in an event file.

    A record is its length (8 bytes), a checksum (4), the event and another checksum (4).
    """
    (file,) = folder.glob("events.out.tfevents.*")
    content = file.read_bytes()
    found: dict[str, list[tuple[int, float]]] = {}
    while content:
        (length,) = struct.unpack_from("<Q", content)
        event = Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_shows_what_the_log_holds(tmp_path: Path) -> None:
    flags = (
        "--backend",
        "sim",
        "--n_mpi_process",
        "4",
        "--graph_topology",
        "star",
        "--arch",
        "mlp",
        "--num_epochs",
        "3",
        "--summary_freq",
        "20",
    )
    watched = ("--evaluate_avg", "True", "--evaluate_consensus", "True")
    finished(tmp_path, *flags, *watched)
    shown = scalars(run_folder(tmp_path) / "tensorboard")
    lines = (run_folder(tmp_path) / "0/log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    assert len(evaluations) == 3
    result = summary(tmp_path)
    assert evaluations[-1]["bytes_sent_mean"] == result["bytes_sent_total"] / 4
    assert evaluations[-1]["bytes_sent"] > evaluations[-1]["bytes_sent_mean"]  # the star's hub
    for name in ("test_top1", "worst_test_top1", "averaged_model_test_top1", "consensus_distance"):
        want: Any = [(record["step"], pytest.approx(record[name])) for record in evaluations]
        assert shown[f"evaluation/{name}"] == want
        by_bytes: Any = [
            (round(record["bytes_sent_mean"]), pytest.approx(record[name]))
            for record in evaluations
        ]
        assert shown[f"evaluation_by_bytes_sent/{name}"] == by_bytes
    training = [record for record in records if record["kind"] == "train"]
    for part in ("total", "data", "wait"):
        want = [(r["step"], pytest.approx(r["step_seconds"][part])) for r in training]
        assert shown[f"train/step_seconds/{part}"] == want
