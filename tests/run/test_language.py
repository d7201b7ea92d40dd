"""A language model on a text that every Python has: the language reference behind help()."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from tests.run.runs import finished

WORDS = re.compile(r"[a-z_]+|\d+|[^\w\s]")
BLOCK_LINES = 50  # every tenth block is for testing
RARE = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the text as the Penn Treebank's files are written: rare words are <unk>."""
    text = "\n".join(topics[name] for name in sorted(topics))
    assert len(text) > 300_000
    lines = [line for line in (WORDS.findall(line.lower()) for line in text.splitlines()) if line]
    parts: dict[str, list[list[str]]] = {"train": [], "test": []}
    for number, line in enumerate(lines):
        parts["test" if number // BLOCK_LINES % 10 == 9 else "train"].append(line)
    counts = Counter(word for line in parts["train"] for word in line)
    made = tmp_path_factory.mktemp("text")
    (made / "ptb").mkdir()
    for part, lines in parts.items():
        known = [[w if counts[w] >= RARE else "<unk>" for w in line] for line in lines]
        (made / f"ptb/ptb.{part}.txt").write_text("".join(" ".join(k) + "\n" for k in known))
    return made


def unigram_perplexity(folder: Path) -> tuple[float, int]:
    """Of a model that knows how often each word is, and the number of words."""
    train, test = (
        [
            word
            for line in (folder / f"ptb/ptb.{part}.txt").read_text().splitlines()
            for word in [*line.split(), "<eos>"]
        ]
        for part in ("train", "test")
    )
    counts = Counter(train)
    surprise = -sum(math.log(counts[word] / len(train)) for word in test)
    return math.exp(surprise / len(test)), len(counts)


def learned(place: Path, folder: Path, *flags: str) -> dict[str, Any]:
    """The summary of a run, whose perplexity has to be far below the words' frequencies alone."""
    model = ("--arch", "rnn_lm", "--rnn_n_hidden", "64", "--rnn_n_layers", "1")
    text = ("--data", "ptb", "--data_dir", str(folder), "--rnn_bptt_len", "20")
    learning = ("--comm_op", "sign", "--lr", "2", "--train_fast", "True")
    result = finished(place, *model, *text, *learning, *flags)
    by_frequency, num_words = unigram_perplexity(folder)
    assert 100 < by_frequency < num_words / 10
    assert result["test_perplexity"] < by_frequency / 2
    assert result["averaged_model_test_perplexity"] < by_frequency / 2
    assert result["worst_test_perplexity"] == max(result["test_perplexity_per_node"])
    return result


def test_four_nodes_under_mpi_learn_a_text(tmp_path: Path, folder: Path) -> None:
    flags = ("--n_mpi_process", "4", "--batch_size", "5", "--num_epochs", "2")
    result = learned(tmp_path, folder, *flags)
    assert result["test_perplexity"] < 60


@pytest.mark.slow
def test_the_social_network_learns_a_text(tmp_path: Path, folder: Path) -> None:
    nodes = ("--backend", "sim", "--n_mpi_process", "32", "--graph_topology", "social")
    flags = ("--consensus_stepsize", ".5", "--batch_size", "2", "--num_epochs", "4")
    assert len(learned(tmp_path, folder, *nodes, *flags)["test_perplexity_per_node"]) == 32
