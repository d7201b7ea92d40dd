"""Declare a flag where its value is used: `rate: Annotated[float, Option("in words")] = 0.1`.

Optimizers, compressors, graphs, models, data sets and learning-rate schemes declare their own as
parameters of their constructors; the run-wide ones are fields of dataclasses, made by `option`. The
parser, `--help`, warnings of flags without effect and the docs' table are made from that.
"""

import contextlib
import dataclasses
import functools
import inspect
import math
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pcode.utils.errors import UserError
from pcode.utils.files import shortened

LARGEST_INTEGER = 2**31 - 1
# Returns why a flag has no effect among all flags' values, or None.
Rule = Callable[[Mapping[str, Any]], str | None]


@dataclass(frozen=True)
class Option:
    """Metadata of a flag, besides the name, type and default of the parameter that it annotates.

    Attributes:
        help: one line for `--help`.
        metavar: what stands for the value there; by its type unless given.
        aliases: other spellings, with their dashes.
        choices: the accepted values, or empty for any; a registry is read at every use.
        minimum, maximum: the smallest and the largest accepted number; a whole number is never
            larger than LARGEST_INTEGER.
        irrelevant: the rule when the flag has no effect.
        name: the flag's, where it is not the parameter's.
        kind, default: the flag's, where what the parameter gets is worked out from its value.
    """

    help: str
    metavar: str = ""
    aliases: tuple[str, ...] = ()
    choices: Collection[Any] = ()
    minimum: float | None = None
    maximum: float | None = None
    irrelevant: Rule = lambda flags: None
    name: str = ""
    kind: Any = None
    default: Any = inspect.Parameter.empty


@dataclass(frozen=True)
class Flag:
    """A declared flag: its name, type and default, the parameter that gets it, and the rest.

    Types: bool, int, float, str, tuple[T, ...] (comma-separated), and each of them `| None` and
    `| Literal[WORD]`.
    """

    name: str
    kind: Any
    default: Any
    parameter: str
    option: Option

    @property
    def _members(self) -> tuple[Any, ...]:
        """The types of a union, that of values first."""
        is_tuple = typing.get_origin(self.kind) is tuple
        return (self.kind,) if is_tuple else typing.get_args(self.kind) or (self.kind,)

    @property
    def _element(self) -> tuple[type, bool]:
        """The type of a value, or that of each of several; whether there may be several."""
        first = self._members[0]
        many = typing.get_origin(first) is tuple
        return (typing.get_args(first)[0] if many else first), many

    @property
    def metavar(self) -> str:
        element, many = self._element
        words = {bool: "BOOL", int: "N", float: "X"}
        word = self.option.metavar or words.get(element, self.name.rsplit("_", 1)[-1].upper())
        return f"{word},..." if many else word

    @property
    def help(self) -> str:
        """The line of `--help`, with the choices and the default."""
        text = self.option.help
        if self.option.choices:
            text += f"; one of {', '.join(map(_shown, self.option.choices))}"
        return f"{text} [{_shown(self.default)}]"

    def parse(self, text: str) -> Any:
        """Read the value that `text` stands for.

        None is "none", YAML's "null" and "~", or an empty text; for a bool "auto" too.

        Raises:
            UserError: the text is not of that type.
        """
        element, many = self._element
        literals = [each for each in self._members if typing.get_origin(each) is Literal]
        words = [word for each in literals for word in typing.get_args(each)]
        text = text.strip()
        if text in words:
            return text
        if type(None) in self._members:
            absent = ("none", "null", "~", "", *(["auto"] if element is bool else []))
            if text.lower() in absent:
                return None
        try:
            if many:
                return tuple(_parse_scalar(element, part.strip()) for part in text.split(","))
            return _parse_scalar(element, text)
        except ValueError:
            expected = NAMES[element] + (", or several separated by commas" if many else "")
            expected += "".join(f" or {word}" for word in words)
            raise UserError(f"--{self.name} {shortened(text)}: expected {expected}") from None

    def validate(self, value: Any) -> None:
        """Raise UserError for an unknown choice or a number out of range."""
        option = self.option
        if option.choices and value not in option.choices:
            *others, last = map(_shown, option.choices)
            chosen = shortened(_shown(value))
            raise UserError(f"--{self.name} {chosen}: choose {', '.join(others)} or {last}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if option.minimum is not None and number < option.minimum:
                raise UserError(f"--{self.name} {number}: must be at least {option.minimum:g}")
            maximum = option.maximum
            if maximum is None and isinstance(number, int):
                maximum = LARGEST_INTEGER
            if maximum is not None and number > maximum:
                raise UserError(
                    f"--{self.name} {shortened(str(number))[1:-1]}: must be at most {maximum}"
                )


def needs(name: str, otherwise: str) -> Rule:
    """Make the rule that a flag has no effect, for that reason, unless the flag `name` is true."""
    return lambda flags: None if flags[name] else otherwise


def option(default: Any, help: str, **limits: Any) -> Any:
    """Declare a dataclass field that is a flag; `limits` are the other attributes of Option."""
    return dataclasses.field(default=default, metadata={"option": Option(help, **limits)})


NAMES = {bool: "True or False", int: "a whole number", float: "a number", str: "printable text"}


def _shown(value: Any) -> str:
    """A value as it stands on the command line."""
    if value is None:
        return "none"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _parse_scalar(kind: type, text: str) -> Any:
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ValueError("expected True or False")
        return words[text.lower()]
    if kind is float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError("expected a finite number")
        return value
    if kind is str and not (text and text.isprintable()):
        raise ValueError("expected printable text")
    return kind(text)


def _constructors(component: Any, below: type | None = None) -> Iterator[Callable[..., Any]]:
    """The functions whose parameters are those of a class (and its bases), or of a function."""
    while isinstance(component, functools.partial):
        component = component.func
    if not isinstance(component, type):
        yield component
        return
    for base in inspect.getmro(component):
        if base is below:
            return
        if "__init__" in vars(base) and base is not object:
            yield vars(base)["__init__"]


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function, as texts where only type checkers know their names."""
    with contextlib.suppress(NameError):
        return inspect.get_annotations(function, eval_str=True)
    return inspect.get_annotations(function)


def options_of(component: Any) -> dict[str, Flag]:
    """Return the flags that a component declares, by name."""
    found: dict[str, Flag] = {}
    if dataclasses.is_dataclass(component):
        types = typing.get_type_hints(component)
        for field in dataclasses.fields(component):
            if declared := field.metadata.get("option"):
                name = declared.name or field.name
                found[name] = Flag(name, types[field.name], field.default, field.name, declared)
        return found
    for constructor in _constructors(component):
        parameters = inspect.signature(constructor).parameters
        for parameter, annotation in _annotations(constructor).items():
            kind, *metadata = typing.get_args(annotation) or (None,)
            for declared in metadata if typing.get_origin(annotation) is Annotated else ():
                if isinstance(declared, Option):
                    default = declared.default
                    if default is inspect.Parameter.empty:
                        default = parameters[parameter].default
                    name = declared.name or parameter
                    flag = Flag(name, declared.kind or kind, default, parameter, declared)
                    found.setdefault(name, flag)
    return found


def taken_by(component: Any, flags: Mapping[str, Any], below: type | None = None) -> dict[str, Any]:
    """Select those of all flags that a component takes.

    They are the options that it declares, and those run-wide ones that a parameter is named like:
    `data_dir` of a data set's loader, `clip_grad` of DGC.

    Args:
        component: a class, whose bases take what is theirs, or a function, or one in part.
        flags: every flag of the run.
        below: a base class whose own parameters are passed separately.
    """
    named = {flag.parameter: name for name, flag in options_of(component).items()}
    taken = {}
    for constructor in _constructors(component, below):
        for parameter in inspect.signature(constructor).parameters:
            if (name := named.get(parameter, parameter)) in flags:
                taken[parameter] = flags[name]
    return taken
