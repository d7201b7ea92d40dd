"""The table of all flags, as Markdown: what docs/flags.md holds.

python -m pcode.tools.flags > docs/flags.md
"""

import sys
from collections.abc import Sequence

from pcode.config.components import COMPONENTS, Component
from pcode.config.parser import flags_by_group, groups
from pcode.tools.command import Parser, call
from pcode.utils.options import Flag, options_of


def _takers(flag: Flag, component: Component) -> str:
    """Name the components of a kind that take the flag."""
    names = [name for name, each in component.built().items() if flag.name in options_of(each)]
    return f"`--{component.flag}` {', '.join(names)}"


def table() -> list[str]:
    """Return the lines of the page."""
    lines = ["# Flags", "", "Made by `python -m pcode.tools.flags`; `run.py --help` says the same."]
    declared = {
        name: component
        for component in COMPONENTS
        for each in component.built().values()
        for name in options_of(each)
    }
    for group, flags in flags_by_group().items():
        lines += ["", f"## {groups()[group].__doc__}", "", "| flag | matters with | what |"]
        lines.append("|---|---|---|")
        for name, flag in flags.items():
            spellings = ", ".join(f"`{word}`" for word in (f"--{name}", *flag.option.aliases))
            takers = _takers(flag, declared[name]) if name in declared else ""
            what = flag.help.replace("|", r"\|")
            lines.append(f"| {spellings} {flag.metavar} | {takers} | {what} |")
    return lines


def _run(arguments: Sequence[str]) -> None:
    Parser("python -m pcode.tools.flags", __doc__).parse_args(arguments)
    print(*table(), sep="\n")


def main(arguments: Sequence[str]) -> int:
    """Print the table; return the exit status, 2 for a mistake."""
    return call("flags", _run, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
