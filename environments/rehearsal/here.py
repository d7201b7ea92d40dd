"""This machine's own files in the place of an image's: its pods without building it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from environments.rehearsal.container import Container, Volume
from environments.rehearsal.dockerfile import Stage
from environments.rehearsal.image import Image, with_setting
from environments.rehearsal.layers import THIS_MACHINE, Layers
from pcode.utils.errors import UserError

_PYTHON = "/opt/venv"
_CODE = "/opt/choco-sgd"
_USER = "choco"
_FILES = ("environments/docker", "configs", "pcode", "run.py")
# With every kernel of the smoke tests.
_COMPILE = ("--backend", "sim", "--arch", "logistic_regression", "--num_epochs", "1")


def image_settings(stages: Sequence[Stage]) -> Image:
    """What the stages say of how a container is started."""
    image = Image()
    for stage in stages:
        for instruction in stage.instructions:
            if instruction.name == "WORKDIR":
                (work_dir,) = instruction.words(image.known)
                image = replace(image, work_dir=work_dir)
            elif instruction.name not in ("RUN", "COPY"):
                image = with_setting(image, instruction, {})
    return image


def image_of_this_machine(stages: Sequence[Stage], layers: Layers) -> Image:
    """An image with the stages' settings over this machine's root folder.

    One layer makes up for steps that are not taken: the user, and compiled kernels.

    Raises:
        UserError: the kernels do not compile.
    """
    image = replace(image_settings(stages), layers=(THIS_MACHINE,))
    layer = layers.add()
    with layers.mounted(image.layers, layer) as root:
        _add_user(root, image.user_id)
        # An interpreter in a user's own folder is closed to others.
        for folder in Path(sys.base_prefix).parents:
            inside = root / str(folder).lstrip("/")
            inside.chmod(inside.stat().st_mode | 0o001)
        variables = {**image.variables, "NUMBA_CACHE_DIR": f"{_CODE}/kernels"}
        command = ["python", f"{_CODE}/run.py", *_COMPILE, "--checkpoint", "/tmp/compile"]
        container = Container(root, command, variables, volumes=files_of_this_machine())
        done = subprocess.run(container.command(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"compiling: {done.stdout}{done.stderr}")
    return replace(image, layers=(*image.layers, layer))


def files_of_this_machine() -> list[Volume]:
    """This interpreter's packages and the repository's files where the image has them."""
    root = Path(__file__).parents[2]
    return [
        # Not the folder itself, which may be closed to other users.
        *(Volume(each, f"{_PYTHON}/{each.name}", True) for each in Path(sys.prefix).iterdir()),
        *(Volume(root / name, f"{_CODE}/{name}", True) for name in _FILES),
    ]


def _add_user(root: Path, user: int) -> None:
    """The image's user, in the place of any of this machine's of that name or number."""
    users = root / "etc/passwd"
    lines = users.read_text(encoding="utf-8").splitlines()
    others = [line for line in lines if line.split(":")[0] != _USER]
    others = [line for line in others if line.split(":")[2] != str(user)]
    entry = f"{_USER}:x:{user}:{user}::/home/{_USER}:/bin/sh"
    users.write_text("\n".join([*others, entry, ""]), encoding="utf-8")
    (root / "home" / _USER).mkdir(parents=True, exist_ok=True)
