"""Texts answered by a task: written in its words and learned in the same, or labelled with a probability."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from underlay.adapt.answers.config import AnswerConfig
from underlay.adapt.answers.talking import CUT
from underlay.adapt.examples import Conversation, Example, Label, Problem
from underlay.adapt.prompting import Output, Prediction, PromptSettings, Task, answer, unaskable
from underlay.adapt.prompting.cases import case_of
from underlay.errors import UserError
from underlay.generate import Engine
from underlay.text import Message

UNASKED = "a text that cannot be put to the teacher"
UNSURE = "an answer that is less sure than asked for"
NONE = "no answer of the form that the task asks for"


@dataclass(frozen=True)
class Told:
    """What a task found of a text."""

    prediction: Prediction | None
    """None: it could not be asked."""
    why: str = ""
    """Then."""


def put(engine: Engine, task: Task, examples: Sequence[Example], settings: AnswerConfig, seed: int) -> list[Told]:
    """Answer a task for each example; what is known to be right is not looked at.

    Raises UserError where the task needs what it has not, such as demonstrations in a file that is missing.
    """
    own = task.decoding.temperature
    asking = PromptSettings(votes=settings.samples, temperature=settings.sampled_at(own), seed=seed)
    found: list[Told | None] = []
    can = []
    for example in examples:
        bare = without_answer(example)
        why = bare if isinstance(bare, str) else unaskable(engine, task, bare, settings.samples)
        found.append(None if why is None else Told(None, why))
        if why is None:
            assert not isinstance(bare, str)
            can.append(bare)
    predictions = iter(answer(engine, task, can, asking).predictions if can else ())
    return [Told(next(predictions)) if one is None else one for one in found]


def in_full(task: Task, settings: AnswerConfig) -> Task:
    """The task with the length of answers that was asked for."""
    if settings.max_tokens is None:
        return task
    return task.model_copy(update={"decoding": task.decoding.model_copy(update={"max_tokens": settings.max_tokens})})


def without_answer(example: Example) -> Example | str:
    """The text alone, as a prompt; or why there is none."""
    body = example.body
    if isinstance(body, Conversation):
        *before, last = body.messages
        return replace(example, body=Problem(tuple(before) if last.role == "assistant" else body.messages))
    try:
        return replace(example, body=Problem((Message("user", case_of(example).input),)))
    except UserError as error:
        return str(error)


def whole(task: Task, found: Prediction) -> tuple[list[str], list[tuple[str, str]]]:
    """The different answers that texts hold, in their order; and why others hold none, with nothing more to say.

    Where all of a text is the answer, one that was cut off is none.
    """
    free = task.output == Output()
    answers, left = dict[str, None](), []
    for text, cut in zip(found.texts, found.cut, strict=True):
        said = task.output.parse(text)
        if said is None or (cut and free):
            left.append((NONE if said is None else CUT, ""))
        else:
            answers[said] = None
    return list(answers), left


def pair_of(example: Example) -> tuple[str, str | None]:
    """The text that is labelled, or the two of a pair."""
    body = example.body
    if isinstance(body, Label):
        return body.text, body.second
    bare = without_answer(example)
    assert not isinstance(bare, str)
    return case_of(bare).input, None


def asked_by(task: Task, example: Example, right: str | None) -> Problem:
    """The prompt by which the task was put, and what is right where that is known."""
    bare = without_answer(example)
    assert not isinstance(bare, str)
    return Problem(task.prompt(task.case(bare)), right)
