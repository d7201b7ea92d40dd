"""Random words that both ends of a message draw from its key, by counter."""

import numpy as np
from numpy.typing import NDArray

_INCREMENT = 0x9E3779B97F4A7C15
_ALL_BITS = (1 << 64) - 1


def words_of(key: int, num_tensors: int, num_words: int) -> NDArray[np.uint32]:
    """Uniform 32-bit words, num_tensors x num_words, that depend on the key and their place alone.

    Word w of tensor t is the upper half of number t * num_words + w of SplitMix64 started at the
    key (Steele, Lea and Flood, OOPSLA 2014).
    """
    numbers = np.arange(1, num_tensors * num_words + 1, dtype=np.uint64)
    z = numbers * np.uint64(_INCREMENT) + np.uint64(key & _ALL_BITS)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    upper: NDArray[np.uint32] = (z >> np.uint64(32)).astype(np.uint32)
    return upper.reshape(num_tensors, num_words)
