"""Every flag with wrong values made from its type and limits, given by hand and in a file."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from pcode.config.parser import all_flags
from pcode.utils.options import LARGEST_INTEGER, Option
from tests.run.bad_input import Refuse

NOT_TEXT = ("a\nb", "a\0b", "a\ud800b", "a\x1bb", "a\u2028b")
NO_NUMBER = ("word", "nan", "inf", "-inf", "1e999", "0x10", "1;2", "1 2", "--lr", "½")
NO_WHOLE_NUMBER = (*NO_NUMBER, "1.5", "1e3", "9" * 30, "9" * 5000)
NO_BOOL = ("maybe", "2", "nan", "Truefalse", "1.0")


def _beyond(declared: Option, kind: type) -> Iterator[str]:
    """Numbers beyond the limits."""
    if declared.minimum is not None:
        yield str(kind(declared.minimum - 1))
    maximum = declared.maximum
    if maximum is None and kind is int:
        maximum = LARGEST_INTEGER
    if maximum is not None:
        yield str(kind(maximum * 2))


def _of_kind(declared: Option, kind: Any) -> Iterator[str]:
    yield from NOT_TEXT
    if kind is bool:
        yield from NO_BOOL
    elif kind is int:
        yield from (*NO_WHOLE_NUMBER, *_beyond(declared, int))
    elif kind is float:
        yield from (*NO_NUMBER, *_beyond(declared, float))
    elif declared.choices:
        yield "no_such"


def wrong_values(declared: Option, kind: Any) -> Iterator[str]:
    """Texts that stand for no value of the flag."""
    members = [member for member in typing.get_args(kind) if typing.get_origin(member) != Literal]
    optional = type(None) in members
    if optional:
        kind = members[0]
    elif typing.get_origin(kind) is not tuple:
        yield from ("", " ")
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        yield from ("1,,2", "1,", ",")
        for value in _of_kind(declared, element):
            yield from (value, f"1,{value}")
    else:
        yield from _of_kind(declared, kind)


def _cases() -> Iterator[Any]:
    for name, flag in all_flags().items():
        yield pytest.param(name, list(wrong_values(flag, flag.kind)), id=name)


CASES = list(_cases())


def test_there_are_many() -> None:
    counts = [len(case.values[1]) for case in CASES]
    assert min(counts) >= len(NOT_TEXT)
    assert sum(counts) > 1000


@pytest.mark.parametrize(("name", "values"), CASES)
def test_a_wrong_value_is_one_line(refuse: Refuse, name: str, values: list[str]) -> None:
    for value in values:
        refuse([f"--{name}={value}"], f"--{name}")


@pytest.mark.parametrize(("name", "values"), CASES)
def test_so_it_is_in_a_file(refuse: Refuse, tmp_path: Path, name: str, values: list[str]) -> None:
    for value in values:
        (tmp_path / "flags.yaml").write_text(f"{name}: {json.dumps(value)}\n")
        line = refuse(["--config", "flags.yaml"], f"--{name}")
        assert line.startswith("run.py: error: --config flags.yaml: ")


@pytest.mark.parametrize("argument", ["--no_such\nflag", "a\nb", "\ud800", "--\0=1", "-\u2028"])
def test_an_unknown_word_is_quoted(refuse: Refuse, argument: str) -> None:
    refuse([argument], "no such flag")


@pytest.mark.parametrize("path", ["a\nb", "a\0b", "\ud800", "", "x" * 300, "x" * 5000, "\u2028"])
@pytest.mark.parametrize("flag", ["--config", "--hostfile", "--graph_topology", "--data_dir"])
def test_a_name_that_no_file_can_have(refuse: Refuse, flag: str, path: str) -> None:
    if path.strip() or flag != "--hostfile":  # blank: no hostfile
        refuse([flag, path, "--data", "ptb", "--arch", "rnn_lm"], flag)
