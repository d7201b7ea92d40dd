"""What flags name: one message for what is unknown or not built yet, and who takes which."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol, TypeVar

from pcode.errors import UserError

T = TypeVar("T")


class TakesFlags(Protocol):
    """What names the flags that it takes: a law's or compressor's class, a data set's source."""

    @property
    def flags(self) -> tuple[str, ...]: ...


def taken_by(taker: TakesFlags, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Those of all flags that `taker` takes."""
    return {name: flags[name] for name in taker.flags}


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
