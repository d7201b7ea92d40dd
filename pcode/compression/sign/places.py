"""Places in a message of the sign compressor, which describes it."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=64)
def places_of(sizes: tuple[int, ...]) -> NDArray[np.int64]:
    """Return where the bits of each tensor begin, in bytes, and last the bytes of the message."""
    return np.cumsum([4 * len(sizes), *((size + 7) // 8 for size in sizes)], dtype=np.int64)
