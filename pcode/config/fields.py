"""How a flag is declared: one dataclass field holds its type, default, help and limits."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from pcode.errors import UserError
from pcode.registry import look_up
from pcode.user_files import shortened

Reason = Callable[[Any], str | None]

LARGEST_INTEGER = 2**31 - 1


@dataclass(frozen=True)
class Flag:
    """What the parser needs to know of a field besides its name, type and default.

    Attributes:
        help: one line for `--help`.
        aliases: other spellings, with their dashes.
        choices: the accepted values, or empty for any; a registry is read at every use.
        minimum, maximum: the smallest and the largest accepted number; a whole number is never
            larger than LARGEST_INTEGER.
        irrelevant: gives the reason why the flag cannot matter in a configuration, or None.
    """

    help: str
    aliases: tuple[str, ...] = ()
    choices: Collection[Any] = ()
    minimum: float | None = None
    maximum: float | None = None
    irrelevant: Reason | None = None


def flag(default: Any, help: str, **limits: Any) -> Any:
    """A dataclass field that is also a command-line flag; `limits` are those of Flag."""
    return dataclasses.field(default=default, metadata={"flag": Flag(help, **limits)})


def flag_of(field: dataclasses.Field[Any]) -> Flag:
    """The declaration that `flag` left in the field."""
    declared: Flag = field.metadata["flag"]
    return declared


def _parse_bool(text: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise ValueError("expected True or False")
    return words[text.lower()]


def _parse_scalar(kind: type, text: str) -> Any:
    if kind is bool:
        return _parse_bool(text)
    if kind is float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError("expected a finite number")
        return value
    if kind is str and not (text and text.isprintable()):
        raise ValueError("expected printable text")
    return kind(text)


NAMES = {bool: "True or False", int: "a whole number", float: "a number", str: "printable text"}


def parse_value(name: str, kind: Any, text: str) -> Any:
    """The value that `text` stands for, by the field's type.

    Types: bool, int, float, str, tuple[T, ...] (comma-separated), and each of them `| None`
    ("none", YAML's "null" and "~", or an empty text; "auto" for a bool) and `| Literal[WORD]`.

    Raises:
        UserError: the text is not of that type.
    """
    members = typing.get_args(kind)
    optional = type(None) in members
    words = [
        word
        for member in members
        if typing.get_origin(member) is Literal
        for word in typing.get_args(member)
    ]
    if text.strip() in words:
        return text.strip()
    if optional:
        kind = members[0]
        if text.strip().lower() in ("none", "null", "~", "", *(["auto"] if kind is bool else [])):
            return None
    many = typing.get_origin(kind) is tuple
    element = typing.get_args(kind)[0] if many else kind
    try:
        if many:
            return tuple(_parse_scalar(element, part.strip()) for part in text.split(","))
        return _parse_scalar(element, text.strip())
    except ValueError:
        expected = NAMES[element] + (", or several separated by commas" if many else "")
        expected += "".join(f" or {word}" for word in words)
        raise UserError(f"--{name} {shortened(text)}: expected {expected}") from None


def check_value(field: dataclasses.Field[Any], value: Any) -> None:
    """Refuse what the field's declaration does not accept.

    Raises:
        UserError: an unknown choice, or a number below the minimum.
    """
    name, declared = field.name, flag_of(field)
    if declared.choices:
        look_up(name, value, {choice: choice for choice in declared.choices})
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if declared.minimum is not None and number < declared.minimum:
            raise UserError(f"--{name} {number}: must be at least {declared.minimum:g}")
        maximum = declared.maximum
        if maximum is None and isinstance(number, int):
            maximum = LARGEST_INTEGER
        if maximum is not None and number > maximum:
            raise UserError(f"--{name}: too large; at most {maximum:g}")
