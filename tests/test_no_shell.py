"""No shell is started anywhere: what users write is never a command."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    *sorted(ROOT.glob("*.py")),
    *(path for name in ("pcode", "benchmarks") for path in sorted((ROOT / name).rglob("*.py"))),
]
# Each runs a shell with what it is given, or loads code from a file.
FORBIDDEN = {
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "asyncio.create_subprocess_shell",
    "pty.spawn",
    "eval",
    "exec",
    "pickle.load",
    "pickle.loads",
    "yaml.unsafe_load",
    "yaml.full_load",
    "marshal.loads",
    "shelve.open",
}
STARTERS = {"run", "Popen", "call", "check_call", "check_output"}


def name_of(node: ast.expr) -> str:
    """`a.b.c` of a name or an attribute."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def shells(source: str) -> Iterator[str]:
    """What in a program starts a shell, or runs what it has read, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from (f"{node.lineno}: {name}" for name in sorted(names & FORBIDDEN))
        if not isinstance(node, ast.Call):
            continue
        called = name_of(node.func)
        if called in FORBIDDEN:
            yield f"{node.lineno}: {called}"
        for keyword in node.keywords:
            if keyword.arg == "shell" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            ):
                yield f"{node.lineno}: shell="
            if keyword.arg == "allow_pickle" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            ):
                yield f"{node.lineno}: allow_pickle="
        of_subprocess = called.startswith("subprocess.") and called.split(".")[-1] in STARTERS
        if of_subprocess and node.args and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
            yield f"{node.lineno}: {called} with a text"
        if called == "torch.load" and not any(
            keyword.arg == "weights_only"
            and isinstance(keyword.value, ast.Constant)
            and keyword.value.value is True
            for keyword in node.keywords
        ):
            yield f"{node.lineno}: torch.load without weights_only=True"


def test_no_shell() -> None:
    found = [
        f"{path.relative_to(ROOT)}, line {shell}"
        for path in FILES
        for shell in shells(path.read_text(encoding="utf-8"))
    ]
    assert len(FILES) > 100
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.system('a')",
        "from os import system",
        "import subprocess\nsubprocess.run('a b')",
        "import subprocess\nsubprocess.Popen(f'{a} b')",
        "import subprocess\nsubprocess.run(command, shell=True)",
        "import subprocess\nsubprocess.run(command, shell=flag)",
        "eval(text)",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
    ],
)
def test_a_shell_is_found(source: str) -> None:
    assert len(list(shells(source))) == 1
