"""A flipped bit in a file of a run is found, or it changes nothing of what is loaded."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from pcode.config import config_of_run
from pcode.models.sequential import logistic_regression
from pcode.training.checkpoint import last_step, read_manifest, read_node
from pcode.training.records import load_model, model_file
from pcode.utils.errors import UserError
from pcode.utils.layout import Layout
from tests.resume.children import finished, run_folder

NUM_FLIPS = 400


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("trained")
    finished(folder, ("--arch", "logistic_regression", "--num_epochs", "1"))
    return run_folder(folder)


def some_of(file: Path) -> Iterable[int]:
    """Positions of bits in the file."""
    num_bits = 8 * file.stat().st_size
    return random.Random(6).sample(range(num_bits), min(NUM_FLIPS, num_bits))


def count_found(file: Path, positions: Iterable[int], load: Callable[[], Any]) -> int:
    """Flip bits of a file, one at a time; how many flips the reader refuses.

    The others have to give what the file gave before.
    """
    content, before, num_found = file.read_bytes(), load(), 0
    for position in positions:
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        file.write_bytes(damaged)
        try:
            assert load() == before, f"bit {position} of {file.name}"
        except UserError:
            num_found += 1
    file.write_bytes(content)
    return num_found


def test_in_a_manifest(trained: Path) -> None:
    step = last_step(trained)
    assert step is not None
    file = trained / f"checkpoints/{step}.json"
    every = range(8 * file.stat().st_size)
    assert count_found(file, every, lambda: read_manifest(trained, step)) == len(every)


def test_in_a_configuration(trained: Path) -> None:
    file = trained / "config.yaml"
    found = count_found(file, some_of(file), lambda: config_of_run(trained))
    assert found > 0.9 * NUM_FLIPS  # the others are in the first line, which is a comment


def test_a_configuration_of_which_nothing_is_left(trained: Path, tmp_path: Path) -> None:
    for kept in (0, 20):
        content = (trained / "config.yaml").read_bytes()[:kept]
        (tmp_path / "config.yaml").write_bytes(content)
        with pytest.raises(UserError, match="holds no flags"):
            config_of_run(tmp_path)


def test_in_a_model(trained: Path) -> None:
    file = model_file(trained / "0", None)

    def load() -> list[bytes]:
        model = logistic_regression((64,), 10)
        load_model(model, file)
        return [tensor.numpy().tobytes() for tensor in model.state_dict().values()]

    assert count_found(file, some_of(file), load) > 0.5 * NUM_FLIPS


def test_in_a_nodes_checkpoint(trained: Path) -> None:
    step = last_step(trained)
    assert step is not None
    file, manifest = trained / f"0/checkpoint_{step}.pt", read_manifest(trained, step)
    state = torch.load(file, weights_only=True)
    layout = Layout(tuple(state["names"]), tuple(map(tuple, state["shapes"])))

    def load() -> str:
        return str(read_node(trained, manifest, 0, layout))

    assert count_found(file, some_of(file), load) == NUM_FLIPS
