"""Folders of runs that others have written: what they cannot do to who reads them."""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pcode.tools.results import main
from pcode.utils.files import file_name
from tests.tools.result_folders import rows_of, write_run

Spoil = Callable[[Path], object]
MEMORY = 1 << 30  # bytes, above what there is


def content(file: str, written: str | bytes) -> Spoil:
    data = written.encode() if isinstance(written, str) else written
    return lambda run: (run / file).write_bytes(data)


def config(lines: str) -> Spoil:
    return content("config.yaml", lines)


def summary(**members: str) -> Spoil:
    """A summary with these members, as they stand in JSON."""
    texts = [f'"{name}": {text}' for name, text in {"exit_reason": '"finished"', **members}.items()]
    return content("summary.json", f"{{{', '.join(texts)}}}")


def evaluation(step: str, rest: str = '"test_top1": 50') -> Spoil:
    return content("0/log.jsonl", f'{{"kind": "evaluation", "step": {step}, {rest}}}\n')


def instead(file: str, make: Callable[[Path], object]) -> Spoil:
    """Something else in the place of a file."""

    def spoil(run: Path) -> None:
        (run / file).unlink()
        make(run / file)

    return spoil


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def aliases(depth: int) -> str:
    """A list of nine lists of nine lists ..."""
    lists = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, depth)]
    return "\n".join(["a0: &a0 [lol]", *lists, f"experiment: *a{depth - 1}\n"])


SPOILT: dict[str, Spoil] = {
    "aliases of aliases": config(aliases(9)),
    "aliases of a long text": config(f"user: &a {'x' * 99_999}\nexperiment: [{'*a, ' * 40_000}]"),
    "an alias that holds itself": config("experiment: &a [*a]"),
    "YAML nested deep": config("lr: " + "[" * 20_000),
    "a large configuration": config("experiment: " + "x" * (1 << 19)),
    "a configuration that is a pipe": instead("config.yaml", os.mkfifo),
    "a configuration that is a folder": instead("config.yaml", Path.mkdir),
    "a configuration that is a device": instead("config.yaml", lambda p: p.symlink_to("/dev/zero")),
    "a configuration that leads to itself": instead("config.yaml", loop),
    "a configuration that is not UTF-8": content("config.yaml", b"a: \xff"),
    "a NUL": config("experiment: a\0b"),
    "an escape sequence": config('experiment: "\\e[2Jgood"'),
    "a lone surrogate": config('experiment: "\\ud800"'),
    "a text of two lines": config('experiment: "a\\nb"'),
    "a text that is a mapping": config("experiment: {a: [b]}"),
    "a data set that is a list": config("data: [a, b]"),
    "a data set that is a path": config("data: ../.."),
    "a long text": config("graph_topology: " + "a/b" * 20_000),
    "a flag twice": config("lr: 0.1\nlr: 0.2"),
    "more nodes than there may be": config("n_mpi_process: 1" + "0" * 30),
    "nodes of 5000 digits": config("n_mpi_process: " + "9" * 5000),
    "no node": config("n_mpi_process: 0"),
    "an endless seed": config("manual_seed: .inf"),
    "a rate that is no number": config("lr: fast"),
    "a summary that is a pipe": instead("summary.json", os.mkfifo),
    "a summary nested deep": summary(test_top1="[" * 100_000 + "]" * 100_000),
    "a number of 5000 digits": summary(test_top1="9" * 5000),
    "a number of 400 digits": summary(test_top1="9" * 400),
    "a number beyond floats": summary(test_top1="1e999"),
    "no number": summary(train_seconds="NaN"),
    "an endless number": summary(bytes_sent_per_step="-Infinity"),
    "a number that is a text": summary(bytes_sent_total='"12"'),
    "a number that is a list": summary(test_top1="[1]"),
    "an object that is a list": summary(step_seconds="[1]"),
    "a reason that is a list": summary(exit_reason="[1]"),
    "a large summary": summary(exit_reason=f'"{"x" * (1 << 23)}"'),
    "a summary that is not UTF-8": content("summary.json", b'{"exit_reason": "\xff"}'),
    "a log that is a pipe": instead("0/log.jsonl", os.mkfifo),
    "a log that is a folder": instead("1/log.jsonl", Path.mkdir),
    "a log of one long line": content("0/log.jsonl", b" " * (1 << 23)),
    "a log nested deep": content("0/log.jsonl", "[" * 100_000 + "\n"),
    "a log that is not UTF-8": content("1/log.jsonl", b'{"kind": "train"}\n\xff\n'),
    "a negative step": evaluation("-5"),
    "a step beyond floats": evaluation("1" + "0" * 400),
    "a step without end": evaluation("1e999"),
    "no step": evaluation("null"),
    "a step that is a text": evaluation('"5"'),
    "a figure that is a text": evaluation("5", '"test_top1": "50"'),
    "a record that is a list": content("0/log.jsonl", "[1]\n"),
    "more evaluations than there may be": content(
        "0/log.jsonl", "".join(f'{{"kind": "evaluation", "step": {n}}}\n' for n in range(100_001))
    ),
}


@pytest.fixture
def little_memory() -> Iterator[None]:
    """More memory than MEMORY is an error."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_run_is_named_and_the_others_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Spoil
) -> None:
    runs = tmp_path / "runs"
    write_run(runs / "good", {"experiment": "good"}, (70, 80))
    bad = write_run(runs / "bad\n\x1b[2J", {}, (60,))
    spoil(bad)
    there = set(tmp_path.rglob("*"))
    table = tmp_path / "t.csv"
    assert main([str(runs), "--csv", str(table)]) == 1
    printed = capsys.readouterr()
    (row,) = rows_of(table)
    assert (row["run"], row["test_top1"]) == ("good", "80")
    assert [line.split()[0] for line in printed.out.splitlines()] == ["run", "good"]
    (line,) = printed.err.splitlines()
    assert line.isprintable()
    assert line.startswith(f"results: warning: {runs}/bad\\n\\x1b[2J/")
    assert set(tmp_path.rglob("*")) == {*there, table}


def test_where_no_run_can_be_read_each_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (write_run(tmp_path / name, {}, (60,)) / "config.yaml").write_text("lr: fast\n")
    assert main([str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line.split(": ")[1:3] for line in printed.err.splitlines()] == [
        *(["warning", f"{tmp_path}/a/config.yaml"], ["error", f"{tmp_path}/b/config.yaml"]),
    ]


def test_folders_without_end_hide_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "good", {}, (70,))
    monkeypatch.chdir(tmp_path)
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(tmp_path)
    try:
        assert main([str(tmp_path)]) == 0
    finally:  # pytest itself cannot remove them
        subprocess.run(["rm", "-r", "d"], check=True)


def test_what_is_no_rank_s_folder_is_left_alone(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {}, (70,)) / "²"
    folder.mkdir()
    (folder / "log.jsonl").write_text("?\n")
    assert main([str(tmp_path)]) == 0


HOSTILE = {
    "formula": "=HYPERLINK(1)",
    "math": r"$\frac{$ a$b",
    "hidden": "_hidden",
    "markup": "<script>![a](b) `c` | *d* [e](f)",
}


def test_text_of_runs_is_text_wherever_it_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, pictures = tmp_path / "runs", tmp_path / "pictures"
    for name, experiment in HOSTILE.items():
        flags = {"experiment": json.dumps(experiment), "data": "synthetic:../../../out"}
        write_run(runs / name, flags, (60, 70), ending="@\x1b[2J\ud800\n</td>")
    write_run(runs / "other", {}, (60,))
    markdown, table = tmp_path / "t.md", tmp_path / "t.csv"
    there = set(tmp_path.rglob("*"))
    places = ["--markdown", str(markdown), "--csv", str(table), "--pictures", str(pictures)]
    assert main([str(runs), *places, "--format", "svg"]) == 0
    printed = capsys.readouterr()
    assert all(line.isprintable() for line in printed.out.splitlines())
    assert printed.err == ""
    assert all(text in printed.out for text in HOSTILE.values())

    # In the folders of pictures, one for each data set.
    written = set(tmp_path.rglob("*")) - there - {markdown, table, pictures}
    folders = {path for path in written if path.is_dir()}
    assert {path.parent for path in folders} == {pictures}
    assert {path.parent for path in written - folders} == folders

    cells = [cell for row in csv.reader(table.open(newline="")) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    assert f"'{HOSTILE['formula']}" in cells

    text = markdown.read_text()
    assert r"\<script\>!\[a\](b) \`c\` \| \*d\* \[e\](f)" in text
    assert not re.findall(r"(?<!\\)[<`*\[]", text)

    # matplotlib leaves text in SVG as it is, but for what XML has its own way to write.
    (drawn,) = pictures.glob("synthetic*/accuracy_epochs.svg")
    shown = drawn.read_text()
    for experiment in HOSTILE.values():
        assert experiment.replace("<", "&lt;").replace(">", "&gt;") in shown


@pytest.mark.parametrize(
    "text", ["a/b", "../..", ".hidden", "x" * 300, "x" * 301, "é" * 200, "é" * 127 + "/", "", "/"]
)
def test_a_file_is_named_by_any_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / file_name(text)
    path.mkdir()
    assert [child for child in tmp_path.rglob("*") if not child.name.startswith(".")] == [path]


def test_names_of_files_differ_where_texts_do_and_are_the_text_where_they_can() -> None:
    texts = ["a/b", "a_b", "x" * 300, "x" * 301, ".a", "_.a", "synthetic:1x8x8:4:100"]
    names = [file_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    assert [name for name, text in zip(names, texts, strict=True) if name == text] == [
        *("a_b", "_.a", "synthetic:1x8x8:4:100"),
    ]
