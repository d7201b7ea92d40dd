"""What flags name: one message for what is unknown or not built yet, and who takes which."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from pcode.errors import UserError

T = TypeVar("T")


class TakesFlags(Protocol):
    """A law or a compressor: its class names the flags that its constructor takes."""

    flags: ClassVar[tuple[str, ...]]


def taken_by(kind: type[TakesFlags], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Those of all flags that the constructor of `kind` takes."""
    return {name: flags[name] for name in kind.flags}


def look_up(flag: str, value: str, built: Mapping[str, T], planned: Collection[str] = ()) -> T:
    """built[value].

    Args:
        flag: the flag that holds the value, without dashes.
        value: the name asked for.
        built: what can be had, by name.
        planned: names that the flag takes but that cannot be had yet.

    Raises:
        UserError: the name is planned or unknown; the message names flag, value and what is built.
    """
    if value in built:
        return built[value]
    reason = "is not built yet" if value in planned else "is not known"
    raise UserError(f"--{flag} {value!r} {reason}; built: {', '.join(map(str, built))}")
