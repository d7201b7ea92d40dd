"""Build the image without a container engine, and run the smoke tests' pods in it.

A bare Debian of debootstrap stands for the base image; every other step is what the Dockerfile
says, in a root folder and namespaces of its own. Packages come from where apt and pip of this
machine take them. Containers then run as the image's user, without capabilities, on a read-only
root, with volumes as folders. It needs Linux, root, debootstrap, and several times the image's size
on the disk; nothing stays mounted, and the folder is removed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from environments.rehearsal.build import Builder
from environments.rehearsal.context import Context
from environments.rehearsal.dockerfile import Stage, needed, read_stages
from environments.rehearsal.here import files_of_this_machine, image_of_this_machine
from environments.rehearsal.image import Image
from environments.rehearsal.layers import Layers
from environments.rehearsal.smoke import KINDS, rehearse
from pcode.tools.command import Parser, call
from pcode.utils.errors import UserError

ROOT = Path(__file__).parents[2]
# Set in the namespaces in which everything is mounted.
_INSIDE = "REHEARSAL_INSIDE"


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m environments.rehearsal", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--target", default="cpu", help="the Dockerfile's stage; default: cpu")
    parser.add_argument(
        "--build-arg", action="append", default=[], metavar="NAME=VALUE", help="as an engine's"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="where it has room"
    )
    parser.add_argument(
        "--here",
        action="store_true",
        help="build nothing: this machine's files and this interpreter's packages are the image",
    )
    parser.add_argument(
        "--kind", choices=KINDS, help="the only kind of pods to run; default: one after another"
    )
    return parser.parse_args(arguments)


def _run(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    if os.geteuid() != 0:
        raise UserError("a root folder can only be made by root")
    for program in ("unshare", "nsenter", "kubectl", *([] if options.here else ["debootstrap"])):
        if shutil.which(program) is None:
            raise UserError(f"no {program} found")
    if _INSIDE not in os.environ:
        os.environ[_INSIDE] = "1"
        new = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
        inside = [sys.executable, "-m", "environments.rehearsal", *arguments]
        os.execvp(new[0], [*new, "--mount-proc", *inside])
    stages = needed(read_stages(ROOT / "environments/docker/Dockerfile"), options.target)
    with tempfile.TemporaryDirectory(prefix="rehearsal-", dir=options.folder) as name:
        folder = Path(name)
        with _memory(folder) if options.here else nullcontext():
            layers, volumes = Layers(folder / "layers"), []
            if options.here:
                image, volumes = image_of_this_machine(stages, layers), files_of_this_machine()
            else:
                image = _build(stages, layers, options.build_arg)
            for kind in KINDS if options.kind is None else (options.kind,):
                rehearse(layers, image, folder, kind, volumes)
    return 0


def _build(stages: Sequence[Stage], layers: Layers, build_arguments: Sequence[str]) -> Image:
    arguments = dict(each.split("=", 1) for each in build_arguments)
    builder = Builder(layers, Context(ROOT), arguments)
    for stage in stages:
        image = builder.build(stage)
    print(f"{sum(map(layers.bytes, image.layers)) / 1e6:9.1f} MB in all", flush=True)
    return image


@contextmanager
def _memory(folder: Path) -> Iterator[None]:
    """The folder lies in memory meanwhile, apart from this machine's files."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def main(arguments: Sequence[str]) -> int:
    """Build and rehearse; 2 for what cannot be done."""
    return call("rehearsal", _run, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
