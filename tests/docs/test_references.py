"""What the pages name is there: links, flags, tools, programs."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path

import pytest

from pcode import tools
from pcode.config import parse
from pcode.tools.flags import table
from tests.support.pages import PAGES, anchors, blocks, code_in_sentences, links
from tests.support.programs import ROOT

RUN = "run.py"
# Where a program of ours begins in a command; what stands before is another's, as mpirun's.
PROGRAM = re.compile(r"(?<![\w.-])(run\.py|pcode\.tools\.\w+|tests\.support\.hosts)(?!\w)")
FLAG = re.compile(r"(?<![\w-])--[A-Za-z][\w-]*")
# Packages that are programs.
PACKAGES = {"tests.support.hosts": "tests.support.hosts.__main__"}


@cache
def flags_of(program: str) -> frozenset[str]:
    """The flags that a program's help names."""
    show = parse if program == RUN else importlib.import_module(PACKAGES.get(program, program)).main
    with redirect_stdout(StringIO()) as printed, pytest.raises(SystemExit):
        show(["--help"])
    return frozenset(FLAG.findall(printed.getvalue()))


@cache
def flags_of_all() -> frozenset[str]:
    names = [path.stem for folder in tools.__path__ for path in Path(folder).glob("*.py")]
    programs = [name for name in names if "def main" in _source(f"pcode.tools.{name}")]
    return flags_of(RUN).union(*(flags_of(f"pcode.tools.{name}") for name in programs))


def _source(module: str) -> str:
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).read_text(encoding="utf-8")


def wrong_flags(command: str) -> Iterator[str]:
    """The flags in a command that the program of ours before them does not have."""
    _, *parts = PROGRAM.split(command)
    for name, arguments in zip(parts[::2], parts[1::2], strict=True):
        given = FLAG.findall(arguments)
        yield from (f"{name}: {flag}" for flag in given if flag not in flags_of(name))


def commands(page: str) -> list[str]:
    """The lines of a page's commands, those that go on in the next one joined."""
    shell = [block.text for block in blocks(page) if block.language == "bash"]
    return [line for text in shell for line in re.sub(r"\\\n\s*", " ", text).splitlines()]


def flags_of_others(page: str) -> set[str]:
    """The flags that a page's commands give to programs that are not ours."""
    found: set[str] = set()
    for command in (*commands(page), *code_in_sentences(page)):
        of_another = PROGRAM.split(command)[0]
        if not of_another.startswith("--"):
            found.update(FLAG.findall(of_another))
    return found


def unknown(page: str) -> list[str]:
    """What a page names and nobody has: flags, tools, programs."""
    found = []
    for command in (*commands(page), *code_in_sentences(page)):
        found += [
            name
            for name in re.findall(r"pcode\.tools\.\w+", command)
            if importlib.util.find_spec(name) is None
        ]
        files = re.findall(r"python3? ([\w./-]+\.py)", command)
        found += [file for file in files if "/" in file and not (ROOT / file).is_file()]
        found += wrong_flags(command) if not found else ()
    known = flags_of_all() | flags_of_others(page)
    for code in code_in_sentences(page):
        if code.startswith("--") and not PROGRAM.search(code):
            found += [flag for flag in FLAG.findall(code) if flag not in known]
    return found


def dead_links(page: str) -> list[str]:
    """Links to files that are not there, or to no heading of a page."""
    found = []
    for link in links(page):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (ROOT / page).parent / target if target else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(str(file))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", [*PAGES, "configs/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    assert dead_links(page) == []


@pytest.mark.parametrize("page", [*PAGES, "configs/README.md"])
def test_flags_and_programs_are_there(page: str) -> None:
    assert unknown(page) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`--comm_op sign --topolgy ring`", ["--topolgy"]),
        ("`python run.py --comm_op sign --picture a`", ["run.py: --picture"]),
        ("`python -m pcode.tools.graph --comm_op sign`", ["pcode.tools.graph: --comm_op"]),
        ("```bash\nmpirun --wild -n 2 python run.py \\\n  --wilder 3\n```", ["run.py: --wilder"]),
        ("<!-- not run: slow -->\n```bash\npython run.py --wild\n```", ["run.py: --wild"]),
        ("`python -m tests.support.hosts --lr 1 -- ls`", ["tests.support.hosts: --lr"]),
        ("`python -m pcode.tools.grahp`", ["pcode.tools.grahp"]),
        ("`python benchmarks/nothing.py`", ["benchmarks/nothing.py"]),
        ("| a |\n|---|\n| `--wild` |", ["--wild"]),
        ("`--picture graph.png`, `--config`, `torchrun --nproc-per-node 2 run.py --lr 1`", []),
        ("`mpirun --wild -n 2 python run.py`: `--wild` says how, `--wilder` not", ["--wilder"]),
    ],
)
def test_what_is_not_there_is_found(text: str, expected: list[str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\n{text}\n", encoding="utf-8")
    assert unknown(str(page)) == expected


@pytest.mark.parametrize(
    ("link", "dead"),
    [
        ("page.md", False),
        ("#two-words-and-code", False),
        ("page.md#a-page-1", False),
        ("https://arxiv.org/abs/1907.09356", False),
        ("#two-words", True),
        ("page.md#a-page-2", True),
        ("nowhere.md", True),
    ],
)
def test_a_link_that_leads_nowhere_is_found(link: str, dead: bool, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\n## Two words, and `code`\n\n## A page\n\n[text]({link})\n")
    assert dead_links(str(page)) == [link] * dead


def test_the_table_of_flags_is_that_of_their_declarations() -> None:
    page = (ROOT / "docs/flags.md").read_text(encoding="utf-8")
    assert page.splitlines() == table(), "python -m pcode.tools.flags > docs/flags.md"
