"""Compressors: a vector becomes a message of a known size, which is added into vectors.

A new compressor is one file with a subclass of Compressor and one line in COMPRESSORS. This one
sends float16:

    class Half(Compressor):
        name = "half"

        def message_bytes(self, layout):
            return 2 * layout.num_entries

        def encode(self, layout, value, reference, message):
            difference = value if reference is None else value - reference
            message.payload.copy_(difference.half().view(torch.uint8))

        def accumulate(self, layout, messages, targets, weights):
            for target, row in zip(targets, weights):
                for message, weight in zip(messages, row):
                    if weight:
                        target += weight * message.payload.view(torch.float16).float()
"""

from __future__ import annotations

from collections.abc import Callable

from pcode.compression.base import Compressor, Message
from pcode.compression.none import NoCompression
from pcode.compression.sign import Sign
from pcode.registry import look_up

__all__ = ["COMPRESSORS", "Compressor", "Message", "make_compressor"]

COMPRESSORS: dict[str, Callable[..., Compressor]] = {
    "none": NoCompression,
    "sign": Sign,
}
PLANNED = ("compress_top_k", "compress_random_k", "quantize_qsgd")


def make_compressor(name: str, **options: object) -> Compressor:
    """The compressor of that name; the options are its own.

    Raises:
        UserError: no compressor has that name.
    """
    return look_up("comm_op", name, COMPRESSORS, PLANNED)(**options)
