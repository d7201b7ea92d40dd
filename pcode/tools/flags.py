"""The table of all flags, as Markdown: what docs/flags.md holds.

python -m pcode.tools.flags > docs/flags.md
"""

import sys
from collections.abc import Sequence

from pcode.config.parser import component_flags, flags_by_group, groups
from pcode.tools.command import Parser, tool
from pcode.utils.options import options_of


def table() -> list[str]:
    """Return the lines of the page."""
    lines = ["# Flags", "", "Made by `python -m pcode.tools.flags`; `run.py --help` says the same."]
    declared = component_flags()
    for group, flags in flags_by_group().items():
        lines += ["", f"## {groups()[group].__doc__}", "", "| flag | matters with | what |"]
        lines.append("|---|---|---|")
        for name, flag in flags.items():
            spellings = ", ".join(f"`{word}`" for word in (f"--{name}", *flag.aliases))
            takers = ""
            if name in declared:
                component, _ = declared[name]
                built = component.built().items()
                kinds = ", ".join(kind for kind, each in built if name in options_of(each))
                takers = f"`--{component.flag}` {kinds}"
            what = flag.help.replace("|", r"\|")
            lines.append(f"| {spellings} {flag.placeholder} | {takers} | {what} |")
    return lines


@tool("flags")
def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    Parser("python -m pcode.tools.flags", __doc__).parse_args(arguments)
    print(*table(), sep="\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
