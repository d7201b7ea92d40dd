"""Layers of files, one over the other, as an image has them: overlayfs."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# In the place of a layer's number: this machine's own root folder. The other layers have to be on
# another file system.
THIS_MACHINE = 0


@dataclass
class Layers:
    """A folder of numbered layers; an image is a list of their numbers, the lowest first.

    To be used in a mount namespace that ends with the program: a mount that is left is gone then.
    """

    folder: Path
    _number: int = field(default=0, init=False)

    def add(self) -> int:
        """A new, empty layer."""
        self._number += 1
        for part in ("files", "work", "merged"):
            (self.folder / str(self._number) / part).mkdir(parents=True)
        return self._number

    def files(self, layer: int) -> Path:
        """Where the files of one layer alone are."""
        return self.folder / str(layer) / "files"

    @contextlib.contextmanager
    def mounted(self, below: Sequence[int], top: int) -> Iterator[Path]:
        """All of them as one folder; what is written lands in `top`."""
        # Relative, since the kernel takes a page of text at most.
        folders = ["/" if layer == THIS_MACHINE else f"{layer}/files" for layer in below]
        lower = ":".join(reversed(folders))
        options = f"lowerdir={lower},upperdir={top}/files,workdir={top}/work"
        merged = self.folder / str(top) / "merged"
        mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(merged)]
        subprocess.run(mount, cwd=self.folder, check=True)
        try:
            yield merged
        finally:
            subprocess.run(["umount", str(merged)], check=True)

    def bytes(self, layer: int) -> int:
        """The size of one layer's files, a file of several names counted once."""
        seen: dict[tuple[int, int], int] = {}
        for folder, _, names in os.walk(self.files(layer)):
            for name in names:
                found = os.lstat(os.path.join(folder, name))
                if stat.S_ISREG(found.st_mode):
                    seen[found.st_dev, found.st_ino] = found.st_size
        return sum(seen.values())
