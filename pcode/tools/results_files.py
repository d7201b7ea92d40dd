"""Reading the files of a run's folder; what is wrong with one is told in a line that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from pcode.compression import COMPRESSORS
from pcode.config.parser import make_config, why_irrelevant
from pcode.optim import OPTIMIZERS
from pcode.utils.errors import UserError
from pcode.utils.registry import look_up


class Record:
    """A JSON object; numbers and records that are missing or null are None.

    Every method raises UserError where a field is of another kind.

    Args:
        where: what an error names.
    """

    def __init__(self, content: Any, where: object) -> None:
        if not isinstance(content, dict):
            raise UserError(f"{where}: is damaged (no JSON object)")
        self.content, self._where = content, where

    @property
    def kind(self) -> Any:
        return self.content.get("kind")

    def number(self, name: str) -> float | None:
        value = self.content.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{self._where}: is damaged ({name} is no number)")
        return value

    def text(self, name: str) -> str:
        value = self.content.get(name)
        if not isinstance(value, str):
            raise UserError(f"{self._where}: is damaged ({name} is no text)")
        return value

    def record(self, name: str) -> Record | None:
        value = self.content.get(name)
        return None if value is None else Record(value, self._where)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read") from error


def read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except ValueError as error:
        raise UserError(f"{path}: is damaged (no JSON)") from error


def read_log(path: Path) -> list[Record]:
    """A node's records; the last line, where a killed run left it incomplete, is none."""
    text = _read_text(path)
    records = []
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        try:
            content = json.loads(line)
        except ValueError as error:
            if not line.endswith("\n"):
                break
            raise UserError(f"{path}, line {number}: is damaged (no JSON)") from error
        records.append(Record(content, f"{path}, line {number}"))
    return records


def read_flags(path: Path) -> dict[str, Any]:
    """The flags that can matter, with the defaults of those that an older run did not have."""
    try:
        content = yaml.safe_load(_read_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is damaged (no YAML)") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is damaged (no `flag: value` lines)")
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    # Not checked as a run's flags are: it has run, perhaps on a machine with more than this one.
    defaults = make_config().flat()
    flags = defaults | {name: value for name, value in values.items() if name in defaults}
    try:
        look_up("optimizer", flags["optimizer"], OPTIMIZERS)
        look_up("comm_op", flags["comm_op"], COMPRESSORS)
        for name in why_irrelevant(flags):
            del flags[name]
        for name in ("n_mpi_process", "manual_seed"):
            int(flags[name])
    except (UserError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is damaged or of another version ({error})") from error
    return flags
