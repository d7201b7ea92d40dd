"""Texts: the Penn Treebank, WikiText-2, any text in their format, and one from a Markov chain."""

import re
from bisect import bisect
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import torch

from pcode.datasets.base import BpttLength
from pcode.datasets.in_memory import check_fits
from pcode.datasets.text_columns import Text
from pcode.utils.errors import UserError
from pcode.utils.files import check_file
from pcode.utils.seeding import torch_generator

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
    """Where a text lies under DATA_DIR; any text will do that is written with blanks like them.

    Attributes:
        lower: whether its words are read in lower case.
    """

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


def load_text(
    name: str, data_dir: str, *, rnn_bptt_len: BpttLength, batch_size: int, n_mpi_process: int
) -> Text:
    """One of TEXTS: two texts over the vocabulary of the first.

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
    return Text(
        name,
        train_words=torch.tensor([numbers[word] for word in train_words], dtype=torch.int64),
        test_words=torch.tensor(
            [numbers.get(word, unknown) for word in test_words], dtype=torch.int64
        ),
        vocabulary=vocabulary,
        rnn_bptt_len=rnn_bptt_len,
        batch_size=batch_size,
        n_mpi_process=n_mpi_process,
    )


def _words(name: str, path: Path, lower: bool) -> Iterator[str]:
    """Read the words of a file, with one more at the end of every line, also of an empty one."""
    try:
        check_file(path)
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield from (line.lower() if lower else line).split()
                yield END_OF_LINE
    except UnicodeDecodeError:
        raise UserError(f"--data {name}: {path} is not a text file (UTF-8)") from None
    except OSError as error:
        raise UserError(
            f"--data {name}: {path} cannot be read: {error.strerror}; put the text there, or name "
            "another folder with --data_dir"
        ) from None


def load_synthetic_text(
    parameters: str, *, rnn_bptt_len: BpttLength, batch_size: int, n_mpi_process: int
) -> Text:
    """A text from a Markov chain: each word is followed by one of four, which are its own.

    Three of these are drawn uniformly; the fourth is the next word of the vocabulary, so that all
    words come up again and again. They follow with probability 1/2, 1/4, 1/8 and 1/8. The best that
    can be reached is a perplexity of 3.36; who knows only how frequent words are has one of about
    three quarters of the vocabulary. The test text, a tenth of the training text's length, goes on
    where that ends.

    Args:
        parameters: "", "VOCABULARY" or "VOCABULARY:WORDS"; 1,000 words and a training text of
            100,000 if not given.
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
    return Text(
        name,
        train_words=text[:length],
        test_words=text[length:],
        vocabulary=[f"word{number}" for number in range(num_words)],
        rnn_bptt_len=rnn_bptt_len,
        batch_size=batch_size,
        n_mpi_process=n_mpi_process,
    )
