"""A text as a data set: columns of words that are read in windows, in order of time."""

from collections.abc import Sequence

import torch

from pcode.datasets.base import Batch, Batches, Dataset
from pcode.datasets.batches import WHOLE, LocalRank, epoch_batches, share_batches
from pcode.utils.errors import UserError

TEST_COLUMNS = 16


def columns_of(words: torch.Tensor, num_columns: int) -> torch.Tensor:
    """Cut a text into contiguous pieces of equal length, num_columns x (l + 1).

    Piece c holds words c l to (c + 1) l, both included: its last word, which is only predicted, is
    the first word of the next piece, from which that predicts. So every word but the text's first
    is predicted once, except for the fewer than num_columns at the end that do not make a row.

    Args:
        words: the text, int64, of more than num_columns words.
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

    Args:
        train_words, test_words: the texts, int64, positions in the vocabulary.
        vocabulary: the words.
        rnn_bptt_len: words of a window.
        batch_size: columns of a node.
        n_mpi_process: number of nodes.
    """

    task = "language"
    labelled = False

    def __init__(
        self,
        name: str,
        *,
        train_words: torch.Tensor,
        test_words: torch.Tensor,
        vocabulary: Sequence[str],
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
        self,
        share: torch.Tensor,
        num_batches: int,
        batch_size: int,
        *,
        seed: int,
        rank: int,
        epoch: int,
        first: int = 0,
        local_rank: LocalRank = WHOLE,
    ) -> Batches:
        """Read the windows of the node's columns in order of time, from number `first` on.

        A node that holds all columns (`--partition_data none`) draws batch_size of them for each
        epoch.
        """
        (columns,) = epoch_batches(
            share, 1, batch_size, seed=seed, rank=rank, epoch=epoch, local_rank=local_rank
        )
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
        return words[:, :-1], words[:, 1:]
