"""A run under way on one node: who takes part, how far it is, where it is saved."""

import hashlib
import math
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from pcode.communication import Communicator
from pcode.communication.gathering import gather_digests, gather_floats
from pcode.training.checkpoint import Manifest, manifest_file, saved_steps
from pcode.training.node import Node
from pcode.training.plan import Plan
from pcode.training.records import SUMMARY, Records, lock, run_name, runs_folder, taken
from pcode.training.resume import ResumePoint, standing_of
from pcode.utils.errors import CommunicationError, TakenError, UserError
from pcode.utils.files import one_line

# What a checkpoint with the right digest raises that another program wrote.
_FOREIGN = (KeyError, TypeError, ValueError, RuntimeError, AttributeError)


@dataclass
class Progress:
    """Numbers that a checkpoint keeps; on one node.

    Attributes:
        losses: of the steps of the epoch under way; the sum over the processes of a node is the
            node's.
        loss: mean over nodes and steps of the epoch before.
        best: the best test figure so far.
        train_seconds: of its steps: not of evaluations, checkpoints and synchronisation points.
        bytes_sent: by this node.
        log_bytes: length of its log.
        events: what happened to the run besides its steps: where it was resumed, which nodes it
            lost and which were restored; for the summary.
    """

    losses: list[float] = field(default_factory=list)
    loss: float = math.nan
    best: float | None = None
    train_seconds: float = 0.0
    bytes_sent: int = 0
    log_bytes: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)


class RunState:
    """A run on one node, from its start on: read from a checkpoint, its folder made or opened.

    Attributes:
        node: this node; with fewer others it is another one.
        members: the folders of all nodes, by rank: their ranks at the beginning.
        progress, records: of this node.
        first_step: how many steps had been made when this process began.

    Raises:
        UserError: what it starts from is damaged or does not fit, or the folder cannot be made.
        TakenError: on all nodes.
    """

    def __init__(self, plan: Plan, communicator: Communicator) -> None:
        self.node = Node(plan, communicator)
        self.members = [str(rank) for rank in range(communicator.size)]
        self.progress = self._begin()
        self.first_step = self.step
        self.records = _open_records(plan, communicator, self.progress.log_bytes)

    @property
    def plan(self) -> Plan:
        return self.node.plan

    @property
    def communicator(self) -> Communicator:
        return self.node.communicator

    @property
    def step(self) -> int:
        """How many steps were made."""
        return self.node.optimizer.num_steps

    def say(self, text: str) -> None:
        """Write a line to the first node's standard output."""
        if self.communicator.is_first:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def _begin(self) -> Progress:
        """Load what the run starts from; all nodes have to see the same."""
        node, start = self.node, self.plan.start
        state, unreadable = {}, None
        try:
            if start is not None and start.manifest is not None:
                state = start.state(node.rank, node.optimizer.layout)
        except _FOREIGN as error:
            unreadable = error
        # After the reading: a process that trains the run removes what is read for what is newer.
        _agree(node.communicator, start)
        if start is None:
            return Progress()
        self.say(str(start))
        if start.manifest is None:
            return Progress()
        try:
            if unreadable is not None:
                raise unreadable
            progress = self._load(start, start.manifest, state)
        except _FOREIGN as error:
            if isinstance(error, UserError | CommunicationError):
                raise
            raise UserError(
                f"--resume {start.run}: its checkpoint is not one of this run: {one_line(error)}"
            ) from None
        progress.events.append({"step": start.manifest.step, "resumed": str(start.run)})
        return progress

    def _load(self, start: ResumePoint, manifest: Manifest, state: dict[str, Any]) -> Progress:
        node = self.node
        if not start.same:
            node.warm_start(state, node.plan.steps_after(manifest.epoch))
            if start.averaged:
                node.optimizer.steps_since_exchange = 0  # of the other run's
                node.optimizer.resynchronise()
            return Progress()
        node.load_state_dict(state)
        progress = Progress(**state["progress"])
        if not node.local_ranks.is_first:  # the first has those of all
            progress.losses = [0.0] * len(progress.losses)
        node.communicator.bytes_sent = progress.bytes_sent
        return progress


def _agree(communicator: Communicator, start: ResumePoint | None) -> None:
    """Raise TakenError where another process has trained the run, UserError where nodes differ."""
    groups = (communicator.local_ranks, communicator)
    num_taken = float(start is not None and start.is_taken)
    for each in groups:  # not by an all-reduce, whose bytes are counted as sent
        num_taken = sum(row[0] for row in gather_floats(each, [num_taken]))
    if start is not None and num_taken > 0:
        raise taken(start.run)
    digest = hashlib.sha256(str(start).encode()).digest()
    seen = [gather_digests(each, digest) for each in groups]
    if len({*seen[0], *seen[1]}) > 1:
        raise UserError(
            "--resume: the nodes see different checkpoints; --checkpoint has to be a folder that "
            "all hosts share"
        )


def _open_records(plan: Plan, communicator: Communicator, log_bytes: int) -> Records:
    """Make the run's folder, or open that of the run that is resumed; `log_bytes` of it count."""
    # Nobody writes before all have come here, with all that they have to read.
    communicator.barrier()
    now = gather_floats(communicator, [time.time()])[0][0]
    name = plan.timestamp or run_name(datetime.fromtimestamp(now))
    resumed = plan.start if plan.start is not None and plan.start.same else None
    folder = runs_folder(plan.config) / name if resumed is None else resumed.run
    held, error = None, TakenError(f"--resume {folder}: another process has trained it meanwhile")
    if communicator.is_first:
        try:
            held = _claim(folder, resumed)
        except TakenError as taken:
            error = taken
    if not gather_floats(communicator, [held is not None])[0][0]:
        raise error
    own, writes = str(communicator.rank), communicator.local_ranks.is_first
    records = Records(folder, own, None if resumed is None else log_bytes, writes=writes)
    if held is not None:
        records.lead(held)
        if plan.config.data.partition_data != "none":
            records.write_partition(plan.partition(epoch=0))
    return records


def _claim(folder: Path, resumed: ResumePoint | None) -> BinaryIO | None:
    """Make or lock the run's folder before any node writes into it; the lock.

    None: another process has trained the run since it was found.

    Of a run that is resumed, what is later than its checkpoint is removed.
    """
    if resumed is not None:
        held = lock(folder)
        if standing_of(folder) != resumed.standing:
            held.close()
            return None
        (folder / SUMMARY).unlink(missing_ok=True)
        for step in saved_steps(folder):
            if resumed.manifest is not None and step > resumed.manifest.step:
                manifest_file(folder, step).unlink()
        return held
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--checkpoint: cannot make {folder}: {error.strerror}") from None
    return lock(folder)
