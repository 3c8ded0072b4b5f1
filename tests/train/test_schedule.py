"""Schedules against their closed forms."""

import math
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from underlay.train.schedule import ScheduleConfig


@pytest.mark.parametrize("steps", [20, 100])
def test_cosine_and_linear_have_their_closed_forms(steps: int) -> None:
    for final in (0.0, 0.1):
        cosine, linear = (ScheduleConfig(kind=kind, warmup_steps=4, final=final) for kind in ("cosine", "linear"))
        for step in range(4, steps):
            done = (step - 4) / (steps - 4)
            expected = final + (1 - final) * (1 + math.cos(math.pi * done)) / 2
            assert cosine.rate(step, steps) == pytest.approx(expected)
            assert linear.rate(step, steps) == pytest.approx(final + (1 - final) * (1 - done))
        assert [cosine.rate(step, steps) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_the_stable_part_knows_no_end() -> None:
    schedule = ScheduleConfig(decay=0.25, warmup_steps=2)
    assert [schedule.rate(step, 8) for step in range(8)] == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.5])
    assert schedule.decay_start(8) == 6
    assert [schedule.rate(step, 800) for step in range(6)] == [schedule.rate(step, 8) for step in range(6)]


def test_a_warmup_longer_than_the_run() -> None:
    for kind in ("wsd", "cosine", "linear"):
        rates = [ScheduleConfig(kind=kind, warmup_steps=50).rate(step, 10) for step in range(10)]
        assert all(0 <= rate <= 0.2 for rate in rates)


@given(
    st.sampled_from(["wsd", "cosine", "linear"]),
    st.integers(1, 300),
    st.integers(0, 60),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_the_rate_rises_then_never_rises_again_and_ends_at_its_final_share(
    kind: Literal["wsd", "cosine", "linear"], steps: int, warmup: int, decay: float, final: float
) -> None:
    schedule = ScheduleConfig(kind=kind, warmup_steps=warmup, decay=decay, final=final)
    rates = [schedule.rate(step, steps) for step in range(steps)]
    rises = [min(1.0, (step + 1) / max(1, warmup)) for step in range(steps)]
    start = schedule.decay_start(steps)
    assert rates[:start] == rises[:start]
    assert all(rate <= rise for rate, rise in zip(rates, rises, strict=True))
    after = rates[max(start, warmup - 1, 0) :]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(after))
    if warmup < steps and start < steps:
        assert min(after) >= final - 1e-12
        assert schedule.rate(steps, steps) == pytest.approx(final)  # where the next step would be
        assert rates[-1] - final <= (1 - final) / (steps - start) + 1e-12


@given(st.integers(1, 300), st.integers(0, 20), st.floats(0, 1), st.floats(0, 1))
def test_warmup_stable_decay_has_its_closed_form(steps: int, warmup: int, decay: float, final: float) -> None:
    schedule = ScheduleConfig(warmup_steps=warmup, decay=decay, final=final)
    falling = round(decay * steps)
    for step in range(steps):
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        left = min(1.0, (steps - step) / falling) if falling else 1.0
        assert schedule.rate(step, steps) == pytest.approx(min(rise, final + (1 - final) * left))
