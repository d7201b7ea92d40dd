"""Rows of text as a table, aligned for a terminal or in Markdown."""

import re
from collections.abc import Collection, Sequence

Rows = Sequence[Sequence[str]]


def aligned(rows: Rows, left: Collection[str]) -> list[str]:
    """Pad the cells of each column to its width.

    Args:
        rows: the headings and the body.
        left: headings of the columns of text; the others, of figures, are aligned on the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if heading in left else cell.rjust(width)
            for heading, cell, width in zip(rows[0], row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def escaped(text: str) -> str:
    """Return a text with nothing in it that Markdown reads as markup, HTML or a formula."""
    return re.sub(r"[\\`*<>\[\]|&$~]", r"\\\g<0>", text)


def markdown(rows: Rows, left: Collection[str]) -> list[str]:
    """Write a Markdown table; the arguments are those of `aligned`."""
    lines = ["".join(f"| {escaped(cell)} " if cell else "| " for cell in row) + "|" for row in rows]
    rule = ["---" if heading in left else "---:" for heading in rows[0]]
    return [lines[0], f"|{'|'.join(rule)}|", *lines[1:]]
