"""Word vectors in text files, as GloVe, word2vec, fastText and gensim write them."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from pcode.datasets.data_files import text_lines
from pcode.utils.errors import UserError
from pcode.utils.files import PACKED, beside, is_hidden, one_line

# How Python reads bytes that are not UTF-8, where asked to.
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


def load_embeddings(
    data_dir: str, vocabulary: Sequence[str], num_dimensions: int
) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """Load the vectors of the words of a vocabulary, from a file of text.

    A line for each word, "word x1 ... xD", D = num_dimensions. The first may be "COUNT D", as
    word2vec, fastText and gensim write it, unless D is 1: then it is a word's. Blank lines are
    skipped, and so are words that are not UTF-8. Words are looked up as they stand in the
    vocabulary.

    The file is the one DATA_DIR/*.Dd.txt, as GloVe names most of its own (glove.6B.200d.txt); where
    there is none, the one *.Dd.vec, or either of them compressed; where there is none either, the
    one *.txt or *.vec, perhaps compressed, that begins with vectors of D numbers.

    The rows are float32 V x D, 0 for a word that the file lacks; with them come which words it has,
    bool V, and notices for the user. Of no file or several, a line that is no vector of D finite
    numbers, or no word of the vocabulary it raises a UserError.
    """
    path = _file_of_vectors(Path(data_dir), num_dimensions)
    numbers = {word: number for number, word in enumerate(vocabulary)}
    rows = torch.zeros(len(vocabulary), num_dimensions)
    known = torch.zeros(len(vocabulary), dtype=torch.bool)
    num_skipped = 0
    for line, word, entries in _vectors(path, num_dimensions):
        num_skipped += _NOT_UTF8.search(word) is not None
        if word in numbers:
            try:
                vector = torch.tensor([float(entry) for entry in entries])
                if not vector.isfinite().all():
                    raise ValueError("not finite")
            except ValueError as error:
                raise UserError(f"{path}, line {line}: {error}") from None
            rows[numbers[word]], known[numbers[word]] = vector, True
    if not known.any():
        raise UserError(f"{path}: has none of the words of the vocabulary ({len(vocabulary)})")
    notice = f"{path}: skipped words that are not UTF-8: {num_skipped}"
    return rows, known, (notice,) if num_skipped else ()


def _vectors(path: Path, num_dimensions: int) -> Iterator[tuple[int, str, list[str]]]:
    """Read words and their numbers, not parsed, with the numbers of their lines."""
    lines = text_lines(path, newline="\n", errors="surrogateescape")
    header = re.compile(rf"\d+ +{num_dimensions}") if num_dimensions > 1 else None
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r\n\t ").replace("\t", " ")
        if not text or (header is not None and header.fullmatch(text)):
            continue
        header = None
        # From the right, because some of GloVe's words hold blanks.
        word, *entries = text.rsplit(" ", num_dimensions)
        if len(entries) != num_dimensions:
            raise UserError(
                f"{path}, line {number}: not a word and a vector of dimension {num_dimensions}"
            )
        yield number, word, entries


def _dimension(path: Path) -> int:
    """Return the dimension of the vectors that a file begins with; 0: it does not."""
    with suppress(UserError, ValueError, StopIteration):
        lines = text_lines(path, newline="\n", errors="surrogateescape")
        rows = filter(None, (line.split() for line in lines))
        word, *entries = next(rows)
        if word.isdecimal() and len(entries) == 1:  # COUNT D
            word, *entries = next(rows)
        # The first word is a frequent one: it holds no blank, and is no number as in a table.
        if not re.match(r"[-+.]?\d", word) and all(math.isfinite(float(each)) for each in entries):
            return len(entries)
    return 0


def _file_of_vectors(folder: Path, num_dimensions: int) -> Path:
    """Return the one file in which load_embeddings finds its vectors, or raise a UserError."""
    usual, *others = (f"{kind}{packed}" for packed in ("", *PACKED) for kind in (".txt", ".vec"))
    shown = [path for path in sorted(folder.glob("*")) if not is_hidden(path.name)]

    def ending(*endings: str) -> list[Path]:
        return [path for path in shown if path.name.endswith(endings)]

    size = f".{num_dimensions}d"
    files = ending(size + usual) or ending(*(size + each for each in others))
    # Names that say so are enough: then no other file is opened.
    dimensions = {} if files else {path: _dimension(path) for path in ending(usual, *others)}
    files += [path for path, dimension in dimensions.items() if dimension == num_dimensions]
    if len(files) != 1:
        pattern = folder / f"*{size}.txt"
        known = (f"; {path.name} is of dimension {of}" for path, of in dimensions.items() if of)
        found = ", ".join(path.name for path in files)
        found = found or f"none{''.join(known) or beside(pattern)}"
        raise UserError(
            f"--rnn_use_pretrained_emb True: needs exactly one file of word vectors {pattern}, or "
            f"else one *.txt or *.vec there, of dimension {num_dimensions} (--rnn_n_hidden); "
            f"found: {one_line(found)}"
        )
    return files[0]
