"""The report of a ladder: every way that models were adapted to one task, on one page that can be doubted.

It says first which way pays, then shows quality against cost, and then all that a sceptic asks for: intervals, seeds,
whether chance could have set two ways apart, what was learned from and what it cost, whether the test stood in the
training data, which texts ways disagree about, and how everything was done. The figures lie beside it as JSON.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from underlay.adapt.ladder import RUNGS, Standing, Trial, frontier, recommended, standings
from underlay.adapt.prompting import Task
from underlay.evaluate.ladder_plot import Dot, quality_by_cost
from underlay.evaluate.page import render

PAGE, FIGURES = "ladder.html", "ladder.json"
_MOST_CONFUSED, _MOST_SHOWN, _LONGEST = 12, 8, 600
_NOTHING = 0.01
"""Seconds below which nothing was learned."""
MEASURES = {
    "accuracy": "right",
    "macro_f1": "right",
    "exact": "right",
    "number": "right",
    "json": "right",
    "squad": "F1 of words",
    "rouge_l": "ROUGE-L",
}
"""What the mean of a task's scores is called."""


@dataclass(frozen=True)
class LadderData:
    """All that the report shows."""

    name: str
    task: Task
    trials: tuple[Trial, ...]
    texts: tuple[str, ...]
    """Of the test, in the order of the trials' answers."""
    right: tuple[tuple[str, ...], ...]
    """All answers that are right, of each."""
    learned_from: int
    """Examples that were there to learn from."""
    repeated: tuple[int, ...]
    """Numbers of the test's texts that stand among those, too."""
    left_out: Mapping[str, str]
    """Ways that were not gone, and why."""
    models: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]


def write_ladder(data: LadderData, folder: Path) -> dict[str, Any]:
    """Write the page and the figures into a folder; returns the few that a manifest keeps."""
    found = standings(data.trials)
    best, pays = found[0], recommended(found)
    summary: dict[str, Any] = {
        "measure": MEASURES[data.task.scored_by],
        "texts": len(data.texts),
        "best": best.title,
        "pays": pays.title,
        "repeated": len(data.repeated),
        "ways": [_row(one) for one in found],
    }
    whole = summary | {
        "trials": [trial.model_dump(mode="json") for trial in data.trials],
        "right": data.right,
        "left_out": dict(data.left_out),
    }
    (folder / FIGURES).write_text(json.dumps(whole, ensure_ascii=False) + "\n", "utf-8")
    (folder / PAGE).write_bytes(render("ladder.html", **_values(data, found, best, pays)))
    return summary


def _row(one: Standing) -> dict[str, Any]:
    """A way in figures; times in seconds, memory and sizes in bytes."""
    trial = one.trials[0]
    return {
        "way": one.title,
        "model": one.model,
        "rung": one.rung,
        "quality": one.quality.value,
        "low": one.quality.low,
        "high": one.quality.high,
        "seeds": list(one.seeds),
        "p": one.p,
        "answered": one.answered,
        "calibration_error": one.calibration,
        "learn_seconds": one.seconds,
        "learn_memory": trial.learning.memory,
        "examples": trial.learning.examples,
        "passes": trial.learning.passes,
        "learned": trial.learning.parameters,
        "serve_seconds": _median(one, "seconds"),
        "serve_alone": _median(one, "alone"),
        "serve_memory": trial.serving.memory,
        "size": trial.serving.size,
    }


def _values(data: LadderData, found: Sequence[Standing], best: Standing, pays: Standing) -> dict[str, Any]:
    labelled = bool(data.task.output.labels)
    learned = [one for one in found if one.seconds > _NOTHING]
    return {
        "data": data,
        "rows": [(one, _row(one), RUNGS[one.rung].kind) for one in found],
        "best": best,
        "pays": pays,
        "measure": MEASURES[data.task.scored_by],
        "labels": len(data.task.output.labels),
        "several": len({one.model for one in found if one.model}) > 1,
        "seeds": max(len(one.seeds) for one in found),
        "answering": _drawn(
            "answering", found, [1000 * _median(one, "seconds") for one in found], "milliseconds a text"
        ),
        "learning": _drawn("learning", learned, [one.seconds for one in learned], "seconds to learn"),
        "confused": _confused(pays, data) if labelled else [],
        "disputed": _disputed(found, pays, data),
        "clean": _without_repeated(found[:3], data),
        "used": [(name, rung) for name, rung in RUNGS.items() if any(one.rung == name for one in found)],
    }


def _drawn(name: str, found: Sequence[Standing], cost: Sequence[float], axis: str) -> dict[str, Markup]:
    """The drawing, by width; none where there is nothing to compare."""
    if len(found) < 2:
        return {}
    drawn = quality_by_cost(name, _dots(found, cost), axis)
    return {width: Markup(svg) for width, svg in drawn.items()}  # noqa: S704 - matplotlib has escaped its text


def _dots(found: Sequence[Standing], cost: Sequence[float]) -> list[Dot]:
    on_it = set(frontier(found, cost))
    several = len({one.model for one in found if one.model}) > 1
    return [
        Dot(
            one.title if several else RUNGS[one.rung].title,
            cost[number],
            one.quality.value,
            one.quality.low,
            one.quality.high,
            RUNGS[one.rung].kind,
            number in on_it,
        )
        for number, one in enumerate(found)
    ]


def _median(one: Standing, which: str) -> float:
    return float(np.median([getattr(trial.serving, which) for trial in one.trials]))


def _confused(one: Standing, data: LadderData) -> list[tuple[str, str, int]]:
    """What is taken for what, the most frequent first; over all seeds."""
    pairs: Counter[tuple[str, str]] = Counter()
    for trial in one.trials:
        for right, said in zip(data.right, trial.answers, strict=True):
            if said not in right:
                pairs[right[0], said or "no answer"] += 1
    return [(right, said, count) for (right, said), count in pairs.most_common(_MOST_CONFUSED)]


def _disputed(found: Sequence[Standing], pays: Standing, data: LadderData) -> list[dict[str, Any]]:
    """Texts on which the way that pays and its best rivals of each other kind disagree, spread over the test."""
    rivals = [one for one in found if one is not pays and one.rung != "majority"]
    others = [next((one for one in rivals if RUNGS[one.rung].kind == kind), None) for kind in _KINDS]
    shown = [pays, *(one for one in others if one is not None)]
    apart = [
        number for number in range(len(data.texts)) if len({one.trials[0].scores[number] > 0.5 for one in shown}) > 1
    ]
    chosen = apart[:: max(1, len(apart) // _MOST_SHOWN)][:_MOST_SHOWN]
    return [
        {
            "text": data.texts[number][:_LONGEST],
            "right": data.right[number][0],
            "said": [
                (one.title, (one.trials[0].answers[number] or "no answer")[:_LONGEST], one.trials[0].scores[number])
                for one in shown
            ],
        }
        for number in chosen
    ]  # fmt: skip


def _without_repeated(found: Sequence[Standing], data: LadderData) -> list[tuple[str, float]]:
    """What the best come to on those texts that were not there to be learned by heart."""
    kept = np.ones(len(data.texts), bool)
    kept[list(data.repeated)] = False
    if kept.all() or not kept.any():
        return []
    return [(one.title, float(np.mean([np.array(t.scores)[kept].mean() for t in one.trials]))) for one in found]


_KINDS = ("baseline", "prompt", "weights")
