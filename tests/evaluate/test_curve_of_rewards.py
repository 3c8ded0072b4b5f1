"""A run that earns rewards is drawn by them; a loss may be below zero."""

import matplotlib as mpl
from matplotlib.figure import Figure

from underlay.evaluate.curve import _ON_WHITE, draw_loss


def drawn(rows: list[dict[str, float]], evaluations: list[dict[str, float]]) -> tuple[str, str, list[float], list[str]]:
    with mpl.rc_context(_ON_WHITE.settings()):
        axes = Figure().add_subplot()
        draw_loss(axes, rows, evaluations, _ON_WHITE)
        ends = [text.get_text() for text in axes.texts]
        return axes.get_title(loc="left"), axes.get_yscale(), list(axes.lines[0].get_ydata()), ends


def test_rewards_are_drawn_in_the_place_of_a_loss_that_says_nothing() -> None:
    rows = [{"tokens": 10.0 * n, "loss": -0.01, "reward": n / 10} for n in range(1, 9)]
    title, scale, values, ends = drawn(rows, [{"tokens": 80.0, "heldout_sampled_reward": 0.7, "heldout_loss": 3.0}])
    assert (title, scale) == ("mean reward", "linear")
    assert values == [row["reward"] for row in rows]
    assert ends[-1] == "0.70"


def test_a_loss_is_drawn_on_a_logarithmic_scale_unless_it_falls_below_zero() -> None:
    rows = [{"tokens": 10.0 * n, "loss": 4.0 / n} for n in range(1, 9)]
    assert drawn(rows, [])[:2] == ("loss, nats per token", "log")
    assert drawn([*rows, {"tokens": 90.0, "loss": -0.5}], [])[:2] == ("loss, nats per token", "linear")
