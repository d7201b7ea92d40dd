"""From the command line and a YAML file to a Config; the parser is made from the dataclasses."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import yaml

from pcode.config.fields import check_value, flag_of, parse_value
from pcode.config.options import Config
from pcode.errors import UserError
from pcode.optim import ALIASES


@dataclass(frozen=True)
class Parsed:
    """What the user asked for.

    Attributes:
        config: every flag.
        given: the flags that the command line or the file holds.
        dry_run: print what would run, and start nothing.
        warnings: a line for each flag that cannot matter.
    """

    config: Config
    given: frozenset[str]
    dry_run: bool
    warnings: tuple[str, ...]


class _Parser(argparse.ArgumentParser):
    """argparse that reports through UserError, in one line."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            unknown = (message.removeprefix("unrecognized arguments: ").split() or ["''"])[0]
            known = [f"--{name}" for name in _fields()]
            near = difflib.get_close_matches(unknown.split("=")[0], known, n=1)
            message = f"{unknown}: no such flag" + (f"; did you mean {near[0]}?" if near else "")
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
        "--config FILE.yaml holds any flag; the command line wins over the file.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of flags")
    parser.add_argument(
        "--dry_run", action="store_true", help="print what would run, and start nothing"
    )
    for kind in _groups().values():
        section = parser.add_argument_group(str(kind.__doc__))
        for field in dataclasses.fields(kind):
            declared = flag_of(field)
            text = declared.help or "accepted; not needed or not built yet"
            if not declared.built:
                text += " (not built yet)"
            if declared.choices:
                text += f"; one of {', '.join(map(str, declared.choices))}"
            if declared.not_built:
                text += f"; not built yet: {', '.join(map(str, declared.not_built))}"
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


def _read_file(path: str) -> dict[str, Any]:
    """The flags of a YAML file, as text."""
    try:
        # BaseLoader keeps every value as the text that stands there, as on the command line.
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--config {path}: not a YAML file: {reason}") from None
    if content in (None, ""):
        return {}
    if not isinstance(content, dict):
        raise UserError(f"--config {path}: expected `flag: value` lines")
    names = {name: name for name in _fields()}
    for name, (_, field, _) in _fields().items():
        names.update({alias.lstrip("-"): name for alias in flag_of(field).aliases})
    found = {}
    for name, value in content.items():
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"--config {path}: no flag is called {name!r}{hint}")
        if isinstance(value, dict):
            raise UserError(f"--config {path}: {name}: expected a value, not a mapping")
        if names[name] in found:
            raise UserError(f"--config {path}: {names[name]} stands there under two names")
        found[names[name]] = ",".join(map(str, value)) if isinstance(value, list) else value
    return found


def _normalise(values: dict[str, Any]) -> None:
    """Bring aliases of values to the names that the code knows."""
    values["optimizer"] = ALIASES.get(values["optimizer"], values["optimizer"])
    if values["lr_schedule_scheme"] == "MultiStepLR":
        values["lr_schedule_scheme"] = "custom_multistep"


def make_config(**flags: Any) -> Config:
    """A Config with these flags, checked; all others have their defaults.

    Raises:
        UserError: a value that is not accepted.
    """
    values = {name: field.default for name, (_, field, _) in _fields().items()} | flags
    _normalise(values)
    for name, (_, field, _) in _fields().items():
        check_value(field, values[name])
    return Config(
        **{
            group: kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)})
            for group, kind in _groups().items()
        }
    )


def parse(arguments: Sequence[str]) -> Parsed:
    """Read flags; `--help` prints them and ends with status 0.

    Raises:
        UserError: an unknown flag, a value that is not accepted, or an unreadable file.
    """
    given = vars(_make_parser().parse_args(list(arguments)))
    dry_run = given.pop("dry_run", False)
    path = given.pop("config", None)
    texts = _read_file(path) if path is not None else {}
    from_file = set(texts) - set(given)
    texts |= given
    values = {name: parse_value(name, _fields()[name][2], text) for name, text in texts.items()}
    config = make_config(**values)
    # A file that a run wrote holds every flag: only what it changes is worth a warning.
    explicit = [
        name
        for name in texts
        if name not in from_file or values[name] != _fields()[name][1].default
    ]
    reasons = {}
    for name in explicit:
        irrelevant = flag_of(_fields()[name][1]).irrelevant
        reasons[name] = irrelevant(config) if irrelevant is not None else None
    warnings = [f"--{name}: {reason}" for name, reason in reasons.items() if reason is not None]
    return Parsed(config, frozenset(texts), dry_run, tuple(warnings))


def to_yaml(config: Config) -> str:
    """Every flag as YAML, in a form that `--config` reads back to the same Config."""
    flat = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in config.flat().items()
    }
    return yaml.safe_dump(flat, sort_keys=False)
