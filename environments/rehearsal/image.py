"""What an image is: its layers, and how a container of it is started."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from environments.rehearsal.dockerfile import Instruction
from pcode.utils.errors import UserError

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Image:
    """An image, finished or on the way.

    Attributes:
        layers: the lowest first.
        variables: of ENV.
        arguments: of ARG; of the stage alone.
    """

    layers: tuple[int, ...] = ()
    variables: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    work_dir: str = "/"
    user: str = "0:0"
    shell: tuple[str, ...] = ("/bin/sh", "-c")
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    health: tuple[str, ...] = ()
    stop_signal: str = "SIGTERM"

    @property
    def known(self) -> dict[str, str]:
        """What a step's variables and `$NAME` stand for."""
        return {**self.arguments, **self.variables}

    @property
    def user_id(self) -> int:
        return int(self.user.partition(":")[0])


_TEXTS = {"USER": "user", "STOPSIGNAL": "stop_signal"}
_COMMANDS = {"SHELL": "shell", "ENTRYPOINT": "entrypoint", "CMD": "command"}
_WITHOUT_EFFECT = ("EXPOSE", "LABEL")


def with_setting(image: Image, instruction: Instruction, given: Mapping[str, str]) -> Image:
    """The image after an instruction that changes no files.

    Args:
        given: build arguments.

    Raises:
        UserError: it is not understood.
    """
    name, value = instruction.name, instruction.value
    changes: dict[str, Any] = {}
    if name in _TEXTS:
        changes = {_TEXTS[name]: value}
    elif name in _COMMANDS:
        changes = {_COMMANDS[name]: _words(value)}
    elif name == "HEALTHCHECK":
        changes = {"health": _words(value.partition("CMD")[2])}
    elif name == "ENV":
        changes = {"variables": {**image.variables, **instruction.pairs(image.known)}}
    elif name == "ARG":
        argument, equals, default = value.partition("=")
        if equals or argument in given:  # otherwise it is not set at all
            added = {argument: given.get(argument, default)}
            changes = {"arguments": {**image.arguments, **added}}
    elif name not in _WITHOUT_EFFECT:
        raise UserError(f"Dockerfile, line {instruction.line}: {name} is not understood")
    return replace(image, **changes)


def _words(value: str) -> tuple[str, ...]:
    """A command in JSON form."""
    found: list[str] = json.loads(value)
    return tuple(found)
