"""From the command line and a YAML file to a Config, with the flags that components declare."""

import argparse
import difflib
import os
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import yaml

from pcode.compression import COMPRESSORS
from pcode.config.files import RUN_CONFIG, FileValue, read_flags, read_run_flags
from pcode.config.options import AUTO, Config
from pcode.datasets import DATASETS
from pcode.models import builder, builders
from pcode.optim import LOCAL_OPTIMIZERS, OPTIMIZERS
from pcode.schedules import SCHEMES
from pcode.topology import TOPOLOGIES
from pcode.utils.errors import UserError
from pcode.utils.files import shortened
from pcode.utils.options import Option, options_of

# YAML's word for no value, as `to_yaml` writes it.
_NONE = "null"


@dataclass(frozen=True)
class Component:
    """One kind of component.

    Attributes:
        flag: the flag that names one.
        group: of the configuration, and the section of `--help`, to which its options belong.
        built: returns all that there are, by name: what declares their options.
        named: returns the one that a flag's value names, where that is not one of `built`.
    """

    flag: str
    group: str
    built: Callable[[], Mapping[str, Any]]
    named: Callable[[str], Any] | None = None

    def options_with(self, value: str) -> Mapping[str, Option]:
        """Return the options of the one that a flag's value names; a graph's file has none."""
        if self.named is not None:
            return options_of(self.named(value))
        chosen = self.built().get(value.partition(":")[0])
        return {} if chosen is None else options_of(chosen)


COMPONENTS = (
    Component("data", "data", lambda: DATASETS),
    Component("arch", "model", builders, builder),
    Component("local_optimizer", "learning", lambda: LOCAL_OPTIMIZERS),
    Component("lr_schedule_scheme", "learning", lambda: SCHEMES),
    Component("graph_topology", "graph", lambda: TOPOLOGIES),
    Component("comm_op", "graph", lambda: COMPRESSORS),
    Component("optimizer", "graph", lambda: OPTIMIZERS),
)


def component_flags() -> dict[str, tuple[Component, Option]]:
    """Return every flag that a component declares, by name.

    Raises:
        ValueError: two components declare a flag of the same name in different ways.
    """
    found: dict[str, tuple[Component, Option]] = {}
    for component in COMPONENTS:
        for value, each in component.built().items():
            for name, flag in options_of(each).items():
                if found.setdefault(name, (component, flag))[1] != flag:
                    raise ValueError(
                        f"--{component.flag} {value} declares --{name} differently than another"
                    )
    return found


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
            known = [f"--{name}" for name in all_flags()]
            near = difflib.get_close_matches(unknown.split("=")[0], known, n=1)
            named = unknown if unknown.isprintable() else shortened(unknown)
            message = f"{named}: no such flag" + (f"; did you mean {near[0]}?" if near else "")
        raise UserError(message)


@cache
def groups() -> dict[str, type]:
    """Return the configuration's groups of run-wide flags, by name."""
    return {name: kind for name, kind in typing.get_type_hints(Config).items() if name != "options"}


def flags_by_group() -> dict[str, dict[str, Option]]:
    """Return all flags by name; in a group those of components follow the run-wide ones."""
    found = {group: options_of(kind) for group, kind in groups().items()}
    for component, flag in component_flags().values():
        found[component.group][flag.name] = flag
    return found


def all_flags() -> dict[str, Option]:
    """Return all flags, by name."""
    return {name: flag for group in flags_by_group().values() for name, flag in group.items()}


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
    for group, flags in flags_by_group().items():
        section = parser.add_argument_group(str(groups()[group].__doc__))
        for flag in flags.values():
            spellings = [f"--{flag.name}", *flag.aliases]
            section.add_argument(
                *sorted(spellings, key=lambda spelling: spelling.startswith("--")),
                dest=flag.name,
                metavar=flag.placeholder,
                help=flag.help.replace("%", "%%"),
            )
    return parser


def _spellings() -> dict[str, str]:
    """Return the name of the flag for every spelling, without its dashes."""
    flags = all_flags()
    aliases = {alias.lstrip("-"): name for name, flag in flags.items() for alias in flag.aliases}
    return {name: name for name in flags} | aliases


def make_config(**given: Any) -> Config:
    """Return a Config with these flags, checked; all others have their defaults.

    Raises:
        UserError: a value that is not accepted.
    """
    flags = all_flags()
    values = {name: flag.default for name, flag in flags.items()}
    values |= {name: flags[name].accepted(value) for name, value in given.items()}
    by_group = {
        group: kind(**{name: values[name] for name in options_of(kind)})
        for group, kind in groups().items()
    }
    return Config(**by_group, options={name: values[name] for name in component_flags()})


def _values(texts: Mapping[str, FileValue]) -> dict[str, Any]:
    """Return what the texts of flags stand for; an error names the file in which one stands."""
    values, flags = {}, all_flags()
    for name, (text, file, _) in texts.items():
        try:
            values[name] = flags[name].accepted(flags[name].parse(text))
        except UserError as error:
            raise UserError(f"--config {file}: {error}" if file else str(error)) from None
    return values


def _flags_of_run(texts: Mapping[str, FileValue]) -> dict[str, FileValue]:
    """Return those of the run that is to go on or to be evaluated: others win over them."""
    resume = _values({name: text for name, text in texts.items() if name == "resume"}).get("resume")
    if resume in (None, AUTO):
        return {}
    file = Path(resume, RUN_CONFIG)
    if not os.path.isfile(file):  # Path.is_file raises where the name is too long
        raise UserError(f"--resume {resume}: no run, there is no {file}")
    return read_run_flags(str(file), _spellings())


def config_of_run(run: Path) -> Config:
    """Return the configuration that a run has left in its folder.

    Raises:
        UserError: its file cannot be read or is none of this program's.
    """
    found = read_run_flags(str(run / RUN_CONFIG), _spellings())
    return make_config(**_values(found))


def why_irrelevant(names: Iterable[str], flags: Mapping[str, Any]) -> dict[str, str]:
    """Return those of some flags that have no effect among all flags' values, and why."""
    declared, of_components = all_flags(), component_flags()
    found = {}
    for name in names:
        flag, reason = declared[name], None
        if name in of_components:
            component, _ = of_components[name]
            chosen = flags[component.flag]
            reason = declared[component.flag].irrelevant(flags)
            options = component.options_with(chosen)
            flag = options.get(name, flag)
            if name not in options:
                reason = f"it has no effect with --{component.flag} {chosen}"
        reason = flag.irrelevant(flags) or reason
        if reason is not None:
            found[name] = reason
    return found


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
    typed = {name: FileValue(text) for name, text in given.items()}
    of_run = _flags_of_run(in_files | typed)
    in_files = of_run | in_files
    flags = all_flags()
    received = {
        name: value for name, value in in_files.items() if flags[name].starts and value.of_run
    }
    texts = {name: text for name, text in in_files.items() if name not in received} | typed
    values = _values(texts)
    config = make_config(**values)
    # A file that a run wrote holds every flag: only what it changes is worth a warning.
    values_of_all, defaults = config.flat(), {name: flag.default for name, flag in flags.items()}
    explicit = [
        name
        for name, text in texts.items()
        if not text.file or (name not in of_run and values[name] != defaults[name])
    ]
    reasons = why_irrelevant(explicit, values_of_all)
    if config.watch.evaluate:
        learning = set(flags_by_group()["learning"]) - {"avg_model"}
        reasons |= dict.fromkeys(learning & set(explicit), "--evaluate True trains nothing")
    warnings = [f"--{name}: {reasons[name]}" for name in explicit if name in reasons]
    warnings += [
        f"--{name}: not taken from {file}, as a run may be a stranger's: it says what is started, "
        "or where; give it again, or by --config in a file of another name"
        for name, (text, file, _) in received.items()
        if name not in typed and text != _NONE
    ]
    return Parsed(config, frozenset(texts), dry_run, check, tuple(warnings))


def to_yaml(config: Config) -> str:
    """Return every flag as YAML, in a form that `--config` reads back to the same Config.

    But for the values of the variables handed to the ranks, which may be secrets.
    """
    flags = all_flags()
    values = {name: flags[name].recorded(value) for name, value in config.flat().items()}
    flat = {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }
    return yaml.safe_dump(flat, sort_keys=False)
