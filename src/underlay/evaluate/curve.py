"""The loss of a run as a picture: on the report's page as SVG, in a model's folder as PNG, drawn by the same lines.

The same data give the same bytes, for both lie in artifacts that are known by their content.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

Rows = Sequence[Mapping[str, float]]
_POINTS = 360
"""A curve is thinned to at most twice as many points: the page stays small, the eye sees no difference."""
_PNG = (8.0, 5.0, 144)
"""Inches wide, inches high, dots an inch."""


@dataclass(frozen=True)
class Ink:
    """The colours of a figure."""

    text: str
    muted: str
    line: str
    model: str
    """What the model does."""
    other: str
    """What it is compared with."""
    wrong: str
    """What went wrong."""

    def settings(self) -> dict[Any, Any]:
        """Matplotlib's settings for figures in these colours."""
        return {
            "font.size": 9,
            "axes.edgecolor": self.line,
            "axes.labelcolor": self.muted,
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.spines.left": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": self.line,
            "grid.linewidth": 0.6,
            "xtick.color": self.muted,
            "ytick.color": self.muted,
            "xtick.major.size": 3,
            "ytick.major.size": 0,
            "ytick.major.pad": 5,
            "text.color": self.text,
            "text.parse_math": False,  # a file called $x$.py is no formula
        }


_ON_WHITE = Ink("#1b1f24", "#667079", "#dfe3e8", "#0f766e", "#c2570c", "#b91c1c")


def draw_curve(path: Path, steps: Rows, evaluations: Rows) -> None:
    """Write a PNG: the loss of each step and smoothed, held-out loss, steps left out; the learning rate below.

    steps, evaluations: rows with `tokens`; a step's `loss`, `rate` and `kept`, an evaluation's `heldout_loss`, and
    `heldout_loss.NAME` of some of the text.
    """
    wide, high, dots = _PNG
    with mpl.rc_context({**mpl.rcParamsDefault, "backend": mpl.rcParams["backend"], **_ON_WHITE.settings()}):
        figure = Figure(figsize=(wide, high), dpi=dots, facecolor="white")
        grid = figure.add_gridspec(
            2, 1, height_ratios=[7, 1], hspace=0.2, left=0.065, right=0.92, top=0.93, bottom=0.11
        )
        top, rate = (figure.add_subplot(grid[row]) for row in range(2))
        draw_loss(top, steps, evaluations, _ON_WHITE)
        top.legend(loc="lower right", bbox_to_anchor=(1, 0.995), ncols=8, frameon=False, borderaxespad=0)
        strip(rate, steps, "rate", "learning rate, share of its peak", _ON_WHITE)
        share_x((top, rate), steps, 8)
        _beside(rate, "tokens", -11)
        if steps and steps[-1]["tokens"]:
            _count_steps(rate, steps[-1]["step"] / steps[-1]["tokens"])
        figure.savefig(path, format="png", metadata={"Software": None})


def _count_steps(axes: Axes, rate: float) -> None:
    """A second scale below that of the tokens; every step reads as many of them, so both are straight."""

    def to_steps(tokens: Any) -> Any:
        return tokens * rate

    def to_tokens(steps: Any) -> Any:
        return steps / rate

    below = axes.secondary_xaxis(-0.42, functions=(to_steps, to_tokens))
    below.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    below.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    below.spines["bottom"].set_visible(False)
    below.tick_params(length=0)
    _beside(axes, "steps", -21.5)


def _beside(axes: Axes, name: str, points: float) -> None:
    """Name a scale at its right end, so many points above the axis."""
    axes.annotate(
        name, (1, 0), (7, points), "axes fraction", "offset points", color=_ON_WHITE.muted, va="center",
        annotation_clip=False,
    )  # fmt: skip


def draw_loss(axes: Axes, steps: Rows, evaluations: Rows, ink: Ink, tie: tuple[str, float] | None = None) -> None:
    """Training loss over tokens, each step and smoothed, and held-out loss; tie: label and height of a line.

    Where steps have a `reward`, it is drawn in the place of the loss, which then says nothing by itself.
    """
    earns = rewarded(steps)
    tokens, loss = _column([step for step in steps if step.get("kept", 1)], "reward" if earns else "loss")
    axes.set_title("mean reward" if earns else "loss, nats per token", loc="left", x=0, fontsize=9, color=ink.muted)
    if tie:
        axes.axhline(tie[1], color=ink.other, linewidth=1.2, dashes=(4, 3))
        axes.annotate(
            tie[0], (1, tie[1]), (0, 4), axes.get_yaxis_transform(), "offset points", ha="right", color=ink.other
        )
    axes.plot(*_thin(tokens, loss), color=ink.model, linewidth=0.8, alpha=0.35, label="each step")
    smoothed = _smooth(loss)
    axes.plot(*_thin(tokens, smoothed), color=ink.model, linewidth=1.8, solid_capstyle="round", label="smoothed")
    ends = []
    if len(loss):
        axes.plot(tokens[-1:], smoothed[-1:], "o", color=ink.model, markersize=4, clip_on=False)
        ends.append((float(smoothed[-1]), float(tokens[-1]), ink.model if len(evaluations) else ink.text))
    seen, heldout = _column(evaluations, "heldout_sampled_reward" if earns else "heldout_loss")
    if len(heldout):
        mark = "-o" if len(heldout) <= 60 else "-"
        axes.plot(seen, heldout, mark, color=ink.text, markersize=4, linewidth=1.1, clip_on=False, label="held out")
        ends.append((float(heldout[-1]), float(seen[-1]), ink.text))
    others: list[float] = []
    for style, key in zip(cycle((":", "--", "-.")), _parts(evaluations), strict=False):
        at, values = _column(evaluations, key)
        axes.plot(at, values, style, color=ink.muted, linewidth=1.1, clip_on=False, label=key.partition(".")[2])
        others += values.tolist()
    drawn = [*loss.tolist(), *heldout.tolist(), *others, *([tie[1]] if tie else [])] or [1.0]
    straight = earns or min(drawn) <= 0
    if straight:
        margin = 0.06 * (max(drawn) - min(drawn)) or 1.0
        low, high = min(drawn) - margin, max(drawn) + margin
    else:
        low, high = max(min(drawn), 1e-3) * 0.94, max(max(drawn), 2e-3) * 1.06
        axes.set_yscale("log")
    axes.set_ylim(low, high)
    _name_ends(axes, ends, high - low if straight else math.log(high / low), straight)
    left_out = [step["tokens"] for step in steps if not step.get("kept", 1)]
    if left_out:
        label = f"left out ({len(left_out):,})"
        axes.plot(
            left_out, [0.0] * len(left_out), "|", color=ink.wrong, markersize=11, markeredgewidth=1.2, label=label,
            transform=axes.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(6) if straight else FixedLocator(_ticks(low, high)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _parts(evaluations: Rows) -> list[str]:
    """Held-out losses of kinds of text by themselves."""
    return [key for key in (evaluations[-1] if evaluations else ()) if key.startswith("heldout_loss.")]


def rewarded(steps: Rows) -> bool:
    """Whether steps learned from rewards."""
    return bool(steps) and "reward" in steps[0]


def _name_ends(axes: Axes, ends: list[tuple[float, float, str]], span: float, straight: bool) -> None:
    """Write the last value beside each curve's end; two that lie close together are moved apart."""
    apart = 0.0
    if len(ends) == 2:
        height = axes.get_window_extent().height / axes.get_figure().dpi * 72  # type: ignore[union-attr]
        between = ends[1][0] - ends[0][0]
        if not straight:
            between = math.log(ends[1][0] / ends[0][0]) if min(ends)[0] > 0 else 0.0
        gap = between / span * height
        apart = max(0.0, 12 - abs(gap)) / 2 * (1 if gap >= 0 else -1)
    for (value, tokens, colour), way in zip(ends, (-1, 1), strict=False):
        axes.annotate(
            f"{value:.2f}", (tokens, value), (7, way * apart), textcoords="offset points", va="center", color=colour,
            annotation_clip=False,
        )  # fmt: skip


def strip(axes: Axes, steps: Rows, key: str, title: str, ink: Ink) -> None:
    """A low panel below the loss, from zero."""
    tokens, values = _column(steps, key)
    thin = _thin(tokens, values)
    axes.fill_between(*thin, color=ink.muted, alpha=0.12, linewidth=0)
    axes.plot(*thin, color=ink.muted, linewidth=1.1)
    if len(values) == 1:
        axes.plot(tokens, values, "o", color=ink.muted, markersize=3.5, clip_on=False)
    # One early spike of the norm must not flatten all that follows.
    top = 1.0 if key == "rate" else float(np.percentile(values, 99)) * 1.25 if len(values) else 1.0
    axes.set_ylim(0, (top if top > 0 else 1.0) * 1.04)
    cut = len(values) > 0 and float(values.max()) > top * 1.04
    axes.set_title(f"{title}, peaks cut off" if cut else title, loc="left", x=0, fontsize=9, color=ink.muted, pad=4)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(FixedLocator([0, 1]) if key == "rate" else MaxNLocator(2, min_n_ticks=2))


def share_x(panels: Sequence[Axes], steps: Rows, ticks: int) -> None:
    """Give panels that stand below each other the same tokens from left to right, named under the last."""
    furthest = max((step["tokens"] for step in steps), default=1.0)
    for axes in panels:
        axes.set_xlim(0, furthest * 1.005)
        axes.xaxis.set_major_locator(MaxNLocator(ticks))
        axes.grid(visible=False, axis="x")
        axes.tick_params(labelbottom=axes is panels[-1])
    panels[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))


def compact(value: float) -> str:
    """A large number in at most three digits: 31500000 is `31.5 M`."""
    for power, unit in ((12, " T"), (9, " G"), (6, " M"), (3, " k")):
        if abs(value) >= 10**power * 0.9995:
            return f"{value / 10**power:.3g}{unit}"
    return f"{value:.3g}"


def _column(steps: Rows, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and values of the steps that have a finite value."""
    rows = [(step["tokens"], step[key]) for step in steps if math.isfinite(step.get(key, math.nan))]
    table = np.array(rows, dtype=float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _smooth(values: np.ndarray) -> np.ndarray:
    """Moving average over a twentieth of the run. It starts true, with a window that grows; at the end only what lies
    ahead is missing, so the last value is a mean as well."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    before = np.minimum(index // 4, max(2, len(values) // 40))
    after = np.minimum(before, index[::-1])
    return (sums[index + after + 1] - sums[index - before]) / (before + after + 1)


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keep the lowest and the highest point of every stretch: spikes survive."""
    if len(x) <= 2 * _POINTS:
        return x, y
    stretches = np.array_split(np.arange(len(x)), _POINTS)
    picks = {int(i) for part in stretches for i in (part[y[part].argmin()], part[y[part].argmax()])}
    kept = sorted(picks | {0, len(x) - 1})
    return x[kept], y[kept]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between the two, few enough to read on a logarithmic axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 1.5, 2, 3, 4, 6, 8), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9)):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        if len(inside := [tick for tick in ticks if low <= tick <= high]) >= 3:
            return inside
    return [float(f"{low + (high - low) * share:.3g}") for share in (0.1, 0.5, 0.9)]
