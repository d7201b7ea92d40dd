"""The pages of the documentation as data: blocks, code within sentences, headings, links."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.support.programs import ROOT

# By their names below the repository's root.
PAGES = [
    "README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
]


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: that of its opening fence, from 1.
        language: the word after the fence, or "".
        comment: what the comment in the line above says, or "".
        text: what is between the fences.
    """

    line: int
    language: str
    comment: str
    text: str

    @property
    def program(self) -> str | None:
        """The name of the program, of a block that is marked `tested: NAME`."""
        return self._after("tested: ")

    @property
    def not_run(self) -> str | None:
        """The reason, of a block that is marked `not run: REASON`."""
        return self._after("not run: ")

    def _after(self, word: str) -> str | None:
        return self.comment.removeprefix(word) if self.comment.startswith(word) else None


@cache
def _tokens(page: str) -> list[Token]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return MarkdownIt().enable("table").parse(text)


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    found = []
    for token in _tokens(page):
        if token.type == "fence" and token.map is not None:
            first = token.map[0]
            comment = re.fullmatch(r"\s*<!-- (.*) -->\s*", lines[first - 1] if first else "")
            said = comment[1] if comment is not None else ""
            found.append(Block(first + 1, token.info.strip(), said, token.content))
    return found


def program(page: str, name: str) -> str:
    """The Python program of a page behind the mark `tested: name`."""
    (found,) = [block.text for block in blocks(page) if block.program == name]
    return found


def _inline(page: str) -> Iterator[Token]:
    for token in _tokens(page):
        yield from token.children or ()


def code_in_sentences(page: str) -> list[str]:
    """What stands `so` in a page's text and tables."""
    return [token.content for token in _inline(page) if token.type == "code_inline"]


def links(page: str) -> list[str]:
    """Where a page's links and pictures lead, as written."""
    targets = [
        token.attrGet("href" if token.type == "link_open" else "src")
        for token in _inline(page)
        if token.type in ("link_open", "image")
    ]
    return [str(target) for target in targets]


@cache
def anchors(page: str) -> frozenset[str]:
    """What may follow `#` in a link to a page: its headings, as GitHub spells them."""
    times: Counter[str] = Counter()
    found = set()
    for token, inline in pairwise(_tokens(page)):
        if token.type != "heading_open":
            continue
        text = "".join(child.content for child in inline.children or ())
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.add(f"{slug}-{times[slug]}" if times[slug] else slug)
        times[slug] += 1
    return frozenset(found)
