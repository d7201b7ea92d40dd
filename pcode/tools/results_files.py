"""Reading the files of a run's folder; an error is one line that names the file."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pcode.compression import COMPRESSORS
from pcode.config.parser import make_config, why_irrelevant
from pcode.optim import OPTIMIZERS
from pcode.utils.errors import UserError
from pcode.utils.registry import look_up

Record = dict[str, Any]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read") from error


def _parse(text: str, where: object) -> Record:
    """Parse a JSON object; `where` is named in errors."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: is damaged (no JSON)") from error
    if not isinstance(content, dict):
        raise UserError(f"{where}: is damaged (no JSON object)")
    return content


def read_summary(path: Path) -> Record | None:
    """Read a run's summary.json; None: there is none."""
    if not path.exists():
        return None
    summary = _parse(_read_text(path), path)
    if not isinstance(summary.get("exit_reason"), str):
        raise UserError(f"{path}: is damaged (exit_reason is no text)")
    return summary


def read_log(path: Path) -> list[Record]:
    """Read a node's records, without a last line that a killed run left incomplete."""
    *lines, rest = _read_text(path).split("\n")
    records = [_parse(line, f"{path}, line {n}") for n, line in enumerate(lines, start=1)]
    with suppress(UserError):
        records.append(_parse(rest, path))
    return records


def read_numbers(
    records: Sequence[Record], fields: Mapping[str, str], where: object
) -> pd.DataFrame:
    """Tabulate numbers of records as they are, None where one is missing or null.

    Args:
        fields: column -> the name in the records.
        where: named in errors.
    """
    if not all(isinstance(each, dict) for each in records):
        raise UserError(f"{where}: is damaged (no JSON object)")
    rows = [{column: each.get(name) for column, name in fields.items()} for each in records]
    for column, value in chain.from_iterable(row.items() for row in rows):
        if value is not None and type(value) not in (int, float):
            raise UserError(f"{where}: is damaged ({fields[column]} is no number)")
    return pd.DataFrame(rows, columns=list(fields), dtype=object)


def read_flags(path: Path) -> dict[str, Any]:
    """Read the flags that matter in a run, with the defaults of those that it did not know."""
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
        for name in why_irrelevant(flags, flags):
            del flags[name]
        for name in ("n_mpi_process", "manual_seed"):
            flags[name] = int(flags[name])
    except (UserError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is damaged or of another version ({error})") from error
    return flags
