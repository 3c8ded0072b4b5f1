"""Quality against cost: a dot a way, with its interval, and the line of those that nothing beats in both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator, PercentFormatter

from underlay.evaluate.plots import INK, draw, meet

_COLOURS = {"baseline": INK.other, "prompt": INK.muted, "weights": INK.model}
_LETTER = 4.9
"""Points that a letter of a label is wide, about."""


@dataclass(frozen=True)
class Dot:
    """One way."""

    title: str
    cost: float
    quality: float
    low: float
    high: float
    kind: str
    best: bool
    """Whether nothing is both better and cheaper."""


def quality_by_cost(name: str, dots: Sequence[Dot], axis: str) -> dict[str, str]:
    """A drawing as SVG, by width; name: unique among the page's figures; axis: what the cost is counted in."""
    floor = min((dot.cost for dot in dots if dot.cost > 0), default=1.0) / 2

    def drawn(figure: Figure, width: float) -> None:
        height = figure.get_figheight()
        axes = figure.add_axes((0.44 / width, 0.46 / height, 1 - 0.6 / width, 1 - 0.72 / height))
        costs = [max(dot.cost, floor) for dot in dots]
        axes.set_xscale("log")
        room = (max(costs) / min(costs)) ** 0.08 * 1.25
        axes.set_xlim(min(costs) / room, max(costs) * room)
        axes.set_ylim(max(0.0, min(dot.low for dot in dots) - 0.05), min(1.03, max(dot.high for dot in dots) + 0.06))
        steps = sorted((cost, dot.quality) for cost, dot in zip(costs, dots, strict=True) if dot.best)
        axes.step([c for c, _ in steps], [q for _, q in steps], where="post", color=INK.model, alpha=0.45, linewidth=1)
        for cost, dot in zip(costs, dots, strict=True):
            colour = _COLOURS[dot.kind]
            axes.plot([cost, cost], [dot.low, dot.high], color=colour, linewidth=1.4, alpha=0.7)
            axes.plot([cost], [dot.quality], "o", color=colour, markersize=5.5, alpha=1 if dot.best else 0.65)
        axes.set_xlabel(axis)
        axes.set_title("quality", loc="left", x=0, fontsize=9, color=INK.muted)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        span = math.log10(max(costs) / min(costs))
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if span > 1.5 else (1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        if not any(axes.get_xlim()[0] <= tick <= axes.get_xlim()[1] for tick in axes.get_xticks()):
            axes.xaxis.set_major_locator(FixedLocator([costs[0]]))
        _name(axes, dots, costs)

    return draw(name, drawn, {"wide": 4.6, "narrow": 4.4})


def _name(axes: Axes, dots: Sequence[Dot], costs: Sequence[float]) -> None:
    """Write beside each dot what it is, the best first, where there is room."""
    places = axes.transData.transform([(cost, dot.quality) for cost, dot in zip(costs, dots, strict=True)])
    bars = (
        axes.transData.transform([(c, d.low) for c, d in zip(costs, dots, strict=True)]),
        axes.transData.transform([(c, d.high) for c, d in zip(costs, dots, strict=True)]),
    )
    taken = [
        (x - 4, min(y - 4, low[1]), x + 4, max(y + 4, high[1])) for (x, y), low, high in zip(places, *bars, strict=True)
    ]
    frame = axes.bbox
    for index in sorted(range(len(dots)), key=lambda number: (not dots[number].best, -dots[number].quality)):
        (x, y), wide = places[index], _LETTER * len(dots[index].title)
        ups = (bars[1][index][1] + 3, bars[0][index][1] - 13)
        # The line of the best runs to the right of a dot, so a label stands above it rather than on it.
        shifts = (9, -9, 0) if dots[index].best else (0, 9, -9)
        beside = [(left, y - 5 + shift) for left in (x + 7, x - 7 - wide) for shift in shifts]
        around = [(x - wide * share, up) for up in ups for share in (0.5, 0.1, 0.9)]
        far = [(x + 9, y + shift) for shift in (-26, 22)] + [(x - 9 - wide, y + shift) for shift in (-26, 22)]
        for left, bottom in (*beside, *around, *far):
            box = (left, bottom, left + wide, bottom + 10)
            inside = frame.x0 <= box[0] and box[2] <= frame.x1 + 12 and frame.y0 <= box[1] and box[3] <= frame.y1 + 8
            if inside and not any(meet(box, other) for other in taken):
                taken.append(box)
                axes.annotate(
                    dots[index].title, (costs[index], dots[index].quality), (left - x, bottom + 5 - y),
                    textcoords="offset points", ha="left", va="center", fontsize=8.5,
                )  # fmt: skip
                break
