"""What both ends know of a message of the random-k compressor, which describes it."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Tensors of up to so many entries are shuffled; the positions of longer ones are permuted.
SHUFFLED_ENTRIES = 4096
# Random words of a tensor.
NUM_WORDS = 8


@lru_cache(maxsize=64)
def scales_of(
    sizes: tuple[int, ...], selected: tuple[int, ...], is_biased: bool
) -> NDArray[np.float32]:
    """Return what the selected entries of each tensor are multiplied by: 1, or d / k."""
    whole = selected if is_biased else sizes
    return (np.array(whole) / np.maximum(selected, 1)).astype(np.float32)
