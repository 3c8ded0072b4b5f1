"""A task put to a model, without touching its weights: in-context learning (arXiv:2005.14165).

Labels are not written but compared: each is scored as a sequence of tokens behind the prompt (`scoring`), averaged over
the orders of the demonstrations, so an answer comes with the probabilities of all. Other answers are written, once or
several times, and vote.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from underlay.adapt.examples import Example
from underlay.adapt.prompting import scoring
from underlay.adapt.prompting.cases import Case
from underlay.adapt.prompting.comparing import same_form
from underlay.adapt.prompting.reasoning import Asked, Reasoner
from underlay.adapt.prompting.selecting import Embedder, orders, select
from underlay.adapt.prompting.settings import PromptSettings
from underlay.adapt.prompting.task import Task
from underlay.adapt.prompting.voting import vote
from underlay.adapt.prompting.writing import Fitted, Writer
from underlay.errors import UserError
from underlay.generate import Engine, Sampling
from underlay.progress import Progress, silent

VOTING = 0.7
"""Temperature of votes where the task has none: at 0 all would be alike."""


@dataclass(frozen=True)
class Prediction:
    """What was found for one example."""

    answer: str | None
    """None: no text held one."""
    confidence: float | None = None
    """The label's probability, or the share of votes that agree; None where there was one text alone."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Of every label, where labels were compared."""
    texts: tuple[str, ...] = ()
    """What the model wrote, whole."""
    dropped: int = 0
    """Texts that held no answer."""
    cut: tuple[bool, ...] = ()
    """Of each text, whether it was cut off at the most tokens; of direct answers."""


@dataclass(frozen=True)
class Answers:
    """What was found for all examples, in their order."""

    predictions: list[Prediction]
    left_out: int = 0
    """Demonstrations that did not fit into the context, over all examples."""
    direct: "Answers | None" = None
    """Where answers were reasoned for: those without."""
    too_long: int = 0
    """Inputs that did not fit into the context, and got no answer."""

    def spread(self, left: Collection[int], count: int) -> "Answers":
        """The same for `count` inputs, of which those in `left` got no answer."""
        found, nothing = iter(self.predictions), Prediction(None)
        whole = [nothing if number in left else next(found) for number in range(count)]
        direct = None if self.direct is None else self.direct.spread(left, count)
        return Answers(whole, self.left_out, direct, len(left))


def answer(
    engine: Engine,
    task: Task,
    examples: Iterable[Example],
    settings: PromptSettings | None = None,
    progress: Progress = silent,
    vectors: Embedder | None = None,
    begin: Sequence[int] = (),
) -> Answers:
    """Answer a task for each example; what is known to be right is not looked at.

    vectors: what the selector `nearest` compares by (see `selecting.embedder`); by default TF-IDF. begin: token ids
    before every prompt, such as those of a soft one (see `soft.standing`). An example is never its own demonstration.

    Raises UserError where there are no examples, one does not go with the task, too few demonstrations are there, or a
    prompt without any is longer than the context.
    """
    settings = settings or PromptSettings()
    cases = [task.case(example) for example in examples]
    if not cases:
        raise UserError(f"{task.name}: there are no examples to answer for; name a file with at least one")
    shots = _shots(task, settings)
    pool = task.pool() if shots else []
    if settings.reasoning == "worked" and shots and (bare := [one for one in pool if one.reasoning is None]):
        raise UserError(f"{bare[0].where}: has no reasoning to show; give it one, or reason step_by_step")
    if settings.reasoning == "worked" and not shots:
        raise UserError("reasoning: worked needs demonstrations that show the way; give some, or reason step_by_step")
    asking = _Asking(engine, task, settings, begin)
    count, left = len(cases), set[int]()
    if settings.too_long == "leave":
        left = {number for number, case in enumerate(cases) if not asking.fits(case)}
        cases = [case for number, case in enumerate(cases) if number not in left]
    if not cases:
        return Answers([]).spread(left, count)
    chosen = select(settings.selector, pool, cases, shots, settings.seed, vectors)
    shown = [orders(some, settings.orders, settings.seed) for some in chosen]
    direct = None
    if settings.reasoning == "none" or settings.direct:
        how = asking.compared if asking.compares else partial(asking.written, reasoning=False)
        direct = how(cases, shown, progress=progress)
        if settings.reasoning == "none":
            return direct.spread(left, count)
    found = asking.written(cases, shown, True, progress)
    return Answers(found.predictions, found.left_out, direct).spread(left, count)


def unaskable(engine: Engine, task: Task, example: Example, votes: int = 1) -> str | None:
    """Why an example cannot be put to an engine by a task, by itself and without demonstrations; None: it can."""
    try:
        case = task.case(example)
    except UserError as error:
        return str(error)
    asking = _Asking(engine, task, PromptSettings(votes=votes), ())
    return None if asking.fits(case) else f"{case.where}: does not fit into the model's context of {engine.context}"


def _shots(task: Task, settings: PromptSettings) -> int:
    wanted = task.shots if settings.shots is None else settings.shots
    return len(task.demonstrations) if wanted is None else wanted


class _Asking:
    """One engine, one task, one way to ask."""

    def __init__(self, engine: Engine, task: Task, settings: PromptSettings, begin: Sequence[int]) -> None:
        self._engine, self._task, self._settings = engine, task, settings
        self._writer = Writer(engine.tokenizer, task, settings.style, begin)
        self._reasoner = Reasoner(engine, task, self._writer, settings)
        self.compares = bool(task.output.labels) and (settings.votes == 1 or settings.reasoning != "none")
        """Whether the direct answer is found by comparing labels."""
        if settings.calibrate and not self.compares:
            raise UserError("calibrate: only labels are calibrated; leave it out, or give the task labels")

    def fits(self, case: Case) -> bool:
        """Whether a case can be asked about, without demonstrations."""
        room = 0 if self._settings.reasoning == "none" else self._reasoner.room(True)
        if self.compares:
            room = max(room, *(len(self._writer.whole(label)) for label in self._task.output.labels))
        elif self._settings.reasoning == "none" or self._settings.direct:
            room = max(room, self._reasoner.room(False))
        return len(self._writer.prompt(case)) + room <= self._engine.context

    def compared(self, cases: Sequence[Case], shown: Sequence[list[list[Case]]], progress: Progress) -> Answers:
        """Labels by their probabilities."""
        labels = self._task.output.labels
        answers = [self._writer.whole(label) for label in labels]
        free = [Case(text, where=f"calibrate, {text!r}") for text in self._settings.calibrate]
        room = max(map(len, answers))
        numbers: dict[tuple[int, ...], int] = {}
        # For each case and order: the prompt, then those of the content-free inputs.
        wanted: list[list[list[int]]] = []
        left_out = 0
        for case, some in zip(cases, shown, strict=True):
            fitted = self._fitted(case, some, room)
            left_out += fitted.left_out
            frees = [self._fitted(one, fitted.orders, room).prompts for one in free]
            columns = zip(fitted.prompts, *frees, strict=True)
            wanted.append([[numbers.setdefault(tuple(ids), len(numbers)) for ids in column] for column in columns])
        scores = scoring.log_probabilities(self._engine, list(numbers), answers, progress)
        found = scoring.probabilities(scores, list(map(len, answers)), self._settings.normalise)
        return Answers([self._prediction(found, some) for some in wanted], left_out)

    def written(
        self, cases: Sequence[Case], shown: Sequence[list[list[Case]]], reasoning: bool, progress: Progress
    ) -> Answers:
        """Answers that the model writes; several vote."""
        worked = reasoning and self._settings.reasoning == "worked"
        asked: list[Asked] = []
        left_out = 0
        counts = []
        for case, some in zip(cases, shown, strict=True):
            prompts, _, less = self._fitted(case, some, self._reasoner.room(reasoning), worked)
            left_out += less
            counts.append(len(prompts) * self._settings.votes)
            numbers = range(counts[-1])
            asked += [Asked(prompts[number % len(prompts)], self._sampling(case, number)) for number in numbers]
        said = (self._reasoner.reason if reasoning else self._reasoner.direct)(asked)
        predictions, start = [], 0
        for number, count in enumerate(counts, 1):
            texts = said[start : start + count]
            start += count
            finals = [None if one.final is None else self._task.output.parse(one.final) for one in texts]
            winner, agreement, dropped = vote(finals, same_form(self._task.scored_by))
            confidence = agreement if count > 1 else None
            cut = tuple(one.cut for one in texts)
            predictions.append(Prediction(winner, confidence, {}, tuple(one.text for one in texts), dropped, cut))
            progress(number, len(counts))
        return Answers(predictions, left_out)

    def _prediction(self, found: Tensor, numbers: Sequence[Sequence[int]]) -> Prediction:
        """found: (prompts, labels); numbers: for each order those of the prompt and of content-free ones."""
        each = [scoring.calibrated(found[own], found[free]) if free else found[own] for own, *free in numbers]
        mean = torch.stack(each).mean(0).tolist()
        probabilities = dict(zip(self._task.output.labels, mean, strict=True))
        best = max(probabilities, key=probabilities.__getitem__)
        return Prediction(best, probabilities[best], probabilities)

    def _fitted(self, case: Case, shown: Sequence[Sequence[Case]], room: int, worked: bool = False) -> Fitted:
        return self._writer.fitted(case, shown, room, self._engine.context, worked)

    def _sampling(self, case: Case, number: int) -> Sampling:
        """Chance of one vote: other examples, and other votes, have another."""
        temperature = self._settings.temperature
        if temperature is None:
            temperature = self._task.decoding.temperature
            if self._settings.votes > 1 and temperature == 0:
                temperature = VOTING
        digest = hashlib.sha256(f"{self._settings.seed}:{number}:{case.input}".encode()).digest()
        return Sampling(temperature=temperature, seed=int.from_bytes(digest[:4], "little"))
