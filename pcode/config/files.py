"""YAML files of flags, which may include others."""

import difflib
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pcode.utils.errors import UserError
from pcode.utils.files import one_line, read_text, shortened, unsealed

# The file in which a run's folder holds its flags.
RUN_CONFIG = "config.yaml"
INCLUDE = "include"
# All flags with long lists take a few thousand. Reading YAML takes seconds for a million.
MOST_BYTES = 1 << 18
# Characters and values of a file with all that its aliases stand for. One without has half of it.
MOST_EXPANDED = 1 << 20
DEEPEST = 100


class FileValue(NamedTuple):
    """A flag's value, as the text that stands in a file or on the command line.

    Attributes:
        text: as on the command line; a list is joined by commas.
        file: where it stands; "": on the command line.
        of_run: whether a run's file says so, or one that a run's file includes.
    """

    text: str
    file: str = ""
    of_run: bool = False


class _Loader(yaml.BaseLoader):
    """Every value is the text that stands there, as on the command line, and stands there once.

    Aliases are taken or not, and stand for so much at most.
    """

    def __init__(self, text: str, takes_aliases: bool) -> None:
        super().__init__(text)
        self._takes_aliases = takes_aliases
        self._size = 0
        self._sizes: dict[yaml.Node | None, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        is_alias, before = self.check_event(yaml.AliasEvent), self._size
        if is_alias and not self._takes_aliases:
            raise yaml.YAMLError("an alias")
        node = super().compose_node(parent, index)
        if is_alias:
            self._size += self._sizes.get(node, 0)  # what holds itself is an error of its own
        else:
            self._size += 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
            self._sizes[node] = self._size - before
        if self._size > MOST_EXPANDED:
            raise yaml.YAMLError(f"aliases that stand for more than {MOST_EXPANDED} characters")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for name, count in names.items():
            if count > 1:
                raise yaml.YAMLError(f"{shortened(name)} stands there twice")
        return super().construct_mapping(node, deep)


def read_flags(path: str, names: Mapping[str, str]) -> dict[str, FileValue]:
    """Return the flags of a YAML file and of those that it includes.

    `include: base.yaml`, or a list of files, stands for what these files hold; their paths are
    relative to the file that names them. The file's own values win over included ones, and of
    those the later.

    Args:
        names: every spelling of a flag, without its dashes -> its name.

    Raises:
        UserError: a file that cannot be read, is no list of flags or includes itself; the message
            names the file in which the mistake stands.
    """
    if not path.isprintable():
        raise UserError(f"--config {shortened(path)}: not the name of a file")
    return _read(path, names, (), {})


def read_run_flags(
    path: str, names: Mapping[str, str], *, others: bool = False
) -> dict[str, FileValue]:
    """Return the flags of a file that a run has written: it includes none, and has no aliases.

    Args:
        names: as in `read_flags`.
        others: leave out flags that are none of `names`.

    Raises:
        UserError: as `read_flags`.
    """
    content = _load(path, path, path, takes_aliases=False)
    if not content:
        raise UserError(f"{path}: holds no flags; it was cut, or is no run's")
    if others:
        content = {name: value for name, value in content.items() if name in names}
    return _marked(_own(path, path, content, names))


def _read(
    path: str,
    names: Mapping[str, str],
    above: tuple[str, ...],
    read: dict[str, dict[str, FileValue]],
) -> dict[str, FileValue]:
    """Do as read_flags; `above` are the files that led here, `read` all that have been read."""
    place, named = os.path.realpath(path), f"--config {path}"
    if above:
        named = f"--config {above[-1]}: include {path}"
    if place in map(os.path.realpath, above):
        raise UserError(f"{named}: a cycle, it leads here again")
    if place not in read:
        if len(above) > DEEPEST:
            raise UserError(f"--config {path}: included through more than {DEEPEST} files")
        where = f"--config {path}"
        content = _load(path, named, where)
        found: dict[str, FileValue] = {}
        for included in _included(path, content.pop(INCLUDE, [])):
            found |= _read(included, names, (*above, path), read)
        found |= _own(path, where, content, names)
        if Path(path).name == RUN_CONFIG:
            found = _marked(found)
        read[place] = found
    return read[place]


def _marked(found: Mapping[str, FileValue]) -> dict[str, FileValue]:
    return {name: value._replace(of_run=True) for name, value in found.items()}


def _load(path: str, named: str, where: str, *, takes_aliases: bool = True) -> dict[Any, Any]:
    """Return what stands in a file.

    Errors begin with `where`, or, if it cannot be opened, with `named`: where its name stands.
    """
    try:
        text = read_text(path, MOST_BYTES)
        if Path(path).name == RUN_CONFIG:  # a copy by another name is there to be edited
            text = unsealed(text)
    except ValueError as error:
        raise UserError(f"{named}: {error}") from None
    try:
        content = _Loader(text, takes_aliases).get_single_data()
    except (yaml.YAMLError, RecursionError) as error:
        if isinstance(error, yaml.MarkedYAMLError):  # the line may hold a secret
            for mark in filter(None, (error.problem_mark, error.context_mark)):
                mark.buffer = None
        reason = one_line(error)
        raise UserError(f"{where}: not a YAML file: {reason}") from None
    if content in (None, ""):
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected `flag: value` lines")
    return content


def _included(path: str, value: Any) -> list[str]:
    """Return the files that `path` includes."""
    files = value if isinstance(value, list) else [value]
    if not all(isinstance(file, str) and file and file.isprintable() for file in files):
        raise UserError(
            f"--config {path}: {INCLUDE}: expected the path of a file, or a list of them"
        )
    return [str(Path(path).parent / file) for file in files]


def _own(
    path: str, where: str, content: dict[Any, Any], names: Mapping[str, str]
) -> dict[str, FileValue]:
    """Return the flags that stand in the file itself; errors begin with `where`."""
    found: dict[str, FileValue] = {}
    for name, value in content.items():
        if name not in names:
            near = difflib.get_close_matches(str(name), {*names, INCLUDE} - {name}, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"{where}: no flag is called {shortened(str(name))}{hint}")
        elements = value if isinstance(value, list) else [value]
        if not all(isinstance(element, str) for element in elements):
            raise UserError(f"{where}: {name}: expected a value, or a list of values")
        if names[name] in found:
            raise UserError(f"{where}: {names[name]} stands there under two names")
        found[names[name]] = FileValue(",".join(elements), path)
    return found
