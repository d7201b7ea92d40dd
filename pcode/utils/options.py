"""Declare a flag where its value is used: `rate: Annotated[float, Option("in words")] = 0.1`.

Optimizers, compressors, graphs, models, data sets and learning-rate schemes declare their own as
parameters of their constructors; the run-wide ones are fields of dataclasses, made by `option`. The
parser, `--help`, warnings of flags without effect and the docs' table are made from that.
"""

import dataclasses
import functools
import inspect
import math
import operator
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pcode.utils.errors import UserError
from pcode.utils.files import shortened

LARGEST_INTEGER = 2**31 - 1
T = TypeVar("T")
# Returns why a flag has no effect among all flags' values, or None.
Rule = Callable[[Mapping[str, Any]], str | None]


@dataclass(frozen=True)
class Option:
    """A flag, declared by the parameter that it annotates; `options_of` fills in what that says.

    Types: bool, int, float, str, tuple[T, ...] (comma-separated), and each of them `| None` and
    `| Literal[WORD]`.

    Attributes:
        text: one line for `--help`.
        metavar: what stands for the value there; by its type unless given.
        aliases: other spellings, with their dashes.
        choices: the accepted values, or empty for any; a registry is read at every use.
        synonyms: values by other words for them.
        minimum, maximum: the smallest and the largest accepted number; a whole number is never
            larger than LARGEST_INTEGER.
        above, below: what a number must be larger or smaller than.
        irrelevant: the rule when the flag has no effect; that of the chosen one where several
            components share the flag.
        decides: whether the numbers of a run depend on it. With another value of a flag that does
            not, a run may go on in its own folder.
        compared: whether runs that differ in it alone are different ones beside each other. Where a
            run lies, who made it and its seed are not.
        starts: whether it says what is started, where or with which variables. It is never taken
            from the config.yaml of a run, which may be a stranger's.
        recorded: what of a value config.yaml gets.
        name, kind, default: of the flag, if not the parameter's. Gamma's flag, for one, may also be
            "auto", which planning replaces by a number before the optimizer sees it.
        parameter: what gets the value.
    """

    text: str
    metavar: str = ""
    aliases: tuple[str, ...] = ()
    choices: Collection[Any] = ()
    synonyms: Mapping[Any, Any] = dataclasses.field(default_factory=dict)
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    irrelevant: Rule = dataclasses.field(default=lambda flags: None, compare=False)
    decides: bool = True
    compared: bool = True
    starts: bool = False
    recorded: Callable[[Any], Any] = dataclasses.field(default=lambda value: value, compare=False)
    name: str = ""
    kind: Any = None
    default: Any = inspect.Parameter.empty
    parameter: str = ""

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
    def placeholder(self) -> str:
        """What stands for the value in `--help`."""
        element, many = self._element
        words = {bool: "BOOL", int: "N", float: "X"}
        word = self.metavar or words.get(element, self.name.rsplit("_", 1)[-1].upper())
        return f"{word},..." if many else word

    @property
    def help(self) -> str:
        """The line of `--help`, with the choices and the default."""
        text = self.text
        if self.choices:
            text += f"; one of {', '.join(map(_shown, self.choices))}"
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
            shown = shortened(str(self.recorded(text)))
            raise UserError(f"--{self.name} {shown}: expected {expected}") from None

    def accepted(self, value: Any) -> Any:
        """Return the value, or what it is another word for; raise as `validate`."""
        value = self.synonyms.get(value, value) if self.synonyms else value
        self.validate(value)
        return value

    def validate(self, value: Any) -> None:
        """Raise UserError for an unknown choice or a number out of range."""
        if self.choices and value not in self.choices:
            *others, last = map(_shown, self.choices)
            chosen = shortened(_shown(value))
            raise UserError(f"--{self.name} {chosen}: choose {', '.join(others)} or {last}")
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, int | float):
                continue
            largest = LARGEST_INTEGER if isinstance(number, int) else None
            for limit, holds, words in (
                (self.minimum, operator.ge, "at least"),
                (largest if self.maximum is None else self.maximum, operator.le, "at most"),
                (self.above, operator.gt, "above"),
                (self.below, operator.lt, "below"),
            ):
                if limit is not None and not holds(number, limit):  # of NaN none does
                    shown = shortened(str(number))[1:-1]
                    raise UserError(f"--{self.name} {shown}: must be {words} {limit}")


def validate_options(options: Any) -> None:
    """Validate the values of a dataclass of options; raise as Option.validate."""
    for flag in options_of(type(options)).values():
        flag.validate(getattr(options, flag.parameter))


def needs(name: str, otherwise: str = "", holds: Callable[[Any], object] = bool) -> Rule:
    """Make the rule that a flag has no effect unless that holds for the value of the flag `name`.

    `otherwise` says why; by default that it has none with that value.
    """
    return lambda flags: (
        None if holds(flags[name]) else otherwise or f"it has no effect with --{name} {flags[name]}"
    )


def option(default: Any, text: str, metavar: str = "", **attributes: Any) -> Any:
    """Declare a dataclass field that is a flag; `attributes` are the others of Option."""
    declared = Option(text, metavar, **attributes)
    return dataclasses.field(default=default, metadata={"option": declared})


NAMES = {bool: "True or False", int: "a whole number", float: "a number", str: "printable text"}


def _shown(value: Any) -> str:
    """Return a value as it stands on the command line."""
    if value is None:
        return "none"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _parse_scalar(kind: type, text: str) -> Any:
    if kind is bool:
        words = dict.fromkeys(("true", "yes", "on", "1"), True)
        words |= dict.fromkeys(("false", "no", "off", "0"), False)
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


def _constructors(component: Any) -> Iterator[Callable[..., Any]]:
    """Yield what has the parameters of a component: every `__init__` of a class, or a function."""
    while isinstance(component, functools.partial):
        component = component.func
    if not isinstance(component, type):
        yield component
        return
    for base in inspect.getmro(component):
        if "__init__" in vars(base) and base is not object:
            yield vars(base)["__init__"]


def options_of(component: Any) -> dict[str, Option]:
    """Return the flags that a component declares, by name, with all that they are."""
    found: dict[str, Option] = {}

    def add(declared: Option, parameter: str, kind: Any, default: Any) -> None:
        name, empty = declared.name or parameter, declared.default is inspect.Parameter.empty
        own = {"kind": declared.kind or kind, "default": default if empty else declared.default}
        flag = dataclasses.replace(declared, name=name, parameter=parameter, **own)
        found.setdefault(name, flag)

    if dataclasses.is_dataclass(component):
        types = typing.get_type_hints(component)
        for field in dataclasses.fields(component):
            if declared := field.metadata.get("option"):
                add(declared, field.name, types[field.name], field.default)
        return found
    for constructor in _constructors(component):
        for each in inspect.signature(constructor, eval_str=True).parameters.values():
            if typing.get_origin(each.annotation) is Annotated:
                for declared in each.annotation.__metadata__:
                    if isinstance(declared, Option):
                        add(declared, each.name, each.annotation.__origin__, each.default)
    return found


def taken_by(component: Any, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Select the keyword arguments of a component among all flags.

    A parameter gets the flag that it declares (`eps` gets `adam_eps`), or else the run-wide flag of
    its own name (`data_dir` of a data set's loader, `clip_grad` of DGC), if there is one.

    Args:
        component: a class, whose bases take what is theirs, or a function, or one in part.
        flags: every flag of the run.
    """
    named = {flag.parameter: name for name, flag in options_of(component).items()}
    return {
        parameter: flags[named.get(parameter, parameter)]
        for constructor in _constructors(component)
        for parameter in inspect.signature(constructor).parameters
        if named.get(parameter, parameter) in flags
    }


def declared_by(component: Any, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Select, among all flags, the keyword arguments that a component itself declares."""
    return {flag.parameter: flags[name] for name, flag in options_of(component).items()}


def look_up(flag: str, value: str, built: Mapping[str, T], parametric: Collection[str] = ()) -> T:
    """Return what a flag's value names: "NAME" or, of those that are parametric, "NAME:PARAMETERS".

    Raises:
        UserError: nothing of that name is built, or it takes no parameters.
    """
    name, colon, _ = value.partition(":")
    if name not in built:
        raise UserError(f"--{flag} {value!r} is not known; built: {', '.join(map(str, built))}")
    if colon and name not in parametric:
        raise UserError(f"--{flag} {value}: {name} takes no parameters")
    return built[name]
