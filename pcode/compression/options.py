"""Options that several compressors have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pcode.utils.options import Option


def _keeps_all_bits(flags: Mapping[str, Any]) -> str | None:
    if flags["comm_op"] == "quantize_qsgd" and flags["quantize_level"] == 32:
        return "--quantize_level 32 keeps all bits"
    return None


CompressRatio = Annotated[float, Option("share that is dropped", metavar="SHARE")]
IsBiased = Annotated[bool, Option("biased form of the compressor", irrelevant=_keeps_all_bits)]
