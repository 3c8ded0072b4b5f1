"""The report of a run: one HTML page that says what went into a model, how it trained, how good it is, and where its
answers come from.

The page is one file that asks for nothing from outside and runs no script. Most of its words come from documents and
from a model that read them, so nothing is trusted: every text is escaped, characters that hide or reorder others are
made visible, and a Content-Security-Policy forbids all loading. `write_report` turns figures into words here and leaves
the order and looks of the page to `report.html` beside this file.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import Markup

from underlay.adapt.prompting.measure import wilson
from underlay.evaluate.curve import rewarded
from underlay.evaluate.page import percent, render, shorten, visible
from underlay.evaluate.plots import Point, funnel_bars, heldout_scatter, loss_curve
from underlay.evaluate.ranking import fold
from underlay.trace.spans import covered

_MOST = {"completions": 12, "functions": 8, "heldout": 120, "licences": 8, "lineage": 60, "matches": 5, "points": 400}
"""Entries of one kind that are shown."""


@dataclass(frozen=True)
class Share:
    """How many of the functions that a model wrote are code."""

    model: str
    """Its name: "base", or that of a step after it, such as "adapted"."""
    valid: float
    """Share that Python accepts."""
    doing: float
    """Share that Python accepts and that do something."""
    count: int
    """Functions."""


@dataclass(frozen=True)
class Written:
    """A function that a model wrote."""

    model: str
    body: str
    valid: bool


@dataclass(frozen=True)
class ReportData:
    """Everything the report shows. Lists and dicts may be empty; their part of the page then says so or is left out."""

    title: str
    """What was run, such as "quickstart"."""
    created: str
    """When, as ISO 8601."""
    machine: dict[str, str]
    """Processor, cores, bf16 unit, torch, mode such as "compiled, bf16 (AVX512-BF16)"."""
    funnel: list[tuple[str, int, int]]
    """What became of the documents, as (name, documents, bytes): "found", a row for each drop reason, "kept"."""
    redactions: dict[str, int]
    """Places masked, by what stood there, such as {"EMAIL": 182}."""
    licences: dict[str, int]
    """Bytes by SPDX name."""
    corpus: dict[str, float | int | str]
    """Names of the sources, documents, bytes."""
    tokens: dict[str, float | int]
    """vocabulary, train, heldout, bytes_per_token."""
    model: dict[str, float | int | str]
    """parameters, width, depth, heads, context, family."""
    pretrain: list[dict[str, float]]
    """One a step: step, tokens (so far), loss (nats per token), rate (the schedule's factor, 0 to 1), norm."""
    adaptations: dict[str, list[dict[str, float]]]
    """The same of each model that was made of it, step after step, by its name; where rewards were learned from, with
    reward, entropy and length."""
    cost: dict[str, float | str]
    """seconds, tokens, flops, tokens_per_second, energy_wh, energy_basis."""
    heldout: list[tuple[str, int, float, float]]
    """A held-out file each: source, bytes, bits per byte of the model, of `xz -9e`."""
    heldout_bits_per_byte: float
    """Of the model over all held-out bytes."""
    xz_bits_per_byte: float
    """Of `xz -9e`, one archive a file."""
    xz_solid_bits_per_byte: float
    """Of `xz -9e`, one archive of everything."""
    shares: list[Share]
    """Of the functions that each model wrote, the base first; empty where the corpus has no Python functions."""
    functions: list[tuple[str, list[Written]]]
    """Prompts, and what each model made of them."""
    completions: list[dict[str, Any]]
    """{"prompt", "text" (prompt and completion), "trace" (of `Trace.to_dict`)}."""
    stages: list[tuple[str, float, str]]
    """(stage, seconds, the artifact it made)."""
    lineage: list[tuple[str, str]]
    """(reference, made from: "role reference, ...")."""
    commands: list[str]
    """What to try next."""
    evaluations: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    """By "pretrain" and the names of adaptations: what was measured on what is held out meanwhile, tokens (so far) and
    heldout_loss, or heldout_sampled_reward."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a text that lies in the same spans throughout."""

    text: str
    spans: tuple[int, ...]
    """Numbers, from 1, of the spans that cover it."""
    ends: tuple[int, ...]
    """Numbers of the spans that end with it."""
    prompt: bool
    """Whether it belongs to the prompt."""


def write_report(data: ReportData, path: Path) -> None:
    """Write the page, UTF-8, over what was there."""
    page = render(
        "report.html",
        data=data,
        place=_place,
        comparison=_comparison(data),
        coverage=_coverage(data.completions),
        kept=next((row for row in data.funnel if row[0] == "kept"), None),
        funnel=funnel_bars(data.funnel),
        licences=_top(data.licences),
        figures={"pretrain": None, "heldout": None, **_figures(data)},
        adaptations=_adaptations(data),
        heldout=sorted(data.heldout, key=lambda file: file[2] - file[3])[: _MOST["heldout"]],
        drawn=_MOST["points"],
        better=sum(model < xz for _, _, model, xz in data.heldout),
        functions=[
            (_trim(prompt), [replace(one, body=_trim(one.body)) for one in written])
            for prompt, written in data.functions[: _MOST["functions"]]
        ],
        shares=[
            {"of": share, "interval": wilson(share.valid * share.count, share.count)[1:3]}
            for share in data.shares
            if share.count
        ],
        doing=", ".join(percent(share.doing) for share in data.shares),
        completions=[_completion(each) for each in data.completions[: _MOST["completions"]]],
        caveats=list(dict.fromkeys(c["trace"]["caveat"] for c in data.completions if c.get("trace"))),
        lineage=[(name, re.split(r",\s*", origin) if origin else []) for name, origin in data.lineage][
            : _MOST["lineage"]
        ],
        longest_stage=max((seconds for _, seconds, _ in data.stages), default=0.0) or 1.0,
    )
    path.write_bytes(page)


def segments(text: str, spans: Sequence[tuple[int, int]], prompt_bytes: int = 0) -> list[Segment]:
    """Cut a text where spans start and end, so that marks never cross, however the spans overlap.

    spans: UTF-8 byte offsets, numbered from 1 in this order; an offset within a character is moved outwards to its
    edge, one outside of the text into it, and a span without characters is left out.
    """
    data = text.encode("utf-8", "replace")
    ranges = {}
    for span, (start, end) in enumerate(spans, 1):
        start, end = max(0, start), min(len(data), end)
        if start < end:
            ranges[span] = (_edge(data, start, -1), _edge(data, end, 1))
    boundary = _edge(data, min(max(0, prompt_bytes), len(data)), 1)
    cuts = sorted({0, boundary, len(data)}.union(*ranges.values()))
    return [
        Segment(
            data[start:end].decode(),
            tuple(span for span, (first, last) in ranges.items() if first <= start and end <= last),
            tuple(span for span, (_, last) in ranges.items() if last == end),
            end <= boundary,
        )
        for start, end in pairwise(cuts)
    ]


def _edge(data: bytes, offset: int, step: int) -> int:
    """The nearest start of a character at or after (before, with step -1) an offset."""
    while 0 < offset < len(data) and data[offset] & 0xC0 == 0x80:
        offset += step
    return offset


def _comparison(data: ReportData) -> dict[str, Any] | None:
    """Bars of the model and of both ways of compressing; None where nothing was held out."""
    rates = {
        "this model": data.heldout_bits_per_byte,
        "xz -9e, file by file": data.xz_bits_per_byte,
        "xz -9e, all in one": data.xz_solid_bits_per_byte,
    }
    if not data.heldout or not all(math.isfinite(rate) and rate > 0 for rate in rates.values()):
        return None
    highest = max(rates.values())
    model, xz, solid = rates.values()
    return {
        "rows": [(label, rate, 100 * rate / highest) for label, rate in rates.items()],
        "against": [("one archive a file", model / xz - 1), ("all files in one archive", model / solid - 1)],
    }


def _place(note: dict[str, Any]) -> str:
    """A span's first place, for the mark's tooltip."""
    if not note["matches"]:
        return f"found {note['count']} times"
    match = note["matches"][0]
    return f"{match['source']}:{match['line']}"


def _top(licences: dict[str, int]) -> list[tuple[str, int, float]]:
    """Licences with their share of the bytes, the largest first, the small ones together."""
    ranked = sorted(licences.items(), key=lambda item: -item[1])
    ranked = fold(ranked, lambda name, rest: (name, sum(count for _, count in rest)), _MOST["licences"])
    total = sum(licences.values()) or 1
    return [(shorten(name, 60), count, count / total) for name, count in ranked]


def _figures(data: ReportData) -> dict[str, dict[str, Markup]]:
    """The drawings there is enough to draw for, in each width."""
    figures = {}
    tie = data.xz_bits_per_byte * math.log(2) * float(data.tokens.get("bytes_per_token", 0))
    if len(data.pretrain) > 1:
        even = ("even with xz -9e", tie) if math.isfinite(tie) and tie > 0 and data.heldout else None
        figures["pretrain"] = loss_curve("pretrain", data.pretrain, even, data.evaluations.get("pretrain", ()))
    points = [
        Point(visible(source).split("/")[-1].split("\\")[-1], count, model, xz)
        for source, count, model, xz in data.heldout
        if math.isfinite(model) and math.isfinite(xz)
    ]
    points = sorted(points, key=lambda point: -point.bytes)[: _MOST["points"]]
    if len(points) > 2:
        figures["heldout"] = heldout_scatter("heldout", points)
    return {name: _safe(sizes) for name, sizes in figures.items()}


def _adaptations(data: ReportData) -> list[dict[str, Any]]:
    """Each step after the base model with its drawing, where there is enough to draw."""
    found = []
    for number, (name, steps) in enumerate(data.adaptations.items()):
        examined = data.evaluations.get(name, ())
        drawing = _safe(loss_curve(f"adapt{number}", steps, None, examined)) if len(steps) > 1 else None
        facts = {"steps": len(steps), "earns": rewarded(steps), "examined": bool(examined)}
        found.append({"name": name, "drawing": drawing, **facts})
    return found


def _safe(sizes: dict[str, str]) -> dict[str, Markup]:
    """Drawings as they are: matplotlib escapes the only foreign text in them, the names of files."""
    return {width: Markup(svg) for width, svg in sizes.items()}  # noqa: S704


def _trim(text: str) -> str:
    """A text without the empty lines around it."""
    return text.strip("\n").rstrip()


def _completion(sample: dict[str, Any]) -> dict[str, Any]:
    """A completion's segments and the notes to its marks."""
    prompt, whole, trace = sample.get("prompt", ""), sample.get("text", ""), sample.get("trace") or {}
    traced = trace.get("text", whole)
    # The trace may be of the completion alone: its offsets then start after the prompt.
    shift = len(whole.encode("utf-8", "replace")) - len(traced.encode("utf-8", "replace"))
    text, shift = (whole, shift) if whole.endswith(traced) else (traced, 0)
    spans = trace.get("spans", [])
    places = [(span["start_byte"] + shift, span["end_byte"] + shift) for span in spans]
    prompt_bytes = len(prompt.encode("utf-8", "replace")) if text.startswith(prompt) else 0
    notes = [{**span, "matches": span["matches"][: _MOST["matches"]]} for span in spans]
    coverage = covered(trace, max(0, prompt_bytes - shift)) if trace else None
    return {"segments": segments(text, places, prompt_bytes), "notes": notes, "coverage": coverage}


def _coverage(completions: Sequence[dict[str, Any]]) -> float | None:
    """Mean share of what the model wrote that lies in spans."""
    shares = [share for each in completions if (share := _completion(each)["coverage"]) is not None]
    return sum(shares) / len(shares) if shares else None
