"""Building an image's stages in layers, instruction by instruction."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from environments.rehearsal import machine
from environments.rehearsal.container import Container
from environments.rehearsal.context import Context
from environments.rehearsal.dockerfile import Instruction, Stage
from environments.rehearsal.image import Image, with_setting
from environments.rehearsal.layers import Layers
from pcode.utils.errors import UserError

_DEBIAN = re.compile(r"debian:(12|13)\.[0-9]+-slim")
_SUITES = {"12": "bookworm", "13": "trixie"}


class Builder:
    """Stages become images.

    Args:
        layers: where.
        context: what COPY takes files from.
        build_arguments: as given to an engine's --build-arg.
    """

    def __init__(
        self, layers: Layers, context: Context, build_arguments: Mapping[str, str]
    ) -> None:
        self._images: dict[str, Image] = {}
        self._layers = layers
        self._context = context
        self._arguments = build_arguments

    def build(self, stage: Stage) -> Image:
        """All instructions of a stage; each that changes files is told with its size and time.

        Raises:
            UserError: an instruction that is not understood, or a step that fails.
        """
        if stage.parent in self._images:
            image = replace(self._images[stage.parent], arguments={})
        else:
            image = self._debian(stage.parent)
        for instruction in stage.instructions:
            image = self._follow(image, instruction)
        self._images[stage.name] = image
        return image

    def _debian(self, name: str) -> Image:
        """The nearest to one of Debian's own images that debootstrap makes."""
        match = _DEBIAN.fullmatch(name)
        if match is None:
            raise UserError(f"FROM {name}: only debian:12.N-slim and debian:13.N-slim can be made")
        suite = _SUITES[match[1]]
        sources = machine.apt_sources(suite)
        mirror = next(uri for uri, release in sources if release == suite)
        began, layer = time.monotonic(), self._layers.add()
        root = self._layers.files(layer)
        command = ["debootstrap", "--variant=minbase", suite, str(root), mirror]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise UserError(f"FROM {name}: debootstrap: {done.stdout[-2000:]}")
        version = (root / "etc/debian_version").read_text(encoding="utf-8").strip()
        if name != f"debian:{version}-slim":
            raise UserError(f"FROM {name}: the archive has Debian {version}")
        lines = [f"deb {uri} {release} main\n" for uri, release in sources]
        (root / "etc/apt/sources.list").write_text("".join(lines), encoding="utf-8")
        # What the published image leaves out.
        for part in ("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc"):
            for each in (root / part).iterdir():
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        for file in ("etc/resolv.conf", "etc/hosts"):  # engines bring their own
            (root / file).unlink(missing_ok=True)
            (root / file).touch()
        self._tell(f"FROM {name}", layer, began)
        return Image(layers=(layer,))

    def _follow(self, image: Image, instruction: Instruction) -> Image:
        """The image after one instruction."""
        value = instruction.value
        if instruction.name == "RUN":
            return self._run(image, f"RUN {value}", [*image.shell, value])
        if instruction.name == "COPY":
            return self._copy(image, instruction)
        if instruction.name == "WORKDIR":
            (work_dir,) = instruction.words(image.known)
            return self._run(replace(image, work_dir=work_dir), f"WORKDIR {value}", ["true"])
        return with_setting(image, instruction, self._arguments)

    def _run(self, image: Image, title: str, argv: list[str]) -> Image:
        """A new layer with what a command has written."""
        began, layer = time.monotonic(), self._layers.add()
        with self._layers.mounted(image.layers, layer) as root:
            (root / image.work_dir.lstrip("/")).mkdir(parents=True, exist_ok=True)
            container = Container(
                root,
                argv,
                {"HOME": "/root", **machine.variables(), **image.known},
                image.work_dir,
                image.user_id or None,
                volumes=machine.volumes(),
            )
            done = subprocess.run(container.command(), check=False)
        if done.returncode != 0:
            raise UserError(f"{title}: status {done.returncode}")
        self._tell(title, layer, began)
        return replace(image, layers=(*image.layers, layer))

    def _copy(self, image: Image, instruction: Instruction) -> Image:
        """A new layer with files of the context, or of another stage."""
        *sources, target = instruction.words(image.known)
        origin = None
        if sources[0].startswith("--from="):
            origin = self._images[sources.pop(0).removeprefix("--from=")]
        began, layer = time.monotonic(), self._layers.add()
        with self._layers.mounted(image.layers, layer) as root:
            where = root / str(Path(image.work_dir, target)).lstrip("/")
            for source in sources:
                if origin is None:
                    is_folder = target.endswith("/") or len(sources) > 1
                    self._context.copy(source, where, is_folder)
                    continue
                with self._layers.mounted(origin.layers, self._layers.add()) as other:
                    shutil.copytree(other / source.lstrip("/"), where, symlinks=True)
        self._tell(f"COPY {instruction.value}", layer, began)
        return replace(image, layers=(*image.layers, layer))

    def _tell(self, title: str, layer: int, began: float) -> None:
        size, seconds = self._layers.bytes(layer) / 1e6, time.monotonic() - began
        print(f"{size:9.1f} MB {seconds:7.1f} s  {' '.join(title.split())[:80]}", flush=True)
