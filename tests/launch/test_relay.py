"""mpirun's blocks go, whatever the pieces in which they come; everything else passes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcode.launch.relay import Filter

RULE = 74 * b"-" + b"\n"
KILLED = (
    RULE
    + b"prterun noticed that process rank 1 with PID 18617 on node vm exited on\n"
    + b"signal 9 (Killed).\n"
    + RULE
)
FAILED = (
    RULE
    + b"prterun detected that one or more processes exited with non-zero status,\n"
    + b"thus causing the job to be terminated. The first process to do so was:\n\n"
    + b"   Process name: [prterun-vm-18632@1,2]\n   Exit code:    3\n"
    + RULE
)
ABORTED = (
    RULE
    + b"MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD\n"
    + b"  Proc: [[12944,1],1]\n  Errorcode: 3\n\n"
    + RULE
    + RULE
    + b"prterun has exited due to process rank 2 with PID 0 on node vm calling\n"
    + b'"abort". This may have caused other processes in the application to be\n'
    + RULE
    + b"\x00"
)
NOISE = (
    b"[vm:91] 2 more processes have sent help message help-mpi-api.txt / mpi-abort\n"
    b'[vm:91] Set MCA parameter "orte_base_help_aggregate" to 0 to see all messages\n'
    b"[vm:91] plm:ssh: Warning: setpgid(97,97) failed in parent with "
    b"errno=Permission denied(13)\n"
    b"[vm:91] PMIX ERROR: PMIX_ERR_UNREACH in file /pmix/src/server/pmix_server.c at line 3146\n"
    b"[warn] Epoll MOD(1) on fd 22 failed. Old events were 6; read change was 0 (none); "
    b"write change was 2 (del); close change was 0 (none): Bad file descriptor\n"
)
CLOSED = b"[vm:19673] prterun: SIGPIPE detected - aborting\n"
OTHER = RULE + b"There are not enough slots available in the system\n" + RULE


@pytest.mark.parametrize(
    ("block", "death"),
    [
        (KILLED, "rank 1 (process 18617 on vm) was ended by signal 9 (Killed)"),
        (FAILED, "rank 2 ended with status 3"),
        (ABORTED, "rank 2 ended the run"),
        (NOISE, None),
        (CLOSED, None),
        (OTHER, None),
    ],
)
@given(cuts=st.sets(st.integers(1, 800)))
def test_blocks_are_kept_as_what_they_say(block: bytes, death: str | None, cuts: set[int]) -> None:
    stream = b"\rstep 3\n-" + block + b"\rstep 4 -----"
    found = Filter()
    places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    passed = b"".join(found.feed(stream[a:b]) for a, b in pairwise(places))
    passed += found.close()
    kept = block if block == OTHER else b""
    assert passed == b"\rstep 3\n-" + kept + b"\rstep 4 -----"
    assert death == (None if found.death is None else found.death.sentence)
    assert not found.has_error
    assert found.is_closed == (block == CLOSED)


def test_unfinished_lines_are_not_held_back() -> None:
    found = Filter()
    assert found.feed(b"\rstep 3") == b"\rstep 3"
    assert found.feed(b"\rstep 4 [00:01<00:03, 9.2step/s]") == b"\rstep 4 [00:01<00:03, 9.2step/s]"


def test_the_first_death_counts() -> None:
    found = Filter()
    assert found.feed(KILLED + FAILED) == b""
    assert found.death is not None
    assert found.death.rank == 1


@given(st.integers(1, 13))
def test_errors_of_ranks_are_seen(cut: int) -> None:
    found = Filter()
    line = b"run.py: error: rank 1, peer 0: it is silent\n"
    assert found.feed(line[:cut]) + found.feed(line[cut:]) == line
    assert found.has_error


def test_endless_blocks_pass() -> None:
    found = Filter()
    text = RULE + b"prterun " + 100_000 * b"x"
    assert found.feed(text) == text


@pytest.mark.parametrize("cut", range(40))
def test_a_traceback_is_noted_wherever_it_is_cut(cut: int) -> None:
    text = b"x\nTraceback (most recent call last):\n  File\n"
    relayed = Filter()
    assert relayed.feed(text[:cut]) + relayed.feed(text[cut:]) + relayed.close() == text
    assert relayed.has_traceback
    assert not relayed.has_error
