"""`ladder`: adapt models to one task in every way, as often as chance asks for, and compare them on the same texts.

What learns is an artifact of its own, made by the same stage that `underlay adapt` runs, and never sees the test. What
learns nothing is done in the last stage, which measures all of them and writes the report.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from underlay.adapt.examples import Example, Examples, Label
from underlay.adapt.ladder import RUNGS, RungName, why_not
from underlay.adapt.prompting import Task
from underlay.errors import UserError
from underlay.library import Artifact, Library
from underlay.models.config import TextConfig
from underlay.models.decoder import DecoderConfig
from underlay.models.storage import load_config
from underlay.recipe.adapting import adapt_recipe
from underlay.recipe.recipe import make_recipe
from underlay.recipe.run import Listener, run_recipe
from underlay.text import Tokenizer

LEARNED: Sequence[RungName] = ("head", "lora", "full", "distilled")
_PASSES: Mapping[str, float] = {"head": 10, "lora": 5, "full": 3, "distilled": 10}
"""How often each reads its examples: what learns fewer numbers, or from further away, needs more."""


@dataclass(frozen=True)
class Ladder:
    """What is to be compared."""

    name: str
    models: Mapping[str, Artifact]
    task: Task
    examples: Artifact
    test: Artifact
    rungs: Sequence[RungName]
    seeds: int = 3
    shots: int = 8
    votes: int = 5
    limit: int | None = None
    changes: Sequence[str] = ()
    """Settings of ways that learn, such as `full.train.passes=5`."""


def climb(ladder: Ladder, library: Library, listener: Listener) -> Artifact:
    """Go all ways, and make the report. Stopped, what was made is found again.

    Raises UserError where the examples do not go with the task, or nothing is left to compare.
    """
    task = with_labels(ladder.task, Examples(ladder.examples.folder))
    labels = len(task.output.labels)
    configs = {label: load_config(model.folder) for label, model in ladder.models.items()}
    left_out = {
        f"{label}, {RUNGS[rung].title}": why
        for rung in ladder.rungs
        for label, config in configs.items()
        if (why := _why_not(rung, config, labels))
    }
    going = [
        (rung, label, seed)
        for rung in ladder.rungs
        for label, config in configs.items()
        if rung in LEARNED and not _why_not(rung, config, labels)
        for seed in range(ladder.seeds)
    ]
    _check_changes(ladder.changes)
    learned = ladder.examples if labels or not going else _told(ladder, task, library, listener)
    made: dict[str, Artifact] = {}
    for number, (rung, label, seed) in enumerate(going, 1):
        heard = _Numbered(listener, f"{label}, {RUNGS[rung].title}, seed {seed}", number, len(going) + 1)
        teacher = None
        if rung == "distilled":
            full = f"{label}.full.{seed}"
            teacher = made.get(full) or _learn(ladder, "full", label, seed, learned, library, heard, bool(labels))
        made[f"{label}.{rung}.{seed}"] = _learn(
            ladder, rung, label, seed, learned, library, heard, bool(labels), teacher
        )
    stage = {
        "verb": "ladder",
        "models": {label: model.reference for label, model in ladder.models.items()},
        "trained": {key: one.reference for key, one in made.items() if one.manifest.kind == "model"},
        "adapters": {key: one.reference for key, one in made.items() if one.manifest.kind == "adapter"},
        "examples": ladder.examples.reference,
        "test": ladder.test.reference,
        "task": task.model_dump(mode="json", exclude_unset=True),
        "rungs": [rung for rung in ladder.rungs if rung not in LEARNED],
        "seeds": ladder.seeds,
        "shots": ladder.shots,
        "votes": ladder.votes,
        "limit": ladder.limit,
        "left_out": left_out,
    }
    last = _Numbered(listener, "comparing", len(going) + 1, len(going) + 1)
    recipe = make_recipe({"name": ladder.name, "stages": {"ladder": stage}}, "ladder")
    return run_recipe(recipe, library, last)["ladder"]


def with_labels(task: Task, examples: Iterable[Example]) -> Task:
    """The task; where its answers are labels but it does not say which, it is those that the examples have."""
    free = task.output.labels or task.output.json_schema is not None or task.output.pattern is not None
    bodies = [example.body for example in examples]
    if free or not all(isinstance(body, Label) and len(body.labels) == 1 for body in bodies):
        return task
    labels = sorted({body.labels[0] for body in bodies if isinstance(body, Label)})
    if len(labels) < 2:
        raise UserError(f"there is nothing to tell apart: all examples have the label {labels[0]!r}")
    return Task.model_validate(task.model_dump(exclude_unset=True) | {"output": {"labels": labels}})


class _Numbered:
    """A listener for whom each recipe is one step of many."""

    def __init__(self, listener: Listener, title: str, number: int, of: int) -> None:
        self._inner, self._title, self._number, self._of = listener, title, number, of
        self.moved, self.said, self.ended = listener.moved, listener.said, listener.ended

    def started(self, stage: str, number: int, of: int) -> None:  # noqa: ARG002 - the recipe's own count
        """A step begins."""
        self._inner.started(self._title, self._number, self._of)


def _learn(
    ladder: Ladder,
    rung: RungName,
    label: str,
    seed: int,
    learned: Artifact,
    library: Library,
    listener: Listener,
    labels: bool,
    teacher: Artifact | None = None,
) -> Artifact:
    """One model, or adapter, of one way."""
    base = ladder.models[label]
    settings: dict[str, Any] = {"method": "lora" if rung == "lora" else "full"}
    if labels:
        settings["objective"] = {"name": "head", "frozen": rung == "head", "pooler": False}
    elif rung == "distilled":
        settings["objective"] = "distil"
    if not labels and not Tokenizer.load(base.folder).converses:
        settings["template"] = "alpaca"  # which any tokenizer can write
    if teacher is not None:
        settings |= {"teacher": teacher.reference, "blocks": max(load_config(base.folder).depth // 2, 1)}
    settings["train"] = {"passes": _PASSES[rung]}
    own = [f"adapt.{one.partition('.')[2]}" for one in ladder.changes if one.partition(".")[0] == rung]
    name = f"{ladder.name}-{label}-{rung}-{seed}"
    recipe = adapt_recipe(base, learned, None, settings, name, own, seed)
    return run_recipe(recipe, library, listener)["adapt"]


def _told(ladder: Ladder, task: Task, library: Library, listener: Listener) -> Artifact:
    """The examples as conversations in which the task is done."""
    stage = {"examples": ladder.examples.reference, "task": task.model_dump(mode="json", exclude_unset=True)}
    recipe = make_recipe({"name": f"{ladder.name}-told", "stages": {"examples": stage}}, "ladder")
    return run_recipe(recipe, library, listener)["examples"]


def _check_changes(changes: Sequence[str]) -> None:
    for one in changes:
        rung, _, rest = one.partition(".")
        if rung not in LEARNED or "=" not in rest:
            raise UserError(f"--set {one}: write RUNG.KEY=VALUE, RUNG one of {', '.join(LEARNED)}")


def _why_not(rung: RungName, config: TextConfig, labels: int) -> str | None:
    return why_not(rung, isinstance(config, DecoderConfig), bool(labels))
