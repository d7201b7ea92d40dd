"""Checkpoints: all that a run is after so many steps, whole or absent.

RUN/checkpoints/STEP.json, the manifest, names the files of the nodes, RUN/RANK/checkpoint_STEP.pt,
with their digests. Rank 0 writes it after all of them lie on the disk: without it there is no
checkpoint, and it goes before they go.
"""

import dataclasses
import hashlib
import io
import json
import math
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.utils._pytree import tree_map_only

from pcode.communication import Communicator
from pcode.communication.gathering import gather_digests
from pcode.config.options import Watch
from pcode.topology import Directed, Graph, Lossy, Topology
from pcode.utils.errors import UserError
from pcode.utils.files import TEMPORARY, json_object, one_line, read_text, whole_file, write_whole
from pcode.utils.layout import Layout

# Of manifests and nodes' files. The first had no digest of the manifest itself.
VERSION, FIRST_VERSION = 2, 1
# For the names of some ten thousand nodes and their digests.
MOST_MANIFEST_BYTES = 1 << 20
# The digest of a file that is not written, in the place of another's.
NO_DIGEST = bytes(hashlib.sha256().digest_size)


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of.

    Attributes:
        step, steps_per_epoch: steps of each node.
        folders: of the nodes in the run's folder, by rank; the names of the ranks, unless nodes
            were lost.
        sha256: of the nodes' files, by rank.
        graph: a digest of the graph's weights.
    """

    step: int
    steps_per_epoch: int
    folders: tuple[str, ...]
    sha256: tuple[str, ...]
    graph: str
    version: int = VERSION

    @property
    def num_nodes(self) -> int:
        return len(self.folders)

    @property
    def epoch(self) -> float:
        return self.step / self.steps_per_epoch


def graph_digest(graph: Graph) -> str:
    """Return the same digest for graphs with the same weights, and the same losses."""
    if isinstance(graph, Lossy):
        return f"{graph_digest(graph.graph)} without {graph.probability}"
    if isinstance(graph, Topology | Directed):
        return hashlib.sha256(graph.matrix.tobytes()).hexdigest()
    return f"{graph.name} of {graph.num_nodes}"


def manifest_file(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"{step}.json"


def node_file(run: Path, folder: str, step: int) -> Path:
    return run / folder / f"checkpoint_{step}.pt"


def saved_steps(run: Path) -> list[int]:
    """Return the steps after which the run in this folder has a checkpoint, ascending."""
    names = [file.stem for file in (run / "checkpoints").glob("*.json")]
    return sorted(int(name) for name in names if name.isdecimal())


def last_step(run: Path) -> int | None:
    """Return the step of the run's last checkpoint, or None where it has none."""
    return max(saved_steps(run), default=None)


def read_manifest(run: Path, step: int) -> Manifest:
    """Return the manifest of a checkpoint that is there.

    Raises:
        UserError: it is damaged, of another version, or a file that it names is not there.
    """
    file = manifest_file(run, step)
    damaged = _unusable(run, step, f"{file} is damaged")
    try:
        content = json_object(read_text(file, MOST_MANIFEST_BYTES))
    except ValueError:
        raise damaged from None
    version, digest = content.get("version"), content.pop("digest", None)
    if version not in (FIRST_VERSION, VERSION):
        raise UserError(
            f"--resume {run}: {file} is of version {version!r:.80}, this program reads "
            f"{FIRST_VERSION} and {VERSION}"
        )
    if digest != (None if version == FIRST_VERSION else _digest(content)):
        raise damaged
    lists = {name: tuple(each) for name, each in content.items() if isinstance(each, list)}
    try:
        manifest = Manifest(**content | lists)
    except TypeError:
        raise damaged from None
    kinds = {field.name: type(getattr(manifest, field.name)) for field in fields(Manifest)}
    if not (
        [*kinds.values()] == [int, int, tuple, tuple, str, int]
        and all(isinstance(text, str) for text in (*manifest.folders, *manifest.sha256))
        and all(folder.isdecimal() for folder in manifest.folders)
        and 0 < len(manifest.folders) == len(manifest.sha256)
        and manifest.step == step
        and manifest.steps_per_epoch > 0
    ):
        raise damaged
    for folder in manifest.folders:
        if not node_file(run, folder, step).is_file():
            raise _unusable(run, step, f"{node_file(run, folder, step)} is not there")
    return manifest


def _digest(content: dict[str, Any]) -> str:
    """Return that of a manifest's other content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _unusable(run: Path, step: int, reason: str) -> UserError:
    """Say why a checkpoint cannot be used, and from which one the run can go on."""
    if before := [other for other in saved_steps(run) if other < step]:
        manifest = manifest_file(run, step).name
        reason += f"; without {manifest} it goes on after step {before[-1]}"
    return UserError(f"--resume {run}: {reason}")


def read_node(run: Path, manifest: Manifest, rank: int, layout: Layout) -> dict[str, Any]:
    """Return a node's state as `save` was given it.

    Raises:
        UserError: the file cannot be read or is not the one that was written, or it holds another
            model's.
    """
    file, step = node_file(run, manifest.folders[rank], manifest.step), manifest.step
    try:
        content = file.read_bytes()
    except OSError as error:
        raise _unusable(run, step, f"{file}: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != manifest.sha256[rank]:
        raise _unusable(run, step, f"{file} is damaged")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
        if "law" in state:  # what the first version called it
            state["optimizer"] = state.pop("law")
        found = Layout(tuple(state["names"]), tuple(tuple(shape) for shape in state["shapes"]))
    except Exception as error:  # with the right digest: another program's, which may hold anything
        raise UserError(f"--resume {run}: {file} is no checkpoint: {one_line(error)}") from None
    if found != layout:
        raise UserError(
            f"--resume {run}: {file} holds {found.num_tensors} tensors of "
            f"{found.num_entries:,} entries, the model has {layout.num_tensors} of "
            f"{layout.num_entries:,}: its flags --arch and --data must be the same"
        )
    return state


class Checkpoints:
    """One node's part in keeping a run's checkpoints; it removes what interrupted ones left.

    Args:
        run: the run's folder.
        folder: the node's own, in it.
        watch: says which are retained.
        writes: False for a process whose node has another that keeps its checkpoints.
    """

    def __init__(self, run: Path, folder: str, watch: Watch, *, writes: bool) -> None:
        self._run, self._folder, self._watch, self._writes = run, folder, watch, writes
        # Lets torch import what it otherwise would at the first checkpoint, which may be the end:
        # files may have changed by then.
        torch.save(None, io.BytesIO())
        self._epochs = dict.fromkeys(saved_steps(run), math.nan)  # where a manifest is damaged
        for step in self._epochs:
            with suppress(UserError):
                self._epochs[step] = read_manifest(run, step).epoch
        if not writes:
            return
        whole = {node_file(run, folder, step) for step in self._epochs}
        own = set((run / folder).glob("checkpoint_*.pt"))
        for debris in (own - whole) | set((run / folder).glob(f"{TEMPORARY}*")):
            debris.unlink()

    def save(
        self, state: dict[str, Any], layout: Layout, manifest: Manifest, communicator: Communicator
    ) -> None:
        """Write a checkpoint, and remove those that are not retained any more; all nodes call it.

        Args:
            state: tensors, numbers, texts, and lists and dictionaries of them.
            manifest: without digests.

        Raises:
            OSError: it cannot be written; those before are whole.
            CommunicationError: another node could not write it.
        """
        own, step = NO_DIGEST, manifest.step
        if self._writes:
            shapes = [list(shape) for shape in layout.shapes]
            own = save_tensors(
                node_file(self._run, self._folder, step),
                {"names": list(layout.names), "shapes": shapes, **state},
                lambda file: communicator.fail_point("save", step, lambda: _corrupt(file)),
            )
        digests = gather_digests(communicator, own, step)
        epochs = self._epochs | {step: manifest.epoch}
        dropped = [
            old
            for old in sorted(epochs)[: -self._watch.keep_checkpoints]
            if not epochs[old].is_integer() or not self._watch.saves_model_after(int(epochs[old]))
        ]
        if communicator.is_first:
            communicator.fail_point("manifest", step)
            manifest = dataclasses.replace(manifest, sha256=tuple(digests))
            file = manifest_file(self._run, step)
            file.parent.mkdir(exist_ok=True)
            content = dataclasses.asdict(manifest)
            write_whole(file, json.dumps({**content, "digest": _digest(content)}).encode())
            for old in dropped:
                manifest_file(self._run, old).unlink(missing_ok=True)
        communicator.barrier(step)  # a checkpoint with a manifest has all its files at any moment
        for old in dropped if self._writes else ():
            node_file(self._run, self._folder, old).unlink(missing_ok=True)
        self._epochs = {step: epoch for step, epoch in epochs.items() if step not in dropped}


def save_tensors(
    path: Path, content: Any, before_it_counts: Callable[[BinaryIO], None] = lambda file: None
) -> bytes:
    """Write what torch.load(weights_only=True) reads, whole or not at all; its SHA-256.

    Args:
        content: tensors, numbers, texts, and lists and dictionaries of them.
        before_it_counts: called with the file, before it takes the place of `path`.

    Raises:
        OSError: it cannot be written.
    """
    # In host memory, so that a machine without the device can read it.
    content = tree_map_only(torch.Tensor, lambda tensor: tensor.cpu(), content)
    written = io.BytesIO()
    torch.save(content, written)
    with whole_file(path) as file:
        file.write(written.getbuffer())
        before_it_counts(file)
    return hashlib.sha256(written.getbuffer()).digest()


def check_tensors(path: Path) -> None:
    """Check that a file of `save_tensors` is undamaged, which torch.load does not.

    It is a zip archive, with a CRC-32 of each of its members.

    Raises:
        ValueError, OSError, zipfile.BadZipFile: it is not.
    """
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("it is compressed")  # torch.save never does; it may be a bomb
        if (member := archive.testzip()) is not None:
            raise ValueError(f"{member} in it is damaged")


def _corrupt(file: BinaryIO) -> None:
    file.seek(file.tell() // 2)
    file.write(b"spoilt")
