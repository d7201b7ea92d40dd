"""Find what a flag names among what is built."""

from collections.abc import Mapping
from typing import Protocol, TypeVar

from pcode.utils.errors import UserError

T = TypeVar("T")


class MaybeParametric(Protocol):
    @property
    def parametric(self) -> bool: ...


P = TypeVar("P", bound=MaybeParametric)


def look_up(flag: str, value: str, built: Mapping[str, T]) -> T:
    """Return built[value], or raise a UserError with flag, value and what is built."""
    if value in built:
        return built[value]
    raise UserError(f"--{flag} {value!r} is not known; built: {', '.join(map(str, built))}")


def look_up_parametric(flag: str, value: str, built: Mapping[str, P]) -> P:
    """As look_up where the value is "NAME" or, of what is parametric, "NAME:PARAMETERS"."""
    name, colon, _ = value.partition(":")
    found = look_up(flag, name, built)
    if colon and not found.parametric:
        raise UserError(f"--{flag} {value}: {name} takes no parameters")
    return found
