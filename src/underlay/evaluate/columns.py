"""Columns as SVG, drawn by hand: a data card is part of an artifact, so its bytes may not depend on a drawing library.

As in `plots`, every figure is drawn at the width it is shown at, once for a desk and once for a phone, and takes
colours and fonts from the page around it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_SIZES = {"wide": (826, 210), "narrow": (346, 190)}
"""Width and height in CSS pixels."""
_ABOVE, _BELOW, _LETTER, _GAP = 24, 26, 7.6, 8


@dataclass(frozen=True)
class Column:
    """One column, and the part of it that is filled."""

    label: str
    whole: int
    part: int


def draw_columns(columns: Sequence[Column]) -> dict[str, Markup]:
    """SVG a width: each column as high as its `whole`, pale, filled up to its `part`."""
    return {size: _draw(columns, *box) for size, box in _SIZES.items()}


def _draw(columns: Sequence[Column], width: int, height: int) -> Markup:
    most = max((column.whole for column in columns), default=0) or 1
    step = width / max(1, len(columns))
    room = height - _ABOVE - _BELOW
    bar = min(step * 0.78, 64.0)
    every = 1 + int((max((len(column.label) for column in columns), default=1) * _LETTER + _GAP) // step)
    lines = [
        f'<svg viewBox="0 0 {width} {height}" aria-hidden="true" focusable="false">',
        f'<text x="0" y="13" font-size="13" fill="var(--muted)">{most:,} documents</text>',
        f'<path d="M0 {_ABOVE}H{width}" stroke="var(--line)" stroke-dasharray="2 3"/>',
    ]
    for number, column in enumerate(columns):
        middle = (number + 0.5) * step
        for count, colour in ((column.whole, "line"), (column.part, "model")):
            tall = max(1.0, room * count / most) if count else 0.0
            if tall:
                box = f'x="{middle - bar / 2:.1f}" y="{_ABOVE + room - tall:.1f}" width="{bar:.1f}" height="{tall:.1f}"'
                lines.append(f'<rect {box} fill="var(--{colour})"/>')
        if number % every == 0:
            place = f'x="{middle:.1f}" y="{height - 8}" text-anchor="middle"'
            lines.append(f'<text {place} font-size="13" fill="var(--muted)">{escape(column.label)}</text>')
    lines.append(f'<path d="M0 {_ABOVE + room}H{width}" stroke="var(--muted)"/></svg>')
    return Markup("".join(lines))  # noqa: S704 - the labels are escaped
