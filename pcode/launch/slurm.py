"""What Slurm's environment says of the step that this process is a task of."""

import itertools
import re
from collections.abc import Iterator, Mapping

from pcode.utils.errors import UserError

# slurm.h: step numbers from here on are not steps of srun but the batch script, an interactive
# shell and the like.
_FIRST_RESERVED_STEP = 0xFFFFFFF0


def num_step_tasks(environ: Mapping[str, str]) -> int | None:
    """Tasks of the srun step of this process, or None outside of one.

    The shell of an sbatch script has SLURM_PROCID=0 and the SLURM_NTASKS of the whole job too,
    but no step number, or a reserved one.
    """
    step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID", ""))
    if "SLURM_PROCID" not in environ or not step.isdecimal():
        return None
    if int(step) >= _FIRST_RESERVED_STEP:
        return None
    name = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    return whole_number(environ, name, minimum=1)


def num_local_tasks(environ: Mapping[str, str]) -> int:
    """Tasks of the step on this machine, from `4(x2),3` and this machine's place in it.

    Raises:
        UserError: the variables are missing or malformed.
    """
    name = "SLURM_STEP_TASKS_PER_NODE"
    text = environ.get(name, "")
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,6})(?:\(x([0-9]{1,6})\))?", part, re.ASCII)
        if match is None:
            raise UserError(f"{name}={text!r} in the environment: expected a list such as 4(x2),3")
        counts += [int(match[1])] * int(match[2] or 1)
    machine = whole_number(environ, "SLURM_NODEID")
    if machine >= len(counts):
        raise UserError(f"SLURM_NODEID={machine} in the environment: {name}={text!r} has no such")
    return counts[machine]


def expand_nodelist(text: str) -> Iterator[str]:
    """The host names of a Slurm node list such as `node[01-03,7],login`, one after another.

    Raises:
        UserError: on arriving at what is not a node list.
    """
    malformed = UserError(f"{text!r} in Slurm's environment: expected names such as node[01-03,7]")
    # A comma separates hosts only outside of brackets.
    for name in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+|[\[\],]", text):
        if name == ",":
            continue
        pieces = re.findall(r"[^\[\]]+|\[[^\[\]]*\]", name)
        if not pieces:  # a bracket without its other half
            raise malformed
        choices = [
            _expand_ranges(piece[1:-1], malformed) if piece[0] == "[" else (piece,)
            for piece in pieces
        ]
        yield from map("".join, itertools.product(*choices))


def _expand_ranges(text: str, malformed: UserError) -> Iterator[str]:
    """`01-03,7` -> 01 02 03 7: all have the first number's width."""
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part, re.ASCII)
        if match is None:
            raise malformed
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise malformed
        yield from (str(number).zfill(len(match[1])) for number in range(first, last + 1))


def whole_number(environ: Mapping[str, str], name: str, minimum: int = 0) -> int:
    """The number in the variable `name`.

    Raises:
        UserError: it is missing, not a whole number, or below the minimum.
    """
    text = environ.get(name)
    if text is None:
        raise UserError(f"{name} is not set in the environment, though its companions are")
    if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) or int(text) < minimum:
        raise UserError(
            f"{name}={text!r} in the environment: expected a whole number of at least {minimum}"
        )
    return int(text)
