"""Files of flags, hosts and graphs that are no such files."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from tests.run.bad_input import Refuse

# How each flag's file is asked for.
ASKED = {
    "--config": ["--config", "file.txt"],
    "--hostfile": ["--hostfile", "file.txt"],
    "--graph_topology": ["--graph_topology", "file.txt", "--n_mpi_process", "4"],
}

NO_TEXT = {
    "utf-16": "lr: 1\n".encode("utf-16"),
    "latin-1": "lr: é\n".encode("latin-1"),
    "binary": bytes(range(256)) * 4,
    "gzip": gzip.compress(b"lr: 1\n"),
    "nul": b"\0" * 100,
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "pickle": b"\x80\x04\x95\x05\0\0\0\0\0\0\0\x8c\x01a\x94.",
    "one line of 10 MB": b"a" * 10_000_000,
    "numbers, 10 MB": b"1 " * 5_000_000,
    "lines, 10 MB": b"a: 1\n" * 2_000_000,
    "controls": b"\x1b[2J\x07: 1\n\x7f\x08 1\n",
}

LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{number}: &a{number} [{','.join([f'*a{number - 1}'] * 10)}]\n" for number in range(1, 30)
)
MARK = "import pathlib; pathlib.Path('mark').write_text('ran')"
CONFIGS = {
    "mapping": "lr: {a: 1}",
    "nested list": "world: [1, [2]]",
    "list of mappings": "world: [{a: 1}]",
    "list for one value": "lr: [1, 2]",
    "empty list": "lr: []",
    "nothing": "lr:",
    "sequence": "- lr\n- 1\n",
    "word": "lr",
    "number": "1",
    "two documents": "lr: 1\n---\nlr: 2\n",
    "twice": "lr: 1\nlr: 2\n",
    "under two names": "lr_milestones: 1\nlr_change_epochs: 2\n",
    "unknown": "lrr: 1",
    "unknown, long": "a" * 100_000 + ": 1",
    "unknown, with a new line": '"a\\nb": 1',
    "unknown, a list": "? [a, b]\n: 1\n",
    "unknown, a mapping": "? {a: b}\n: 1\n",
    "a null": "~: 1",
    "merge": "<<: {lr: 1}",
    "billion laughs": LAUGHS + "lr: *a29\n",
    "itself": "lr: &a [*a]",
    "unknown anchor": "lr: *nowhere",
    "unclosed": "lr: [1",
    "tab": "\tlr: 1",
    "deep": "lr: " + "[" * 100_000,
    "deep mapping": "{a: " * 20_000,
    "object": f'lr: !!python/object/apply:builtins.exec ["{MARK}"]',
    "module": "lr: !!python/module:os",
    "binary tag": "lr: !!binary aGVsbG8=",
    "unknown tag": "lr: !circle 1 2",
    "timestamp for a number": "num_epochs: 2026-01-01",
    "sexagesimal": "num_epochs: 1:30",
    "huge": "num_epochs: " + "9" * 100_000,
    "nan": "lr: .nan",
    "control": 'experiment: "a\\eb"',
    "many flags": "".join(f"flag{number}: 1\n" for number in range(10_000)),
    "includes itself": "include: file.txt",
    "includes itself by a link": "include: link.txt",
    "includes a folder": "include: .",
    "includes a device": "include: /dev/zero",
    "includes nothing": "include:",
    "includes a mapping": "include: {a: b}",
    "includes what is not there": "include: [missing.yaml]",
    "includes another's name": 'include: "a\\nb"',
    "includes above": "include: ../missing.yaml",
    "is a config twice": "config: file.txt",
    "dry run": "dry_run: 1",
}

HOSTFILES = {
    "empty": "",
    "comments": "# a slots=2\n\n",
    "huge slots": "localhost slots=99999999999",
    "very huge slots": "localhost slots=" + "9" * 10_000,
    "no slots": "localhost slots=0",
    "negative": "localhost slots=-2",
    "fraction": "localhost slots=1.5",
    "other digits": "localhost slots=\uff12",
    "twice": "localhost slots=1 slots=1",
    "two users": "me@a slots=1\nyou@a slots=1",
    "an option": "--oversubscribe slots=2",
    "an option of mpirun": "-x slots=2",
    "command": "a;reboot slots=2",
    "substitution": "$(reboot) slots=2",
    "backquotes": "`reboot` slots=2",
    "pipe": "a|sh slots=2",
    "background": "a&sh slots=2",
    "redirection": "a>mark slots=2",
    "variable": "$HOME slots=2",
    "glob": "* slots=2",
    "path": "../a slots=2",
    "quotes": "'a' slots=2",
    "several": "a,b slots=2",
    "mpirun's form": "a:2:3",
    "user": "ro;ot@a slots=2",
    "port": "a port=22;reboot",
    "other setting": "a gpus=2",
    "third word": "a slots=2 b",
    "long": "a" * 100_000 + " slots=2",
    "unicode": "\uff4cocalhost slots=2",
    "carriage returns": "localhost\rslots=2\rb slots=1",
}

GRAPHS = {
    "empty": "",
    "comments": "# nothing\n",
    "too few nodes": "0 1\n1 2\n2 0\n",
    "too many nodes": "0 1\n1 2\n2 3\n3 4\n4 0\n",
    "a loop": "0 1\n1 1\n1 2\n2 3\n",
    "disconnected": "0 1\n2 3\n",
    "huge index": "0 1\n1 " + "9" * 10_000 + "\n",
    "negative index": "0 1\n1 -2\n",
    "fraction": "0 1\n1 2.5\n",
    "words": "a b\nb c\n",
    "one number": "0\n1\n2\n3\n",
    "weights of edges": "0 1 .5\n1 2 5\n2 3 .5\n",
    "weights of some edges": "0 1 .5\n1 2\n2 3 .5\n",
    "matrix of 3": "1 0 0\n0 1 0\n0 0 1\n",
    "matrix of 4 x 3": "1 0 0\n" * 4,
    "matrix of 3 x 4": ".25 .25 .25 .25\n" * 3,
    "matrix of 5 x 4": ".25 .25 .25 .25\n" * 5,
    "not symmetric": ".5 .5 0 0\n0 .5 .5 0\n0 0 .5 .5\n.5 0 0 .5\n",
    "not stochastic": ".3 .25 .25 .25\n" * 4,
    "not a number": ".25 .25 .25 nan\n" * 4,
    "infinite": ".25 .25 .25 inf\n" * 4,
    "overflow": ".25 .25 .25 1e999\n" * 4,
    "divided by 0": ".25 .25 .25 1/0\n" * 4,
    "negative weight": "1.5 -.5 0 0\n-.5 1.5 0 0\n0 0 1.5 -.5\n0 0 -.5 1.5\n",
    "identity": "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n",
    "commas": "0,1\n1,,2\n2,3\n",
    "a header": "id,source\n",
    "numpy's": "\x93NUMPY\x01\x00",
    "matrix market": "%%MatrixMarket matrix coordinate real general\n4 4 9\n",
    "json": '{"edges": [[0, 1]]}',
    "code": "__import__('os').mkdir('mark')\n",
}
TABLES = {"--config": CONFIGS, "--hostfile": HOSTFILES, "--graph_topology": GRAPHS}
CASES: list[Any] = [
    *(
        pytest.param(flag, content, id=f"{flag} {name}")
        for flag in ASKED
        for name, content in NO_TEXT.items()
    ),
    *(
        pytest.param(flag, content.encode(), id=f"{flag} {name}")
        for flag, table in TABLES.items()
        for name, content in table.items()
    ),
]


@pytest.mark.parametrize(("flag", "content"), CASES)
def test_what_is_no_such_file_is_one_line(
    refuse: Refuse, tmp_path: Path, flag: str, content: bytes
) -> None:
    (tmp_path / "file.txt").write_bytes(content)
    (tmp_path / "link.txt").symlink_to("file.txt")
    line = refuse(ASKED[flag], "file.txt")
    assert len(line) < 1000


@pytest.mark.parametrize("flag", ASKED)
@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling", "loop", "zero", "null", "socket"])
def test_what_is_no_file_is_one_line(refuse: Refuse, tmp_path: Path, flag: str, kind: str) -> None:
    place = tmp_path / "file.txt"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "socket":
        os.mknod(place, 0o140600)
    else:
        targets = {"dangling": "nowhere", "loop": "file.txt"}
        place.symlink_to(targets.get(kind, f"/dev/{kind}"))
    refuse(ASKED[flag], "file.txt")


@pytest.mark.parametrize("flag", ASKED)
def test_a_file_without_end_is_not_read(refuse: Refuse, tmp_path: Path, flag: str) -> None:
    with (tmp_path / "file.txt").open("wb") as file:
        file.truncate(1 << 25)
    refuse(ASKED[flag], "larger than")


def test_files_that_include_each_other_many_times_are_read_once(
    refuse: Refuse, tmp_path: Path
) -> None:
    for number in range(40):
        (tmp_path / f"{number}.yaml").write_text(f"include: [{number + 1}.yaml, {number + 1}.yaml]")
    (tmp_path / "40.yaml").write_text("lr: fast")
    refuse(["--config", "0.yaml"], "--config 40.yaml: --lr 'fast'")


def test_a_long_chain_of_files_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    for number in range(1000):
        (tmp_path / f"{number}.yaml").write_text(f"include: {number + 1}.yaml")
    refuse(["--config", "0.yaml"], "more than 100 files")
