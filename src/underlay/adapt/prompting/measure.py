"""How right answers are, and how sure that is.

Shares have Wilson's interval (Wilson 1927), which stays between 0 and 1 and says something of few examples, too. Means
and F1 have the interval between percentiles of resampled examples (Efron 1979). A text without an answer is wrong.
"""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from underlay.adapt.examples import Example
from underlay.adapt.heads.measures import answer_f1, macro_f1
from underlay.adapt.prompting.answer import Answers, Prediction
from underlay.adapt.prompting.cases import Case
from underlay.adapt.prompting.comparing import fields_right, number_in, rouge_l, same_form
from underlay.adapt.prompting.task import Task
from underlay.errors import UserError

_Z = 1.959963984540054
"""Of the normal distribution, 95 % within."""
_RESAMPLED = 1000
BINS = 10
"""Of the calibration error."""


class Figure(NamedTuple):
    """A figure and the interval that holds it 95 times in a hundred."""

    value: float
    low: float
    high: float
    examples: int
    """How many it is of."""


def measure(task: Task, answers: Answers, examples: Iterable[Example]) -> dict[str, Figure]:
    """Figures of answers, by the task's scorer; of reasoned answers also `direct/...`, those without.

    `answered` is the share that had an answer at all. Where labels were compared, or answers voted, `calibration_error`
    tells how far confidence is from being right (expected calibration error, arXiv:1706.04599). Raises UserError
    where it is not known what is right, or the answers are not of these examples.
    """
    cases = [task.case(example) for example in examples]
    if len(cases) != len(answers.predictions) or not cases:
        raise UserError(f"{len(answers.predictions)} answers cannot be compared with {len(cases)} examples")
    for case in cases:
        if not case.outputs:
            raise UserError(f"{case.where}: it is not known what is right; leave it out, or add its answer")
    figures = _figures(task, answers, cases)
    if answers.direct is not None:
        figures |= {f"direct/{name}": figure for name, figure in _figures(task, answers.direct, cases).items()}
    return figures


def score_each(task: Task, predictions: Iterable[Prediction], cases: Iterable[Case]) -> list[float]:
    """How right each answer is, from 0 to 1: right or not, but for `squad` and `rouge_l`, which see parts."""
    partly = {"squad": lambda case, found: answer_f1(case.outputs, found), "rouge_l": _rouge}.get(task.scored_by)
    scores = []
    for case, one in zip(cases, predictions, strict=True):
        if partly is not None and one.answer is not None:
            scores.append(float(partly(case, one.answer)))
        else:
            scores.append(float(_is_right(task, case, one.answer)))
    return scores


def wilson(right: float, count: int) -> Figure:
    """A share with Wilson's interval; of a mean of scores between 0 and 1 it is never too narrow.

    right: the number, or the sum of scores.
    """
    assert 0 <= right <= count > 0
    share, z2 = right / count, _Z**2 / count
    middle = (share + z2 / 2) / (1 + z2)
    half = _Z / (1 + z2) * math.sqrt(share * (1 - share) / count + z2 / (4 * count))
    return Figure(share, min(max(middle - half, 0.0), share), max(min(middle + half, 1.0), share), count)


def resampled(count: int, statistic: Callable[[Sequence[int]], float], seed: int = 0) -> Figure:
    """A statistic of examples, by their numbers, with its interval over samples of them with replacement."""
    chance = random.Random(seed)  # noqa: S311 - nothing secret
    found = sorted(statistic(chance.choices(range(count), k=count)) for _ in range(_RESAMPLED))
    edge = int(0.025 * _RESAMPLED)
    return Figure(statistic(range(count)), found[edge], found[-edge - 1], count)


def calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = BINS) -> float:
    """Expected calibration error: |confidence - share that is right| in bins of equal width, weighted by their size."""
    total = 0.0
    for place in range(bins):
        inside = [i for i, value in enumerate(confidences) if min(int(value * bins), bins - 1) == place]
        if inside:
            total += abs(sum(confidences[i] for i in inside) - sum(right[i] for i in inside))
    return total / len(confidences)


def _figures(task: Task, answers: Answers, cases: Sequence[Case]) -> dict[str, Figure]:
    found = [prediction.answer for prediction in answers.predictions]
    right = [_is_right(task, case, one) for case, one in zip(cases, found, strict=True)]
    count = len(cases)
    figures = {"answered": wilson(sum(one is not None for one in found), count)}
    figures |= _SCORERS[task.scored_by](cases, found, right)
    sure = [(p.confidence, ok) for p, ok in zip(answers.predictions, right, strict=True) if p.confidence is not None]
    if sure:
        figures["calibration_error"] = resampled(
            len(sure), lambda some: calibration_error([sure[i][0] for i in some], [sure[i][1] for i in some])
        )
    return figures


def _rouge(case: Case, found: str) -> float:
    return max(rouge_l(output, found) for output in case.outputs)


def _is_right(task: Task, case: Case, found: str | None) -> bool:
    if found is None:
        return False
    form = same_form(task.scored_by)
    if task.scored_by == "json":
        return any(task.output.parse(output) == found for output in case.outputs)
    if task.scored_by == "number" and number_in(found) is None:
        return False
    return form(found) in {form(output) for output in case.outputs}


_Scorer = Callable[[Sequence[Case], Sequence[str | None], Sequence[bool]], dict[str, Figure]]


def _share(name: str) -> _Scorer:
    return lambda _, __, right: {name: wilson(sum(right), len(right))}


def _mean(name: str, score: Callable[[Case, str], float]) -> _Scorer:
    def figures(cases: Sequence[Case], found: Sequence[str | None], right: Sequence[bool]) -> dict[str, Figure]:
        scores = [0.0 if one is None else score(case, one) for case, one in zip(cases, found, strict=True)]
        mean = resampled(len(scores), lambda some: sum(scores[i] for i in some) / len(some))
        return {name: mean, "exact": wilson(sum(right), len(right))}

    return figures


def _macro(cases: Sequence[Case], found: Sequence[str | None], right: Sequence[bool]) -> dict[str, Figure]:
    truth = [{case.outputs[0]} for case in cases]
    said = [{one} if one is not None else set() for one in found]
    f1 = resampled(len(cases), lambda some: macro_f1([truth[i] for i in some], [said[i] for i in some]))
    return {"macro_f1": f1, "accuracy": wilson(sum(right), len(right))}


def _json(cases: Sequence[Case], found: Sequence[str | None], right: Sequence[bool]) -> dict[str, Figure]:
    count = len(cases)
    fields = [max(fields_right(output, one) for output in case.outputs) for case, one in zip(cases, found, strict=True)]
    return {
        "valid": wilson(sum(one is not None for one in found), count),
        "fields": resampled(count, lambda some: sum(fields[i] for i in some) / count),
        "exact": wilson(sum(right), count),
    }


_SCORERS: dict[str, _Scorer] = {
    "accuracy": _share("accuracy"),
    "macro_f1": _macro,
    "exact": _share("exact"),
    "number": _share("number"),
    "squad": _mean("squad_f1", lambda case, one: answer_f1(case.outputs, one)),
    "rouge_l": _mean("rouge_l", _rouge),
    "json": _json,
}
