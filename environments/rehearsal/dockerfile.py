"""Reading a Dockerfile: its stages, and what has to be done for one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from dockerfile_parse import DockerfileParser
from dockerfile_parse.util import WordSplitter, get_key_val_dictionary

from pcode.utils.errors import UserError


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined."""

    name: str
    value: str
    line: int

    def words(self, variables: Mapping[str, str]) -> list[str]:
        """The value's words, without quotes, variables replaced."""
        return list(WordSplitter(self.value, args={}, envs=dict(variables)).split())

    def pairs(self, variables: Mapping[str, str]) -> dict[str, str]:
        """NAME=VALUE ..., variables replaced."""
        found: dict[str, str] = get_key_val_dictionary(
            self.value, env_replace=True, args={}, envs=dict(variables)
        )
        return found


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next.

    Attributes:
        name: after AS.
        parent: the stage or image that it begins with.
    """

    name: str
    parent: str
    instructions: list[Instruction] = field(default_factory=list)


def read_stages(path: Path) -> dict[str, Stage]:
    """The stages of a Dockerfile, by name.

    Raises:
        UserError: a FROM without AS, or an instruction before the first.
    """
    parser = DockerfileParser(fileobj=BytesIO(path.read_bytes()))
    stages: dict[str, Stage] = {}
    stage = None
    for found in parser.structure:
        name, value, line = found["instruction"], found["value"], found["startline"] + 1
        if name == "COMMENT":
            continue
        if name == "FROM":
            parent, *rest = value.split()
            if len(rest) != 2 or rest[0].upper() != "AS":
                raise UserError(f"{path}, line {line}: expected FROM IMAGE AS NAME")
            stage = stages[rest[1]] = Stage(rest[1], parent)
        elif stage is None:
            raise UserError(f"{path}, line {line}: {name} before the first FROM is not understood")
        else:
            stage.instructions.append(Instruction(name, value, line))
    return stages


def needed(stages: Mapping[str, Stage], target: str) -> list[Stage]:
    """The stages that `target` needs, itself last.

    Raises:
        UserError: there is no such stage.
    """
    if target not in stages:
        raise UserError(f"--target {target}: the Dockerfile has {', '.join(stages)}")
    found: dict[str, None] = {}

    def visit(name: str) -> None:
        if name not in stages or name in found:
            return
        visit(stages[name].parent)
        for instruction in stages[name].instructions:
            first = instruction.value.split()[0]
            if instruction.name == "COPY" and first.startswith("--from="):
                visit(first.removeprefix("--from="))
        found[name] = None

    visit(target)
    return [stages[name] for name in found]
