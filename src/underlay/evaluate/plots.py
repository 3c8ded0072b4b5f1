"""The report's figures: matplotlib drawings as SVG that belongs to the page around it, and the measures of its bars.

The figures are drawn in stand-in colours that are exchanged for the page's CSS variables, and their text stays text in
the page's own font: one drawing serves light, dark and paper. Every figure is drawn at the width it is shown at, once
for a desk and once for a phone, so that its letters are as large as the page's. The same data give the same bytes.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from underlay.evaluate.curve import Ink, Rows, draw_loss, rewarded, share_x, strip

WIDTHS = {"wide": 8.6, "narrow": 3.6}
"""Inches (of 96 CSS pixels) that a figure is drawn for."""
INK = Ink("#010101", "#010102", "#010103", "#010104", "#010105", "#010106")
_VARIABLES = {
    INK.text: "ink",
    INK.muted: "muted",
    INK.line: "line",
    INK.model: "model",
    INK.other: "other",
    INK.wrong: "bad",
}


_PLAIN = {"rate": "learning rate, share of its peak", "norm": "gradient norm"}
_REWARDED = {"entropy": "entropy, nats a token", "length": "length of answers, tokens"}
"""What is drawn below a loss, and below a reward."""


@dataclass(frozen=True)
class Point:
    """One held-out file in the scatter plot."""

    name: str
    bytes: int
    model: float
    """Bits per byte."""
    xz: float
    """Bits per byte."""


def loss_curve(name: str, steps: Rows, tie: tuple[str, float] | None = None, evaluations: Rows = ()) -> dict[str, str]:
    """Loss over tokens, each step and smoothed, and held out; below it the learning rate and the gradient norm.

    Of learning from rewards it is the reward, and below it what goes wrong first: the entropy of what is chosen from,
    which ends where nothing is tried any more, and the length of answers.

    name: unique among the page's figures; tie: label and height of a line to compare with. Returns SVG a width.
    """

    def drawn(figure: Figure, width: float) -> None:
        left, right = 0.36 / width, 1 - 0.42 / width
        grid = figure.add_gridspec(3, 1, height_ratios=[6, 1.2, 1.2], hspace=0.42, left=left, right=right)
        grid.update(top=1 - 0.26 / figure.get_figheight(), bottom=0.4 / figure.get_figheight())
        top, *below = (figure.add_subplot(grid[row]) for row in range(3))
        draw_loss(top, steps, evaluations, INK, tie)
        strips = _REWARDED if rewarded(steps) else _PLAIN
        for axes, (key, title) in zip(below, strips.items(), strict=True):
            strip(axes, steps, key, title, INK)
        share_x((top, *below), steps, 8 if width > 5 else 4)
        below[-1].set_xlabel("tokens read")

    return draw(name, drawn, {"wide": 4.8, "narrow": 4.3})


def heldout_scatter(name: str, points: Sequence[Point]) -> dict[str, str]:
    """Each held-out file: bits per byte of the model over those of xz, with the line where the two are equal."""

    def drawn(figure: Figure, width: float) -> None:
        height = figure.get_figheight()
        axes = figure.add_axes((0.36 / width, 0.46 / height, 1 - 0.5 / width, 1 - 0.78 / height))
        low_x, high_x = _range([point.xz for point in points])
        low_y, high_y = _range([point.model for point in points])
        # The diagonal belongs in the picture, else nobody sees which side the points are on.
        high_y, low_y = max(high_y, min(high_x, low_x + (high_x - low_x) * 0.4)), min(low_y, low_x)
        axes.set(xlim=(low_x, high_x), ylim=(low_y, high_y))
        ends = [min(low_x, low_y), max(high_x, high_y)]
        axes.fill_between(ends, ends, [ends[0]] * 2, color=INK.model, alpha=0.06, linewidth=0)
        axes.plot(ends, ends, color=INK.other, linewidth=1.2, dashes=(4, 3))
        largest = max((point.bytes for point in points), default=1)
        area = [14 + 170 * point.bytes / max(1, largest) for point in points]
        x, y = [point.xz for point in points], [point.model for point in points]
        axes.scatter(x, y, s=area, color=INK.model, alpha=0.55, linewidths=0)
        _label(axes, points, area)
        axes.set_title("model, bits per byte", loc="left", x=0, fontsize=9, color=INK.muted)
        axes.set_xlabel("xz -9e, bits per byte")
        edge = min(high_x, high_y)
        away, side = ((-7, -6), "right") if edge == high_x else ((6, -9), "left")
        axes.annotate("equal", (edge, edge), away, textcoords="offset points", ha=side, va="center", color=INK.other)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(6 if width > 5 else 5))

    return draw(name, drawn, {"wide": 4.4, "narrow": 3.6})


def funnel_bars(rows: Sequence[tuple[str, int, int]]) -> list[dict[str, Any]]:
    """Rows with their bar's start and length, in percent of what was found; drops are taken off the end."""
    total = max((documents for _, documents, _ in rows), default=0) or 1
    left, shown = total, []
    for name, documents, volume in rows:
        whole = name in ("found", "kept")
        left -= 0 if whole else documents
        start = 0.0 if whole else 100 * max(0, left) / total
        bar = {"start": start, "length": 100 * documents / total, "kind": name if whole else "drop"}
        shown.append({"name": name, "documents": documents, "bytes": volume, "share": documents / total, **bar})
    return shown


def _label(axes: Axes, points: Sequence[Point], area: Sequence[float]) -> None:
    """Name the files that say most, the furthest on either side of the line and the largest, where there is room."""
    if not points:
        return
    order = sorted(range(len(points)), key=lambda index: points[index].model - points[index].xz)
    largest = max(range(len(points)), key=lambda index: points[index].bytes)
    places = axes.transData.transform([(point.xz, point.model) for point in points])
    taken: list[tuple[float, float, float, float]] = [(x - 3, y - 3, x + 3, y + 3) for x, y in places]
    line = np.linspace(*axes.get_xlim(), 200)
    taken += [(x, y, x, y) for x, y in axes.transData.transform(np.column_stack([line, line]))]
    frame = axes.bbox
    for index in dict.fromkeys([order[-1], order[0], largest]):
        name = points[index].name
        name = name if len(name) <= 28 else f"…{name[-27:]}"
        wide, (x, y), away = 5.2 * len(name), places[index], 5 + 0.56 * math.sqrt(area[index])
        for left, bottom in (
            (x + away, y - 6),
            (x - away - wide, y - 6),
            (x - wide / 2, y + away),
            (x - wide / 2, y - away - 12),
            (x, y + away),
            (x, y - away - 12),
        ):
            box = (left, bottom, left + wide, bottom + 12)
            inside = frame.x0 <= box[0] and box[2] <= frame.x1 and frame.y0 <= box[1] and box[3] <= frame.y1
            if inside and not any(meet(box, other) for other in taken):
                taken.append(box)
                axes.annotate(
                    name, (points[index].xz, points[index].model), (left + wide / 2 - x, bottom + 6 - y),
                    textcoords="offset points", ha="center", va="center",
                )  # fmt: skip
                break


def meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    """Whether two boxes (left, bottom, right, top) overlap."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = max((high - low) * 0.08, 0.15, (0.6 - high + low) / 2)
    return max(0.0, low - room), high + room


def draw(name: str, drawn: Callable[[Figure, float], None], heights: dict[str, float]) -> dict[str, str]:
    """A figure as SVG, by width; `drawn` fills it, `heights` are in inches, `name` is unique among the page's."""
    pictures = {}
    for size, width in WIDTHS.items():
        with (
            mpl.rc_context({**INK.settings(), "svg.fonttype": "none", "svg.hashsalt": f"{name}-{size}"}),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", UserWarning)  # glyphs that matplotlib's own font lacks: the page has them
            # A figure's inch is 72 points, the page's 96 pixels: the browser makes the one the other.
            figure = Figure(figsize=(width, heights[size]), dpi=72)
            drawn(figure, width)
            file = io.StringIO()
            nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
            figure.savefig(file, format="svg", transparent=True, metadata=nothing)
        pictures[size] = _inline(file.getvalue(), f"{name}-{size}")
    return pictures


def _inline(svg: str, prefix: str) -> str:
    """What HTML needs of an SVG file: no prologue, ids of its own, the page's colours and font, fluid width."""
    head, body = svg[svg.index("<svg") :].split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    body = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", body, flags=re.DOTALL)

    def own(tag: re.Match[str]) -> str:
        # Only inside of tags: what stands between them may be the name of a file.
        text = tag[0].replace("xlink:href=", "href=")
        text = re.sub(r'\b(id="|href="#|url\(#)', rf"\1{prefix}-", text)
        text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
        text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)  # hundredths of a point are finer than any screen
        text = re.sub("|".join(_VARIABLES), lambda colour: f"var(--{_VARIABLES[colour[0]]})", text)
        return re.sub(r"\s*\n\s*", " ", text)

    body = re.sub(r"<[^>]*>", own, body)
    return f'<svg {box[0]} aria-hidden="true" focusable="false">{body.strip()}'
