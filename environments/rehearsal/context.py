"""The folder from which an image is built."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from docker.utils import exclude_paths

from pcode.utils.errors import UserError


class Context:
    """Its files, as far as .dockerignore does not leave them out.

    Attributes:
        files: their paths in the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        lines = (folder / ".dockerignore").read_text(encoding="utf-8").splitlines()
        patterns = [line for line in lines if line.strip() and not line.startswith("#")]
        names = exclude_paths(str(folder), patterns)
        self.files = {name for name in names if (folder / name).is_file()}

    def copy(self, source: str, where: Path, is_folder: bool) -> None:
        """What COPY does with one of its sources: a file, or all that a folder holds.

        Args:
            where: becomes the file, unless it is a folder to put it in.

        Raises:
            UserError: there is no such file.
        """
        names = {name for name in self.files if Path(name).is_relative_to(source)}
        if not names:
            raise UserError(f"COPY {source}: not there, or left out by .dockerignore")
        for name in names:
            inner = Path(name).relative_to(source)
            target = where / inner
            if inner == Path():
                target = where / Path(name).name if is_folder else where
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self._folder / name, target)
            os.chown(target, 0, 0)
