"""From the command line and a YAML file to a Config; the parser is made from the dataclasses."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import yaml

from pcode.config.fields import check_value, flag_of, parse_value
from pcode.config.files import FileValue, read_flags
from pcode.config.options import AUTO, Config
from pcode.errors import UserError
from pcode.optim import ALIASES
from pcode.user_files import shortened


@dataclass(frozen=True)
class Parsed:
    """What the user asked for.

    Attributes:
        config: every flag.
        given: the flags that the command line or the file holds.
        dry_run: print what would run, and start nothing.
        check: look at what the run needs, and do not train.
        warnings: a line for each flag that cannot matter.
    """

    config: Config
    given: frozenset[str]
    dry_run: bool
    check: bool
    warnings: tuple[str, ...]


class _Parser(argparse.ArgumentParser):
    """argparse that reports through UserError, in one line."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            unknown = (message.removeprefix("unrecognized arguments: ").split() or ["''"])[0]
            known = [f"--{name}" for name in _fields()]
            near = difflib.get_close_matches(unknown.split("=")[0], known, n=1)
            named = unknown if unknown.isprintable() else shortened(unknown)
            message = f"{named}: no such flag" + (f"; did you mean {near[0]}?" if near else "")
        raise UserError(message)


@cache
def _groups() -> dict[str, type]:
    return typing.get_type_hints(Config)


@cache
def _fields() -> dict[str, tuple[str, dataclasses.Field[Any], Any]]:
    """Flag name -> its group, its field and its type."""
    found = {}
    for group, kind in _groups().items():
        types = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            found[field.name] = (group, field, types[field.name])
    return found


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="run.py",
        usage="python run.py [--FLAG VALUE ...]",
        description="Decentralized training with compressed communication. "
        "--config FILE.yaml holds any flag; the command line wins over the file, and the file "
        "over those that it names after `include:`.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", metavar="FILE", action="append", help="YAML file of flags")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--dry_run", action="store_true", help="print what would run, and start nothing"
    )
    instead.add_argument(
        "--check",
        action="store_true",
        help="test what the run needs on every host, and the edges of the graph; no training",
    )
    for kind in _groups().values():
        section = parser.add_argument_group(str(kind.__doc__))
        for field in dataclasses.fields(kind):
            declared = flag_of(field)
            text = declared.help
            if declared.choices:
                text += f"; one of {', '.join(map(str, declared.choices))}"
            default = field.default
            if isinstance(default, tuple):
                default = ",".join(map(str, default))
            section.add_argument(
                *(alias for alias in declared.aliases if not alias.startswith("--")),
                f"--{field.name}",
                *(alias for alias in declared.aliases if alias.startswith("--")),
                dest=field.name,
                metavar=field.name.rsplit("_", 1)[-1].upper(),
                help=f"{text} [{default}]".replace("%", "%%"),
            )
    return parser


@cache
def _spellings() -> dict[str, str]:
    """Every spelling of a flag, without its dashes -> its name."""
    found = {name: name for name in _fields()}
    for name, (_, field, _) in _fields().items():
        found.update({alias.lstrip("-"): name for alias in flag_of(field).aliases})
    return found


def _normalise(values: dict[str, Any]) -> None:
    """Bring aliases of values to the names that the code knows."""
    values["optimizer"] = ALIASES.get(values["optimizer"], values["optimizer"])
    if values["lr_schedule_scheme"] == "MultiStepLR":
        values["lr_schedule_scheme"] = "custom_multistep"


def _place(files: Mapping[str, str], name: str) -> str:
    """What a message about a flag begins with: the file in which it stands, if any."""
    return f"--config {files[name]}: " if name in files else ""


def _build(flags: Mapping[str, Any], files: Mapping[str, str]) -> Config:
    """As make_config; `files` are the files in which flags stand, for messages."""
    values = {name: field.default for name, (_, field, _) in _fields().items()} | dict(flags)
    _normalise(values)
    for name, (_, field, _) in _fields().items():
        try:
            check_value(field, values[name])
        except UserError as error:
            raise UserError(f"{_place(files, name)}{error}") from None
    return Config(
        **{
            group: kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)})
            for group, kind in _groups().items()
        }
    )


def make_config(**flags: Any) -> Config:
    """A Config with these flags, checked; all others have their defaults.

    Raises:
        UserError: a value that is not accepted.
    """
    return _build(flags, {})


def _values(texts: Mapping[str, str], files: Mapping[str, str]) -> dict[str, Any]:
    """What the texts of flags stand for."""
    values = {}
    for name, text in texts.items():
        try:
            values[name] = parse_value(name, _fields()[name][2], text)
        except UserError as error:
            raise UserError(f"{_place(files, name)}{error}") from None
    return values


def _flags_of_run(
    in_files: Mapping[str, FileValue], given: Mapping[str, str]
) -> dict[str, FileValue]:
    """Those of the run that is to go on or to be evaluated: others win over them."""
    texts = {name: value.text for name, value in in_files.items()} | dict(given)
    files = {name: value.file for name, value in in_files.items() if name not in given}
    resume = _values({"resume": texts["resume"]}, files)["resume"] if "resume" in texts else None
    if resume in (None, AUTO):
        return {}
    file = Path(resume, "config.yaml")
    if not os.path.isfile(file):  # Path.is_file raises where the name is too long
        raise UserError(f"--resume {resume}: no run, there is no {file}")
    return read_flags(str(file), _spellings())


def config_of_run(run: Path) -> Config:
    """The configuration that a run has left in its folder.

    Raises:
        UserError: its file cannot be read or is none of this program's.
    """
    found = read_flags(str(run / "config.yaml"), _spellings())
    files = {name: value.file for name, value in found.items()}
    return _build(_values({name: value.text for name, value in found.items()}, files), files)


def parse(arguments: Sequence[str]) -> Parsed:
    """Read flags; `--help` prints them and ends with status 0.

    Raises:
        UserError: an unknown flag, a value that is not accepted, or an unreadable file.
    """
    given = vars(_make_parser().parse_args(list(arguments)))
    dry_run, check = given.pop("dry_run", False), given.pop("check", False)
    paths = given.pop("config", [])
    if len(paths) > 1:
        raise UserError("--config: given twice; a file may `include:` others")
    in_files = read_flags(paths[0], _spellings()) if paths else {}
    of_run = _flags_of_run(in_files, given)
    in_files = of_run | in_files
    files = {name: value.file for name, value in in_files.items() if name not in given}
    texts = {name: value.text for name, value in in_files.items()} | given
    values = _values(texts, files)
    config = _build(values, files)
    # A file that a run wrote holds every flag: only what it changes is worth a warning.
    explicit = [
        name
        for name in texts
        if name not in files or (name not in of_run and values[name] != _fields()[name][1].default)
    ]
    reasons = {}
    for name in explicit:
        group, field, _ = _fields()[name]
        irrelevant = flag_of(field).irrelevant
        reasons[name] = irrelevant(config) if irrelevant is not None else None
        if config.watch.evaluate and group == "learning" and name != "avg_model":
            reasons[name] = "--evaluate True trains nothing"
    warnings = [f"--{name}: {reason}" for name, reason in reasons.items() if reason is not None]
    return Parsed(config, frozenset(texts), dry_run, check, tuple(warnings))


def to_yaml(config: Config) -> str:
    """Every flag as YAML, in a form that `--config` reads back to the same Config."""
    flat = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in config.flat().items()
    }
    return yaml.safe_dump(flat, sort_keys=False)
