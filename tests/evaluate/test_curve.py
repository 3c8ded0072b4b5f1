"""The picture of a loss: equal data give equal bytes, and what matters can be seen."""

import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from underlay.evaluate.curve import Ink, _smooth, draw_curve, draw_loss
from underlay.evaluate.plots import loss_curve

INK = Ink("#000001", "#000002", "#000003", "#000004", "#000005", "#000006")


def steps(count: int, spike: int = 0) -> list[dict[str, float]]:
    return [
        {
            "step": i, "tokens": i * 64.0, "loss": 99.0 if i == spike else 5 / i**0.2, "rate": min(1, i / 9),
            "norm": 1.0, "kept": float(i != spike),
        }
        for i in range(1, count + 1)
    ]  # fmt: skip


EVALUATIONS = [{"step": i, "tokens": i * 64.0, "heldout_loss": 5.2 / i**0.2} for i in (10, 20)]


def chunks(path: Path) -> dict[bytes, bytes]:
    """The chunks of a PNG file, by their type."""
    data, at, found = path.read_bytes(), 8, {}
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        found[data[at + 4 : at + 8]] = data[at + 8 : at + 8 + length]
        at += 12 + length
    return found


def drawn(path: Path, *rows: list[dict[str, float]]) -> bytes:
    draw_curve(path, *rows)
    return path.read_bytes()


def test_equal_data_give_equal_bytes_without_dates_or_versions(tmp_path: Path) -> None:
    one = drawn(tmp_path / "a.png", steps(20), EVALUATIONS)
    assert one == drawn(tmp_path / "b.png", steps(20), EVALUATIONS)
    found = chunks(tmp_path / "a.png")
    assert set(found) == {b"IHDR", b"pHYs", b"IDAT", b"IEND"}
    assert struct.unpack(">II", found[b"IHDR"][:8]) == (1152, 720)


def test_what_matters_is_in_the_picture(tmp_path: Path) -> None:
    plain = drawn(tmp_path / "a.png", steps(20), [])
    held = drawn(tmp_path / "b.png", steps(20), EVALUATIONS)
    moved = drawn(tmp_path / "c.png", steps(20), [{**EVALUATIONS[0], "heldout_loss": 4.0}, EVALUATIONS[1]])
    left_out = drawn(tmp_path / "d.png", steps(20, spike=15), [])
    slower = drawn(tmp_path / "e.png", [{**row, "rate": row["rate"] / 2} for row in steps(20)], [])
    assert len({plain, held, moved, left_out, slower}) == 5


def test_kinds_of_text_are_drawn_by_themselves() -> None:
    axes = Figure().add_subplot()
    rows = [{**row, "heldout_loss.prose": 9.0, "heldout_bits_per_byte.prose": 3.0} for row in EVALUATIONS]
    draw_loss(axes, steps(20), rows, INK)
    (line,) = [line for line in axes.lines if line.get_label() == "prose"]
    assert np.asarray(line.get_ydata()).tolist() == [9.0, 9.0]
    assert axes.get_ylim()[1] > 9


def test_a_step_left_out_bends_nothing() -> None:
    limits = []
    for spike in (0, 15):
        axes = Figure().add_subplot()
        draw_loss(axes, steps(20, spike), EVALUATIONS, INK)
        limits.append(axes.get_ylim())
        labels = [text for line in axes.lines if not (text := str(line.get_label())).startswith("_")]
        assert labels == ["each step", "smoothed", "held out", *(["left out (1)"] if spike else [])]
    assert limits[0] == limits[1]
    assert limits[1][1] < 6


def test_the_report_shows_what_was_held_out() -> None:
    with_, without = (loss_curve("x", steps(20), None, rows)["wide"] for rows in (EVALUATIONS, []))
    assert ">2.86</text>" in with_  # 5.2 / 20 ** 0.2
    assert ">2.86</text>" not in without


@pytest.mark.parametrize("rows", [[], steps(1), steps(3, spike=2), [{**row, "loss": math.nan} for row in steps(3)]])
def test_little_data_is_a_picture_too(tmp_path: Path, rows: list[dict[str, float]]) -> None:
    assert len(drawn(tmp_path / "a.png", rows, [])) > 1000
    assert len(drawn(tmp_path / "b.png", rows, EVALUATIONS[:1])) > 1000


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=300))
def test_smoothing_starts_true_ends_in_a_mean_and_stays_between(values: list[float]) -> None:
    losses = np.array(values)
    smoothed = _smooth(losses)
    assert smoothed.shape == losses.shape
    assert smoothed[0] == pytest.approx(losses[0])
    window = max(2, len(values) // 40)
    if len(values) > 4 * window:
        assert smoothed[-1] == pytest.approx(losses[-window - 1 :].mean(), abs=1e-6)
    assert smoothed.min() >= losses.min() - 1e-6
    assert smoothed.max() <= losses.max() + 1e-6
    np.testing.assert_allclose(_smooth(np.full(len(values), 3.0)), 3.0)
