"""What errors say of where they happened."""

from __future__ import annotations

from pcode.utils.errors import CommunicationError, DivergenceError, NotFiniteError


def test_places_that_are_known_are_named() -> None:
    assert str(CommunicationError("late", rank=0, peer=2, step=7)) == "rank 0, peer 2, step 7: late"
    assert str(CommunicationError("late", rank=0)) == "rank 0: late"
    assert (
        str(DivergenceError("the loss is nan", rank=1, step=0)) == "rank 1, step 0: the loss is nan"
    )
    assert str(DivergenceError("the loss is nan")) == "the loss is nan"


def test_nodes_have_the_names_of_the_beginning() -> None:
    """Rank 0 was lost: those that are left are counted anew."""
    members = ["1", "2", "3"]
    late = CommunicationError("late", rank=0, peer=2, reported_by_peer=True).named(members, step=5)
    assert (str(late), late.reported_by_peer) == ("rank 1, peer 3, step 5: late", True)
    diverged = DivergenceError("the loss is nan", rank=1, step=4).named(members)
    assert str(diverged) == "rank 2, step 4: the loss is nan"
    assert str(DivergenceError("the loss is nan").named(members)) == "the loss is nan"
    not_finite = NotFiniteError("fc.weight").named(members, step=3)
    assert str(not_finite) == "step 3: tensor fc.weight holds NaN or infinity"
