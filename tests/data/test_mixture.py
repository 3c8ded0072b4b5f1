"""Mixtures: exact shares, every row of a part once a pass, and any row found from its number alone."""

import math
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.data import MixtureStage
from underlay.data.mixture import Mixture, check_parts
from underlay.data.order import Passes
from underlay.errors import UserError

CONTEXT = 8
NAMES = ("code", "prose", "maths", "talk")
WEIGHT = st.integers(1, 30) | st.sampled_from([0.1, 0.7, 0.25, 1 / 3, 2.5])


@st.composite
def curricula(draw: st.DrawFn) -> tuple[list[MixtureStage], dict[str, int]]:
    """One to four stages over one to four parts, the last stage with all of them."""
    names = NAMES[: draw(st.integers(1, 4))]
    stages = []
    for _ in range(draw(st.integers(0, 3))):
        used = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        weights = {name: draw(WEIGHT) for name in used}
        stages.append(MixtureStage(tokens=draw(st.integers(1, 200 * CONTEXT)), weights=weights))
    stages.append(MixtureStage(weights={name: draw(WEIGHT) for name in names}))
    return stages, {name: draw(st.integers(1, 90)) for name in names}


def part_of(row: int, rows: dict[str, int]) -> tuple[str, int]:
    for name, count in rows.items():
        if row < count:
            return name, row
        row -= count
    raise AssertionError


def lengths(stages: list[MixtureStage]) -> list[int]:
    return [math.ceil(stage.tokens / CONTEXT) for stage in stages if stage.tokens]


@given(curricula(), st.integers(0, 5))
def test_counting_row_by_row_gives_the_same(given_: tuple[list[MixtureStage], dict[str, int]], seed: int) -> None:
    """The oracle remembers how often each part was read, and goes through its passes; stages do not start them anew."""
    stages, rows = given_
    mixture = Mixture(stages, rows, CONTEXT, seed)
    seen: Counter[str] = Counter()
    for number in range(sum(lengths(stages)) + 100):
        assert mixture.read(number) == {name: (seen[name], seen[name] / rows[name]) for name in rows}
        name, row = part_of(mixture.row(number), rows)
        assert row == Passes(rows[name], f"{seed}:{name}").row(seen[name])
        seen[name] += 1


@given(curricula())
def test_within_a_pass_every_row_is_read_once(given_: tuple[list[MixtureStage], dict[str, int]]) -> None:
    stages, rows = given_
    mixture = Mixture(stages, rows, CONTEXT, 0)
    read: dict[str, list[int]] = {name: [] for name in rows}
    for number in range(sum(lengths(stages)) + 100):
        name, row = part_of(mixture.row(number), rows)
        read[name].append(row)
    for name, found in read.items():
        for start in range(0, len(found), rows[name]):
            turn = found[start : start + rows[name]]
            assert len(set(turn)) == len(turn)


@given(curricula())
def test_every_stage_and_every_block_has_its_shares(given_: tuple[list[MixtureStage], dict[str, int]]) -> None:
    stages, rows = given_
    mixture = Mixture(stages, rows, CONTEXT, 0)
    start = 0
    for stage, length in zip(stages, [*lengths(stages), None], strict=True):
        exact = {name: Fraction(str(weight)) for name, weight in stage.weights.items()}
        total = sum(exact.values())
        scaled = [weight / total for weight in exact.values()]
        period = math.lcm(*(share.denominator for share in scaled))
        block = max(64, math.ceil(1 / min(scaled)))
        block = math.ceil(block / period) * period if period <= 1024 else block
        ends = range(0, (length or 4 * block) + 1, block)
        # A stage's last block takes in what would be less than one.
        ends = ends if length is None else [*ends[: max(1, len(ends) - 1)], length]
        for end in ends:
            for name in rows:
                found = mixture.read(start + end)[name][0] - mixture.read(start)[name][0]
                wanted = end * exact.get(name, 0) / total
                assert abs(found - wanted) < 1
                if end % period == 0:
                    assert found == wanted
        start += length or 0


@given(curricula(), st.integers(0, 10**15))
def test_far_away_the_counts_still_say_what_is_read(
    given_: tuple[list[MixtureStage], dict[str, int]], number: int
) -> None:
    stages, rows = given_
    mixture = Mixture(stages, rows, CONTEXT, 0)
    before, after = mixture.read(number), mixture.read(number + 1)
    name, row = part_of(mixture.row(number), rows)
    assert {one: after[one][0] - before[one][0] for one in rows} == {one: int(one == name) for one in rows}
    assert row == Passes(rows[name], f"0:{name}").row(before[name][0])


def test_what_comes_later_changes_nothing_before() -> None:
    first = MixtureStage(tokens=1000, weights={"code": 2, "prose": 1})
    rows = {"code": 40, "prose": 30}
    both = [
        Mixture([first, MixtureStage(weights=weights)], rows, CONTEXT, 0)
        for weights in ({"code": 1}, {"code": 1, "prose": 5})
    ]
    orders = [[mixture.row(number) for number in range(300)] for mixture in both]
    assert orders[0][:125] == orders[1][:125]
    assert orders[0][125:] != orders[1][125:]
    other = Mixture([first, MixtureStage(weights={"code": 1})], rows, CONTEXT, 1)
    assert [other.row(number) for number in range(125)] != orders[0][:125]


def test_parts_are_shuffled_among_each_other() -> None:
    rows = {"code": 5000, "prose": 5000}
    mixture = Mixture([MixtureStage(weights={"code": 1, "prose": 1})], rows, CONTEXT, 0)
    parts = [part_of(mixture.row(number), rows)[0] for number in range(4096)]
    changes = sum(one != other for one, other in pairwise(parts))
    assert 1850 < changes < 2250  # half of the neighbours, as by chance: neither in runs nor by turns
    assert len({tuple(parts[start : start + 64]) for start in range(0, 4096, 64)}) == 64


def test_a_stage_may_end_anywhere() -> None:
    """With these weights a last block of a few rows would take rows back from a part: it is one with that before it."""
    weights = {"code": 0.3333, "prose": 0.0156, "maths": 0.6511}
    rows = dict.fromkeys(weights, 50)
    for length in range(195, 210):
        stages = [MixtureStage(tokens=length * CONTEXT, weights=weights), MixtureStage(weights=weights)]
        mixture = Mixture(stages, rows, CONTEXT, 0)
        parts = Counter(part_of(mixture.row(number), rows)[0] for number in range(length))
        assert {name: count for name, (count, _) in mixture.read(length).items()} == parts
        assert all(abs(parts[name] - length * weight) < 1 for name, weight in weights.items())


def test_small_shares_come_about() -> None:
    mixture = Mixture([MixtureStage(weights={"code": 9999, "prose": 1})], {"code": 7, "prose": 7}, CONTEXT, 0)
    assert mixture.read(30_000)["prose"] == (3, 3 / 7)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"weights": {}}, "at least 1 item"),
        ({"weights": {"code": 0, "prose": 0}}, "at least one part more than 0"),
        ({"weights": {"code": -1}}, "greater than or equal to 0"),
        ({"weights": {"code": float("inf")}}, "finite"),
        ({"weights": {"code": 1, "prose": 1e-5}}, "prose has less than one row in 10,000"),
        ({"weights": {"code": 1}, "tokens": 0}, "greater than 0"),
    ],
)
def test_impossible_stages(values: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        MixtureStage(**values)


@pytest.mark.parametrize(
    ("weights", "parts", "complaint"),
    [
        ({"cod": 1}, ("code", "prose"), "no part 'cod' in the dataset; there are code, prose"),
        ({"code": 1, "prose": 0}, ("code", "prose"), "part 'prose' has no weight in any stage"),
        ({"code": 1}, (), "has no parts to mix; pack it from several"),
    ],
)
def test_weights_and_parts_fit(weights: dict[str, float], parts: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        check_parts([MixtureStage(weights=weights)], parts)


def test_a_part_without_a_row_is_named() -> None:
    with pytest.raises(UserError, match="part 'prose' of the dataset has not even one row of 8 tokens"):
        Mixture([MixtureStage(weights={"code": 1, "prose": 1})], {"code": 3, "prose": 0}, CONTEXT, 0)
