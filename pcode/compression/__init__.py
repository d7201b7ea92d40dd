"""Compressors: a vector becomes a message of a known size, which is added into vectors.

A new compressor is one file with a subclass of Compressor and one line in COMPRESSORS:
docs/writing-a-compressor.md.
"""

from pcode.compression.base import Compressor, Message
from pcode.compression.none import NoCompression
from pcode.compression.qsgd import QSGD
from pcode.compression.random_k import RandomK
from pcode.compression.sign import Sign
from pcode.compression.top_k import TopK
from pcode.utils.options import look_up

__all__ = ["COMPRESSORS", "Compressor", "Message", "make_compressor"]

COMPRESSORS: dict[str, type[Compressor]] = {
    "none": NoCompression,
    "sign": Sign,
    "compress_top_k": TopK,
    "compress_random_k": RandomK,
    "quantize_qsgd": QSGD,
}


def make_compressor(name: str, **options: object) -> Compressor:
    """Return the compressor of that name; the options are its own.

    Raises:
        UserError: no compressor has that name.
    """
    return look_up("comm_op", name, COMPRESSORS)(**options)
