"""Long lists end in one row for all others, which has what they have."""

from hypothesis import given
from hypothesis import strategies as st

from underlay.evaluate.ranking import fold, short


@given(st.lists(st.integers(0, 1000)), st.integers(1, 5))
def test_nothing_is_lost_and_others_are_several(counts: list[int], most: int) -> None:
    rows = [(f"name {n}", count) for n, count in enumerate(counts)]
    folded = fold(rows, lambda name, rest: (name, sum(count for _, count in rest)), most)
    assert sum(count for _, count in folded) == sum(counts)
    if len(rows) <= most + 1:
        assert folded == rows
    else:
        assert folded[:most] == rows[:most]
        assert [name for name, _ in folded[most:]] == [f"{len(rows) - most} others"]


def test_long_names_keep_their_end() -> None:
    assert short("a" * 90) == "a" * 90
    assert short("a" * 50 + "/" + "b" * 89) == "…/" + "b" * 89
