"""A teacher at work: stretch after stretch of examples is answered and chosen from, and what is done is kept in a file.

What comes of an example depends on the teacher, the settings, the seed and the example's number alone, so a run that
was stopped goes on behind its last whole stretch and makes the same answers.
"""

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from underlay.adapt.answers import tasks
from underlay.adapt.answers.choosing import refused, worths
from underlay.adapt.answers.config import AnswerConfig
from underlay.adapt.answers.talking import right_of, talks
from underlay.adapt.examples import Conversation, Example, Label, LeftOut, Problem
from underlay.adapt.examples.unusable import Unusable
from underlay.adapt.prompting import Task
from underlay.adapt.reinforce.rewards import Reward
from underlay.errors import UserError
from underlay.generate import Engine
from underlay.progress import Progress, silent
from underlay.text import Message

AT_ONCE = 64
"""Examples in a stretch."""


@dataclass(frozen=True)
class Labelled:
    """A text, and how sure the teacher is of what it is."""

    example: Example
    text: str
    second: str | None
    label: str | None
    """None: it gave no answer that is a label."""
    probability: float | None
    probabilities: Mapping[str, float]
    """Of all labels, where they were compared."""


@dataclass
class Answered:
    """What came of all examples."""

    examples: list[Example] = field(default_factory=list)
    """What to learn from, each with the place and the licence of its prompt."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """Answers that are not in it, by reason."""
    sure: list[Labelled] = field(default_factory=list)
    unsure: list[Labelled] = field(default_factory=list)
    """By a task with labels: what is in the examples, and what is left to people."""


@dataclass(frozen=True)
class _Row:
    """What came of one example, as it is kept in a file."""

    conversations: list[list[tuple[str, str]]] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    """Reasons, and more of each."""
    label: str | None = None
    probability: float | None = None
    probabilities: dict[str, float] | None = None
    """None: the task has no labels."""


def answered(
    engine: Engine,
    examples: Sequence[Example],
    settings: AnswerConfig,
    seed: int,
    scratch: Path,
    task: Task | None = None,
    reward: Reward | None = None,
    progress: Progress = silent,
    at_once: int = AT_ONCE,
) -> Answered:
    """Let the teacher of an engine answer each example; what is known to be right is shown to a reward alone.

    scratch: a folder of this run and no other, in which it finds what it has done before. task, reward: what the
    settings name, read. Raises UserError where nothing is kept, an example asks nothing, or a reward goes with labels.
    """
    if task is not None and task.output.labels and reward is not None:
        raise UserError("keep: labels have probabilities, which `least` goes by; leave the reward out")
    if reward is None and (settings.best or settings.worth is not None):
        raise UserError(f"{'best' if settings.best else 'worth'}: needs a reward that tells; name it as keep")
    made = _Maker(engine, settings, seed, None if task is None else tasks.in_full(task, settings), reward)
    found = Answered()
    for first in range(0, len(examples), at_once):
        progress(first, len(examples), kept=f"{len(found.examples):,}")
        stretch = examples[first : first + at_once]
        path = scratch / f"answers-{first:08d}-{at_once}.json"
        for example, row in zip(stretch, _kept(path, partial(made, stretch, first)), strict=True):
            _take(found, example, row, settings)
    progress(len(examples), len(examples), kept=f"{len(found.examples):,}")
    if not found.examples:
        raise UserError(f"no answer is kept, of {len(examples):,} prompts: {'; '.join(found.left_out.lines())}")
    return found


def _kept(path: Path, make: Callable[[], list[_Row]]) -> list[_Row]:
    """The rows in a file, which are made where it is not there, or was torn by a crash."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return [_Row(**row) for row in json.loads(path.read_text("utf-8"))]
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps([vars(row) for row in make()], ensure_ascii=False), "utf-8")
    unfinished.replace(path)
    return _kept(path, make)


@dataclass(frozen=True)
class _Maker:
    """Makes rows of examples; the first has the number `first`."""

    engine: Engine
    settings: AnswerConfig
    seed: int
    task: Task | None
    reward: Reward | None

    def __call__(self, examples: Sequence[Example], first: int) -> list[_Row]:
        if self.task is None:
            return self._talked(examples, first)
        told = tasks.put(self.engine, self.task, examples, self.settings, self.seed)
        return [self._by_task(self.task, example, one) for example, one in zip(examples, told, strict=True)]

    def _talked(self, examples: Sequence[Example], first: int) -> list[_Row]:
        held = talks(self.engine, examples, first, self.settings, self.seed)
        whole = [(one, right_of(examples[one.number - first])) for some in held for one in some if one.why is None]
        if self.reward is not None:
            problems = [Problem(tuple(one.messages[:-1]), right) for one, right in whole]
            earned = worths(self.reward, problems, [one.messages[-1].content for one, _ in whole])
            for number in range(first, first + len(examples)):
                own = [place for place, (one, _) in enumerate(whole) if one.number == number]
                for place, why in zip(own, refused([earned[place] for place in own], self.settings), strict=True):
                    whole[place][0].why = why
        rows = []
        for some in held:
            kept: list[list[tuple[str, str]]] = [
                [(said.role, said.content) for said in one.messages] for one in some if one.why is None
            ]
            rows.append(_Row(kept, [(one.why, "") for one in some if one.why is not None]))
        return rows

    def _by_task(self, task: Task, example: Example, told: tasks.Told) -> _Row:
        found = told.prediction
        if found is None:
            return _Row(left=[(tasks.UNASKED, told.why)])
        if task.output.labels:
            return _Row([], [], found.answer, found.confidence, dict(found.probabilities))
        problem = tasks.asked_by(task, example, right_of(example))
        prompt = [(said.role, said.content) for said in problem.prompt]
        answers, left = tasks.whole(task, found)
        if self.reward is not None:
            why = refused(worths(self.reward, [problem] * len(answers), answers), self.settings)
            left += [(reason, "") for reason in why if reason is not None]
            answers = [one for one, reason in zip(answers, why, strict=True) if reason is None]
        elif found.confidence is not None and found.confidence < self.settings.least:
            answers, left = [], [(tasks.UNSURE, "")]
        else:
            answers = [one for one in answers if one == found.answer]
        return _Row([[*prompt, ("assistant", one)] for one in answers], left)


def _take(found: Answered, example: Example, row: _Row, settings: AnswerConfig) -> None:
    """Add what came of one example."""
    place = f"{example.source}:{example.line}"
    for reason, detail in row.left:
        found.left_out.add(place, Unusable(reason, detail))
    for turns in row.conversations:
        messages = tuple(Message(role, content) for role, content in turns)  # type: ignore[arg-type]
        found.examples.append(replace(example, body=Conversation(messages)))
    if row.probabilities is None:
        return
    text, second = tasks.pair_of(example)
    labelled = Labelled(example, text, second, row.label, row.probability, row.probabilities)
    if row.label is None or (row.probability is not None and row.probability < settings.least):
        found.left_out.add(place, Unusable(tasks.NONE if row.label is None else tasks.UNSURE))
        found.unsure.append(labelled)
    else:
        found.examples.append(replace(example, body=Label(text, (row.label,), second=second)))
        found.sure.append(labelled)
