"""Texts: what is read of a file, how it is cut into columns and windows, what can be learned."""

from __future__ import annotations

import bz2
import gzip
import lzma
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pcode.datasets import load_dataset, partition_indices
from pcode.datasets.base import Order
from pcode.datasets.text import Text, columns_of, load_synthetic_text
from pcode.utils.errors import UserError

# Two lines of Shakespeare, with an empty one, capitals and a word that comes thrice.
TRAIN = "To be or not to be \n \n that is the question : to\n"
TEST = "to be the answer\nTo"


def flags(folder: Path, **others: Any) -> dict[str, Any]:
    return {
        "data_dir": str(folder),
        "rnn_bptt_len": 3,
        "batch_size": 2,
        "n_mpi_process": 1,
        **others,
    }


def write(folder: Path, data: str, train: str = TRAIN, test: str = TEST) -> None:
    names = {
        "ptb": ("ptb/ptb.train.txt", "ptb/ptb.test.txt"),
        "wikitext2": ("wikitext-2/wiki.train.tokens", "wikitext-2/wiki.test.tokens"),
    }
    for name, content in zip(names[data], (train, test), strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


def load(folder: Path, data: str, **others: Any) -> Text:
    dataset = load_dataset(data, flags(folder, **others))
    assert isinstance(dataset, Text)
    return dataset


def spelled(dataset: Text, words: torch.Tensor) -> str:
    return " ".join(dataset.vocabulary[number] for number in words.tolist())


def make(num_train: int, num_test: int = 2, **others: Any) -> Text:
    """A text whose words are 0, 1, 2, ..."""
    return Text(
        "test",
        train_words=torch.arange(num_train),
        test_words=torch.arange(num_test),
        vocabulary=[str(number) for number in range(max(num_train, num_test))],
        **{"rnn_bptt_len": 3, "batch_size": 2, "n_mpi_process": 1, **others},
    )


def epoch(dataset: Text, share: torch.Tensor, batch_size: int, **place: Any) -> list[Any]:
    order = Order(**{"seed": 6, "rank": 0, "epoch": 0, **place})
    num_batches = dataset.batches_per_epoch(1, batch_size)
    batches = list(dataset.train_batches(share, num_batches, batch_size, order))
    assert len(batches) == num_batches
    return batches


def test_a_file_in_lower_case(tmp_path: Path) -> None:
    write(tmp_path, "wikitext2")
    dataset = load(tmp_path, "wikitext2", batch_size=1)
    assert (dataset.name, dataset.task, dataset.labelled) == ("wikitext2", "language", False)
    assert dataset.input_shape == ()
    # By frequency, then by first appearance; "<unk>" is not in the text.
    assert dataset.vocabulary == tuple("to <eos> be or not that is the question : <unk>".split())
    assert dataset.num_classes == 11
    read = spelled(dataset, dataset.train_columns[0])
    assert read == "to be or not to be <eos> <eos> that is the question : to <eos>"
    # Columns of one step: each holds a word and the next.
    words = [spelled(dataset, column[:1]) for column in dataset.test_columns]
    assert " ".join(words) == "to be the <unk> <eos> to"
    assert spelled(dataset, dataset.test_columns[-1]) == "to <eos>"


def test_a_file_as_it_stands(tmp_path: Path) -> None:
    write(tmp_path, "ptb", train="a <unk> N N\nA n N\n")
    dataset = load(tmp_path, "ptb", batch_size=1)
    assert dataset.vocabulary == ("N", "<eos>", "a", "<unk>", "A", "n")
    assert spelled(dataset, dataset.train_columns[0]) == "a <unk> N N <eos> A n N <eos>"


def test_any_text_in_this_format(tmp_path: Path) -> None:
    license = Path(__file__).parents[2].joinpath("LICENSE").read_text(encoding="utf-8")
    half = len(license) // 2
    write(tmp_path, "ptb", license[:half], license[half:])
    dataset = load(tmp_path, "ptb")
    kept = license[:half].split()
    num_lines = len(license[:half].splitlines())
    assert dataset.num_classes == len(set(kept)) + 2
    assert (dataset.train_columns.shape[1] - 1) * 2 in (
        len(kept) + num_lines - 1,
        len(kept) + num_lines - 2,
    )
    assert (
        dataset.vocabulary[0]
        == (Counter(kept) + Counter({"<eos>": num_lines})).most_common(1)[0][0]
    )


@given(
    num_words=st.integers(2, 200),
    num_columns=st.integers(1, 20),
    window=st.integers(1, 40),
)
def test_windows_are_the_columns_cut_in_time(num_words: int, num_columns: int, window: int) -> None:
    if num_words <= num_columns:
        with pytest.raises(UserError, match=f"{num_words} words is too short for {num_columns}"):
            make(num_words, batch_size=num_columns, rnn_bptt_len=window)
        return
    dataset = make(num_words, batch_size=num_columns, rnn_bptt_len=window)
    share = torch.arange(num_columns)
    batches = epoch(dataset, share, num_columns)
    assert all(inputs.shape == targets.shape for inputs, targets in batches)
    # Otherwise a GPU's batch would be copied twice on its way to page-locked memory.
    assert all(part.is_contiguous() for batch in batches for part in batch)
    assert {inputs.shape[1] for inputs, _ in batches[:-1]} <= {window}
    assert 1 <= batches[-1][0].shape[1] <= window
    inputs, targets = (torch.cat(parts, dim=1) for parts in zip(*batches, strict=True))
    # The words count upwards: each column is contiguous, and the next word is one more.
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(inputs.shape[1]))
    assert torch.equal(targets, inputs + 1)
    predicted = sorted(targets.flatten().tolist())
    assert predicted == list(range(1, len(predicted) + 1))
    assert num_words - 1 - len(predicted) < num_columns


def test_columns_by_hand() -> None:
    assert columns_of(torch.arange(10), 4).tolist() == [[0, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 8]]


def test_columns_are_dealt_once() -> None:
    dataset = make(1000, n_mpi_process=3, batch_size=4)
    shares = partition_indices(dataset.train_targets, 3, "random", 6, 0)
    firsts = []
    for rank, share in enumerate(shares):
        batches = epoch(dataset, share, 4, rank=rank)
        assert len(batches) == math.ceil(83 / 3)
        assert {len(inputs) for inputs, _ in batches} == {4}
        firsts += batches[0][0][:, 0].tolist()
    assert sorted(firsts) == list(range(0, 12 * 83, 83))


def test_who_holds_all_columns_draws_some_for_each_epoch() -> None:
    dataset = make(1000, n_mpi_process=4, batch_size=5)
    share = torch.arange(20)

    def first_words(**place: int) -> set[int]:
        batches = epoch(dataset, share, 5, **place)
        columns = torch.cat([inputs for inputs, _ in batches], dim=1)
        assert torch.equal(columns, columns[:, :1] + torch.arange(columns.shape[1]))
        return set(columns[:, 0].tolist())

    assert len(first_words()) == 5
    assert first_words() == first_words()
    assert first_words(epoch=1) != first_words()
    assert first_words(rank=1) != first_words()
    assert first_words(seed=7) != first_words()


@pytest.mark.parametrize("num_test", [2, 9, 17, 100, 1000])
@pytest.mark.parametrize("num_parts", [1, 3, 16, 20])
def test_shares_of_the_test_text_predict_every_word_once(num_test: int, num_parts: int) -> None:
    dataset = make(10, num_test, rnn_bptt_len=4)
    predicted: list[int] = []
    for part in range(num_parts):
        batches = list(dataset.test_batches(part, num_parts))
        for inputs, targets in batches:
            assert torch.equal(targets, inputs + 1)
            predicted += targets.flatten().tolist()
        if batches:
            columns = torch.cat([inputs for inputs, _ in batches], dim=1)
            assert torch.equal(columns, columns[:, :1] + torch.arange(columns.shape[1]))
    assert sorted(predicted) == list(range(1, dataset.num_test + 1))
    assert num_test - 1 - dataset.num_test < 16


def test_the_synthetic_text() -> None:
    dataset = load_synthetic_text("50:20000", rnn_bptt_len=35, batch_size=1, n_mpi_process=1)
    assert dataset.name == "synthetic:text:50:20000"
    assert (dataset.num_classes, len(dataset.vocabulary)) == (50, 50)
    (words,) = dataset.train_columns
    assert len(words) == 20000
    assert dataset.num_test == 1984  # of 2,000 in 16 columns
    pairs = torch.zeros(50, 50, dtype=torch.float64)
    pairs.index_put_((words[:-1], words[1:]), torch.ones(1, dtype=torch.float64), accumulate=True)
    rows = pairs / pairs.sum(dim=1, keepdim=True)
    # Each word comes up, has four followers or fewer, and the next number is one of them.
    assert int((rows > 0).sum(dim=1).max()) <= 4
    assert int((rows > 0).sum(dim=1).min()) >= 2
    following = rows[torch.arange(50), (torch.arange(50) + 1) % 50]
    assert float(following.min()) > 0
    # What the counts of the training text give on the test text: knowing the last word, and not.
    loss_of_pairs = loss_of_words = 0.0
    frequency = pairs.sum(dim=0) / pairs.sum()
    for inputs, targets in dataset.test_batches():
        loss_of_pairs -= float(rows[inputs, targets].log().sum())
        loss_of_words -= float(frequency[targets].log().sum())
    assert math.exp(loss_of_pairs / dataset.num_test) == pytest.approx(2**1.75, rel=0.1)
    assert math.exp(loss_of_words / dataset.num_test) > 30


def test_the_synthetic_text_never_changes() -> None:
    sizes = {"rnn_bptt_len": 35, "batch_size": 1, "n_mpi_process": 1}
    first = load_synthetic_text("", **sizes)
    assert (first.name, first.num_classes) == ("synthetic:text", 1000)
    assert first.train_columns.shape == (1, 100_000)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        again = load_synthetic_text("", **sizes)
    assert torch.equal(first.train_columns, again.train_columns)
    assert torch.equal(first.test_columns, again.test_columns)
    assert first.train_columns[0, :12].tolist() == FIRST_WORDS


FIRST_WORDS = [0, 699, 270, 841, 722, 508, 296, 414, 23, 251, 173, 347]


@pytest.mark.parametrize("parameters", ["1", "a", "10:x", "10:20:30", ":", "10:", "-5", "9" * 12])
def test_wrong_parameters_of_the_synthetic_text(parameters: str) -> None:
    with pytest.raises(UserError, match=r"--data synthetic:text:.* must be synthetic:text\[:VOC"):
        load_synthetic_text(parameters, rnn_bptt_len=35, batch_size=1, n_mpi_process=1)


@pytest.mark.parametrize(
    ("ending", "pack"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
def test_a_byte_order_mark_is_no_word_and_a_text_may_be_compressed(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]
) -> None:
    write(tmp_path, "ptb", train="to be to", test="be to")
    plain = load(tmp_path, "ptb", batch_size=1)
    for path in list((tmp_path / "ptb").iterdir()):
        content = path.read_text(encoding="utf-8").encode("utf-8-sig")
        path.unlink()
        path.with_name(f"{path.name}{ending}").write_bytes(pack(content))
    marked = load(tmp_path, "ptb", batch_size=1)
    assert marked.vocabulary == plain.vocabulary == ("to", "be", "<eos>", "<unk>")
    assert torch.equal(marked.train_columns, plain.train_columns)
    assert torch.equal(marked.test_columns, plain.test_columns)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--data ptb: .*ptb\.train\.txt cannot be read.*--data_dir"
    ):
        load(tmp_path, "ptb")
    (tmp_path / "ptb").mkdir()
    (tmp_path / "ptb/train.txt").touch()
    with pytest.raises(
        UserError, match=r"No such file or directory; beside it lie train\.txt; put"
    ):
        load(tmp_path, "ptb")
    write(tmp_path, "ptb")
    (tmp_path / "ptb/ptb.test.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"ptb\.test\.txt is not a text file"):
        load(tmp_path, "ptb")
    (tmp_path / "ptb/ptb.test.txt").unlink()
    (tmp_path / "ptb/ptb.test.txt.xz").write_bytes(lzma.compress(TEST.encode())[:-8])
    with pytest.raises(
        UserError, match=r"ptb\.test\.txt\.xz cannot be read: Compressed file ended"
    ):
        load(tmp_path, "ptb")
    write(tmp_path, "ptb", test="")
    with pytest.raises(UserError, match="the test text has fewer than 2 words"):
        load(tmp_path, "ptb")
    write(tmp_path, "ptb")
    with pytest.raises(UserError, match=r"15 words is too short for 16 columns; .*_process 8 .*2$"):
        load(tmp_path, "ptb", n_mpi_process=8)
