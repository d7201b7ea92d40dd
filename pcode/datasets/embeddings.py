"""Word vectors that were trained elsewhere."""

from collections.abc import Sequence
from pathlib import Path

import torch

from pcode.utils.errors import UserError
from pcode.utils.files import check_file


def load_embeddings(
    data_dir: str, vocabulary: Sequence[str], num_dimensions: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Load the vectors of the words of a vocabulary, from a file in GloVe's text format.

    The one file DATA_DIR/*.Dd.txt, as GloVe names them (glove.6B.200d.txt), D = num_dimensions: a
    line for each word, "word x1 ... xD". Words are looked up as they stand in the vocabulary.

    Returns:
        The rows, float32 V x D, 0 for a word that the file lacks; and which words it has, bool V.

    Raises:
        UserError: no file or several, one that cannot be read, a line that is no vector of D
            finite numbers, or no word of the vocabulary.
    """
    pattern = f"*.{num_dimensions}d.txt"
    files = sorted(Path(data_dir).glob(pattern))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise UserError(
            "--rnn_use_pretrained_emb True: needs exactly one file of word vectors "
            f"{Path(data_dir, pattern)} (GloVe's names, D = --rnn_n_hidden); found: {found}"
        )
    (path,) = files
    numbers = {word: number for number, word in enumerate(vocabulary)}
    rows = torch.zeros(len(vocabulary), num_dimensions)
    known = torch.zeros(len(vocabulary), dtype=torch.bool)
    try:
        check_file(path)
        with path.open(encoding="utf-8", newline="\n") as file:
            for count, line in enumerate(file, 1):
                try:
                    # From the right, because some of GloVe's words hold blanks.
                    word, *entries = line.rstrip("\r\n ").rsplit(" ", num_dimensions)
                    if len(entries) != num_dimensions:
                        raise ValueError(f"not a word and {num_dimensions} numbers")
                    if word in numbers:
                        vector = torch.tensor([float(entry) for entry in entries])
                        if not vector.isfinite().all():
                            raise ValueError("not finite")
                        rows[numbers[word]], known[numbers[word]] = vector, True
                except ValueError as error:
                    raise UserError(f"{path}, line {count}: {error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file (UTF-8)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not known.any():
        raise UserError(f"{path}: has none of the {len(vocabulary)} words of the vocabulary")
    return rows, known
