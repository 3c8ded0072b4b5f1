"""Schedules against their closed forms."""

import math

import pytest

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
