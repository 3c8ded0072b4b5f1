"""Best fit: the compiled kernel is its plain twin, rows are never too full, and there are few of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.errors import UserError
from underlay.kernels.packing import best_fit, best_fit_reference


@st.composite
def rooms_and_pieces(draw: st.DrawFn) -> tuple[int, list[int]]:
    room = draw(st.integers(1, 40))
    return room, draw(st.lists(st.integers(1, room), max_size=60))


@given(rooms_and_pieces())
def test_best_fit_equals_its_plain_twin(given_: tuple[int, list[int]]) -> None:
    room, lengths = given_
    assert best_fit(lengths, room).tolist() == best_fit_reference(lengths, room)


@given(rooms_and_pieces())
def test_rows_hold_their_pieces_and_no_two_could_be_one(given_: tuple[int, list[int]]) -> None:
    room, lengths = given_
    filled = np.bincount(best_fit(lengths, room), weights=lengths)
    assert (filled > 0).all()
    assert (filled <= room).all()
    assert sum(sorted(filled)[:2]) > room or len(filled) < 2


@pytest.mark.parametrize(
    ("room", "lengths", "expected"),
    [
        (10, [], []),
        (1, [1, 1], [0, 1]),
        (10, [3, 7, 6, 4], [0, 0, 1, 1]),  # each with the one that fills its row
        (10, [2, 5, 6], [0, 1, 0]),  # of two rows it fits into, the fuller one
        (10, [10, 9, 1], [0, 1, 1]),
        (10, [6, 6, 3, 3], [0, 1, 1, 0]),  # rows with the same room: the last put into comes first
    ],
)
def test_examples(room: int, lengths: list[int], expected: list[int]) -> None:
    assert best_fit(lengths, room).tolist() == expected


def test_longest_first_leaves_less_unfilled_than_first_come() -> None:
    lengths = np.random.default_rng(0).lognormal(3.5, 1, 2000).astype(int).clip(1, 256)
    rows: list[int] = []
    for length in lengths:  # first fit, in the order of arrival
        at = next((n for n, room in enumerate(rows) if room >= length), len(rows))
        rows[at : at + 1] = [(rows[at] if at < len(rows) else 256) - int(length)]
    assert best_fit(lengths, 256).max() + 1 < len(rows)


@pytest.mark.parametrize("lengths", [[0, 3], [3, 11], [-1]])
def test_pieces_that_fit_into_no_row_are_refused(lengths: list[int]) -> None:
    with pytest.raises(UserError, match="do not fit into rows of 1 to 10"):
        best_fit(lengths, 10)
