"""What flags name: one message for what is unknown, and who takes which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from pcode.errors import UserError

T = TypeVar("T")


class MaybeParametric(Protocol):
    """What may be asked for as "NAME:PARAMETERS", if it is parametric."""

    @property
    def parametric(self) -> bool: ...


P = TypeVar("P", bound=MaybeParametric)


class TakesFlags(Protocol):
    """What names the flags that it takes: the class of an optimizer, a data set's source."""

    @property
    def flags(self) -> tuple[str, ...]: ...


def taken_by(taker: TakesFlags, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Those of all flags that `taker` takes."""
    return {name: flags[name] for name in taker.flags}


def look_up(flag: str, value: str, built: Mapping[str, T]) -> T:
    """built[value].

    Args:
        flag: the flag that holds the value, without dashes.
        value: the name asked for.
        built: what can be had, by name.

    Raises:
        UserError: the name is unknown; the message names flag, value and what is built.
    """
    if value in built:
        return built[value]
    raise UserError(f"--{flag} {value!r} is not known; built: {', '.join(map(str, built))}")


def look_up_parametric(flag: str, value: str, built: Mapping[str, P]) -> P:
    """built[NAME], where the value is "NAME" or, of what is parametric, "NAME:PARAMETERS".

    Raises:
        UserError: the name is unknown, or takes no parameters and has some.
    """
    name, colon, _ = value.partition(":")
    found = look_up(flag, name, built)
    if colon and not found.parametric:
        raise UserError(f"--{flag} {value}: {name} takes no parameters")
    return found
