"""Run `[-m] PROGRAM ARGUMENTS` with "mpi" registered; its failure ends the job."""

import os
import runpy
import sys

from pcode import mpi_backend


def main(arguments: list[str]) -> None:
    """Run the program on this rank."""
    is_module = arguments[:1] == ["-m"]
    command = arguments[1:] if is_module else arguments
    if not command:
        sys.exit("usage: mpirun -n N python -m pcode.mpi_backend [-m] PROGRAM ARGUMENTS")
    mpi_backend.register()
    os.environ.update(mpi_backend.get_runtime().environment())
    sys.argv = command
    try:
        if is_module:
            runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        else:
            sys.path[0] = os.path.dirname(os.path.abspath(command[0]))
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        if end.code not in (None, 0):
            if not isinstance(end.code, int):
                print(end.code, file=sys.stderr)
            mpi_backend.abort(end.code if isinstance(end.code, int) else 1)
        raise
    except BaseException:
        sys.excepthook(*sys.exc_info())
        mpi_backend.abort(1)


if __name__ == "__main__":
    main(sys.argv[1:])
