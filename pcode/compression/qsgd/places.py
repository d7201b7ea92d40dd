"""Places and factors in a message of the QSGD compressor, which describes it."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# One unit in the last place below the largest float32: s times (it / s) rounded is finite.
LARGEST_NORM = float(np.nextafter(np.finfo(np.float32).max, np.float32(0)))


@lru_cache(maxsize=64)
def places_of(sizes: tuple[int, ...], level: int) -> NDArray[np.int64]:
    """Return where each tensor's signs and magnitudes begin, in bytes; last, twice, the end."""
    places, place = [], 4 * len(sizes)
    for size in sizes:
        places.append((place, place + (size + 7) // 8))
        place = places[-1][1] + (size * level + 7) // 8
    return np.array([*places, (place, place)], dtype=np.int64)


@lru_cache(maxsize=64)
def errors_of(sizes: tuple[int, ...], level: int) -> NDArray[np.float64]:
    """min(d / s^2, sqrt(d) / s) of each tensor: E||Q(v) - v||^2 / ||v||^2, unbiased, at most."""
    d, s = np.array(sizes, dtype=np.float64), (1 << level) - 1
    return np.minimum(d / s**2, np.sqrt(d) / s)
