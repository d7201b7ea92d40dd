"""Texts: the Penn Treebank, WikiText-2, any in their format, a Markov chain's."""

import re
from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, NamedTuple

import torch

from pcode.datasets.base import Batch, Batches, Dataset, Order, epoch_batches, share_batches
from pcode.datasets.data_files import text_lines
from pcode.datasets.in_memory import check_fits
from pcode.utils.errors import UserError, naming_flags
from pcode.utils.files import stored
from pcode.utils.options import Option
from pcode.utils.seeding import torch_generator

BpttLength = Annotated[
    int, Option("words through which a gradient goes back", minimum=1, default=35)
]
TEST_COLUMNS = 16
END_OF_LINE = "<eos>"
UNKNOWN = "<unk>"

DEFAULT_VOCABULARY, DEFAULT_WORDS = 1_000, 100_000
# As with the digits, every run has the same text.
CHAIN_SEED = 0
# Of the words that may follow a word: 1.75 bits, a perplexity of 3.36.
SUCCESSORS = (1 / 2, 1 / 4, 1 / 8, 1 / 8)
# What a word of the vocabulary and a place of the text take while they are drawn, in lists.
WORD_BYTES, PLACE_BYTES = 300, 60


class TextFiles(NamedTuple):
    """Where texts, written with blanks, lie under DATA_DIR; whether they are read in lower case."""

    train: str
    test: str
    lower: bool = False


TEXTS = {
    # As prepared by Mikolov et al. (2010): 929,589 words for training, 10,000 different ones, one
    # sentence a line.
    "ptb": TextFiles("ptb/ptb.train.txt", "ptb/ptb.test.txt"),
    # Merity et al., arXiv 1609.07843: 2,088,628 words for training. In lower case, because the
    # 28.95 M parameters of the CHOCO paper's LSTM are those of 28,869 words; as published it has
    # 33,278.
    "wikitext2": TextFiles(
        "wikitext-2/wiki.train.tokens", "wikitext-2/wiki.test.tokens", lower=True
    ),
}


def columns_of(words: torch.Tensor, num_columns: int) -> torch.Tensor:
    """Cut a text, int64, into contiguous pieces of equal length, num_columns x (l + 1).

    Piece c holds words c l to (c + 1) l, both included: its last word, which is only predicted, is
    the first word of the next piece, from which that predicts. So every word but the text's first
    is predicted once, except for the fewer than num_columns at the end that do not make a row.
    """
    length = (len(words) - 1) // num_columns
    return words[: num_columns * length + 1].unfold(0, length + 1, length)


class Text(Dataset):
    """A text for training and one for testing.

    What is dealt to the nodes is the columns of the training text, n_mpi_process * batch_size
    of them (see columns_of). An epoch goes through them once from left to right, in windows of
    rnn_bptt_len words; the last one may be shorter. A batch is a window of the node's columns:
    inputs and targets, the words that follow them, int64 [columns, words]. Who trains carries the
    model's state from each window to the next and starts with an empty one at every epoch.

    The test text is read in the same way in 16 columns whatever the number of nodes, so that all
    runs predict the same words; fewer than 16 words at its end are left out.

    The texts are int64, positions in the vocabulary.
    """

    task = "language"
    labelled = False

    def __init__(
        self,
        name: str,
        train_words: torch.Tensor,
        test_words: torch.Tensor,
        vocabulary: Sequence[str],
        *,
        rnn_bptt_len: int,
        batch_size: int,
        n_mpi_process: int,
    ) -> None:
        num_columns = n_mpi_process * batch_size
        if len(train_words) <= num_columns:
            raise UserError(
                f"--data {name}: a training text of {len(train_words)} words is too short for "
                f"{num_columns} columns; fewer --n_mpi_process {n_mpi_process} or a smaller "
                f"--batch_size {batch_size}"
            )
        if len(test_words) < 2:
            raise UserError(f"--data {name}: the test text has fewer than 2 words")
        self.name = name
        self.vocabulary = tuple(vocabulary)
        self.input_shape, self.num_classes = (), len(self.vocabulary)
        self.window = rnn_bptt_len
        self.train_columns = columns_of(train_words, num_columns)
        self.test_columns = columns_of(test_words, min(TEST_COLUMNS, len(test_words) - 1))
        self.train_targets = torch.zeros(num_columns, dtype=torch.int64)
        self.num_test = self.test_columns[:, 1:].numel()

    def batches_per_epoch(self, num_nodes: int, batch_size: int) -> int:
        """Return the number of windows of a column."""
        return len(range(0, self.train_columns.shape[1] - 1, self.window))

    def train_batches(
        self, share: torch.Tensor, num_batches: int, batch_size: int, order: Order, first: int = 0
    ) -> Batches:
        """Read the windows of the node's columns in order of time, from number `first` on.

        A node that holds all columns (`--partition_data none`) draws batch_size of them for each
        epoch.
        """
        (columns,) = epoch_batches(share, 1, batch_size, order)
        windows = range(first, num_batches)
        return self.read([columns] * len(windows), windows)

    def read(self, batches: Sequence[torch.Tensor], seeds: Sequence[int]) -> Batches:
        """Read window seeds[0] of the columns batches[0], and so on: there is nothing to draw."""
        for columns, number in zip(batches, seeds, strict=True):
            yield self._window(self.train_columns, number * self.window, columns)

    def test_batches(self, part: int = 0, num_shares: int = 1) -> Batches:
        """Read the windows of the test text, or of some of its columns; a share may have none."""
        for mine in share_batches(len(self.test_columns), part, num_shares, TEST_COLUMNS):
            for begin in range(0, self.test_columns.shape[1] - 1, self.window):
                yield self._window(self.test_columns, begin, mine)

    def _window(self, columns: torch.Tensor, begin: int, chosen: torch.Tensor) -> Batch:
        words = columns[:, begin : begin + self.window + 1].index_select(0, chosen)
        # In memory of their own: page-locked copies of a slice would be made in two steps.
        return words[:, :-1].contiguous(), words[:, 1:].contiguous()


def load_text(
    name: str, data_dir: str, *, rnn_bptt_len: BpttLength, batch_size: int, n_mpi_process: int
) -> Text:
    """Read one of TEXTS: two texts over the vocabulary of the first.

    The vocabulary is the training text's words by falling frequency, words that are equally
    frequent in the order of their first appearance; "<unk>" comes last if the text itself has
    none, and stands for the words of the test text that are not in it.
    """
    files = TEXTS[name]
    train_words, test_words = (
        list(_words(name, Path(data_dir, file), files.lower)) for file in (files.train, files.test)
    )
    vocabulary = [word for word, _ in Counter(train_words).most_common()]
    if UNKNOWN not in vocabulary:
        vocabulary.append(UNKNOWN)
    numbers = {word: number for number, word in enumerate(vocabulary)}
    unknown = numbers[UNKNOWN]
    train, test = (
        torch.tensor([numbers.get(word, unknown) for word in words], dtype=torch.int64)
        for words in (train_words, test_words)
    )
    reading = {"batch_size": batch_size, "n_mpi_process": n_mpi_process}
    return Text(name, train, test, vocabulary, rnn_bptt_len=rnn_bptt_len, **reading)


def _words(name: str, path: Path, lower: bool) -> Iterator[str]:
    """Read the words of a file, with one more at the end of every line, also of an empty one."""
    hint = "; put the text there, or name another folder with --data_dir"
    with naming_flags(f"--data {name}"):
        for line in text_lines(stored(path), hint):
            yield from (line.lower() if lower else line).split()
            yield END_OF_LINE


def load_synthetic_text(parameters: str, **reading: int) -> Text:
    """Return a text from a Markov chain: each word is followed by one of four, which are its own.

    Three of these are drawn uniformly; the fourth is the next word of the vocabulary, so that all
    words come up again and again. They follow with probability 1/2, 1/4, 1/8 and 1/8. The best that
    can be reached is a perplexity of 3.36; who knows only how frequent words are has one of about
    three quarters of the vocabulary. The test text, a tenth of the training text's length, goes on
    where that ends.

    The parameters are "", "VOCABULARY" or "VOCABULARY:WORDS"; 1,000 words and a training text of
    100,000 if not given. It is read as Text says.
    """
    name = "synthetic:text" + (f":{parameters}" if parameters else "")
    given = re.fullmatch(r"(?:(\d{1,9})(?::(\d{1,9}))?)?", parameters, re.ASCII)
    num_words = int(given[1] or DEFAULT_VOCABULARY) if given else 0
    length = int(given[2] or DEFAULT_WORDS) if given else 0
    if min(num_words, length) < 2:
        raise UserError(
            f"--data {name}: must be synthetic:text[:VOCABULARY[:WORDS]] with whole numbers from 2 "
            f"on, as synthetic:text:{DEFAULT_VOCABULARY}:{DEFAULT_WORDS}"
        )
    check_fits(name, num_words * WORD_BYTES + length * PLACE_BYTES)
    generator = torch_generator(CHAIN_SEED, "synthetic text")
    drawn = torch.randint(num_words, (num_words, len(SUCCESSORS) - 1), generator=generator)
    last = (torch.arange(num_words) + 1) % num_words
    successors = torch.column_stack([drawn, last]).tolist()
    bounds = list(accumulate(SUCCESSORS[:-1]))
    draws = torch.rand(length + length // 10, generator=generator, dtype=torch.float64)
    word, words = 0, []
    for draw in draws.tolist():
        words.append(word)
        word = successors[word][bisect(bounds, draw)]
    text = torch.tensor(words, dtype=torch.int64)
    vocabulary = [f"word{number}" for number in range(num_words)]
    return Text(name, text[:length], text[length:], vocabulary, **reading)
