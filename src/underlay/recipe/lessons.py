"""Which objective learns from which examples, and how what was held out is measured by it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from underlay.adapt import heads, instruct, preference, reinforce
from underlay.adapt.distil import Distil, check_teacher
from underlay.adapt.examples import Conversation, Example, Judgement, Preference, Problem
from underlay.adapt.lesson import Lesson
from underlay.adapt.preference.reward import HEAD
from underlay.adapt.reinforce import Reward
from underlay.errors import UserError
from underlay.library import Artifact
from underlay.models import Decoder, Model
from underlay.models.storage import load_decoder, load_model
from underlay.progress import Progress, silent
from underlay.recipe.heldout import HeldOut
from underlay.recipe.objectives import (
    AnyObjective,
    DistilObjective,
    HeadObjective,
    InstructObjective,
    PreferenceObjective,
    ReinforceObjective,
    RewardObjective,
)
from underlay.recipe.rewarding import reward_of
from underlay.text import Tokenizer
from underlay.train import CausalLM, Examination, TrainConfig


@dataclass(frozen=True)
class Teaching:
    """What all lessons of a stage share."""

    tokenizer: Tokenizer
    train: TrainConfig
    seed: int
    scratch: Path
    teacher: Artifact | None = None
    """Of distillation, or of labels."""
    reward_model: Artifact | None = None
    """Of reinforcement, where no function says what answers are worth: it was taught to, or is asked by a rubric."""
    progress: Progress = silent

    def lesson(self, model: Model, examples: Sequence[Example], objective: AnyObjective) -> Lesson:
        """What the objective makes of examples. Raises UserError where they, or the model, are not what it needs."""
        train, context, dtype = self.train, self.train.context, self.train.dtype()
        if isinstance(objective, HeadObjective):
            taught = None
            if self.teacher is not None:
                folder = self.teacher.folder
                taught = load_model(folder).requires_grad_(False), Tokenizer.load(folder)
            return heads.lesson(
                model, self.tokenizer, examples, objective, context, self.seed, dtype, train.batch_rows, taught
            )
        if not isinstance(model, Decoder):
            raise UserError(f"a {model.config.family} says nothing; it learns labels, tags, answers and likeness")
        if isinstance(objective, InstructObjective | DistilObjective):
            _are(examples, (Conversation,), objective.name)
            made = instruct.lesson(
                model, self.tokenizer, examples, objective, context, self.seed, dtype, train.compiles(), self.progress
            )
            if isinstance(objective, DistilObjective):
                return replace(made, objective=self._taught(model, objective))
            return made
        if isinstance(objective, ReinforceObjective):
            _are(examples, (Problem, Conversation), objective.name)
            asked = [_as_problem(example) for example in examples]
            return reinforce.lesson(
                model,
                self.tokenizer,
                asked,
                objective,
                context,
                self.seed,
                train,
                self.scratch,
                self.progress,
                self._reward(objective) if self.reward_model else None,
            )
        forms = (Preference, Judgement) if getattr(objective, "loss", None) == "kto" else (Preference,)
        _are(examples, forms, objective.name)
        made = preference.lesson(
            model, self.tokenizer, examples, objective, context, self.seed, dtype, self.scratch, self.progress
        )
        return replace(made, fresh=frozenset({HEAD})) if isinstance(objective, RewardObjective) else made

    def _reward(self, objective: ReinforceObjective) -> Reward:
        return reward_of(objective.reward, self.reward_model, objective.rubric, self.train.dtype())

    def _taught(self, model: Decoder, settings: DistilObjective) -> Distil:
        assert self.teacher is not None, "the stage asks for one"
        teacher = load_decoder(self.teacher.folder).requires_grad_(False)
        check_teacher(teacher, self.tokenizer, Tokenizer.load(self.teacher.folder), model, self.train.context)
        return Distil(teacher, settings.temperature, settings.share, self.train.dtype())

    def measure(
        self, lesson: Lesson, examples: Sequence[Example], objective: AnyObjective, start: Model
    ) -> Callable[[], Examination]:
        """Measures the lesson's model on examples that it does not learn from; to be made before it is trained.

        start: the model that the lesson was made of. Raises UserError as `lesson` does.
        """
        if isinstance(objective, HeadObjective):
            trained: Any = lesson.model

            def looked() -> Examination:
                found = heads.examine(
                    trained, self.tokenizer, examples, self.train.context, objective.stride, objective.pooling
                )
                return Examination({f"heldout_{name}": value for name, value in found.items()})

            return looked
        if isinstance(objective, ReinforceObjective):
            asked = [_as_problem(example) for example in examples][: self.train.examine_rows]
            reward = self._reward(objective)
            policy = lesson.model
            assert isinstance(policy, Decoder)

            def earned() -> Examination:
                found = reinforce.examine(
                    policy,
                    self.tokenizer,
                    asked,
                    reward,
                    objective.max_tokens,
                    objective.temperature,
                    self.seed,
                    self.train.dtype(),
                )
                return Examination({f"heldout_{name}": value for name, value in found.figures.items()}, found.samples)

            return earned
        held = self.lesson(start, examples, objective)
        if isinstance(objective, InstructObjective | DistilObjective):
            plain = CausalLM(self.train.dtype())
            return HeldOut(lesson.model, plain, held.source, len(held.source), self.train, self.tokenizer)
        count = min(len(held.source), self.train.examine_rows)

        def compared() -> Examination:
            found = preference.measure(lesson.model, held.source, held.objective, count, self.train.micro_rows)
            return Examination({f"heldout_{name}": value for name, value in found.items()})

        return compared


def objective_for(examples: Sequence[Example]) -> AnyObjective:
    """What is usually learned from examples of this form."""
    form = type(examples[0].body)
    if form is Conversation:
        return InstructObjective()
    if form is Preference:
        return PreferenceObjective()
    if form is Judgement:
        return PreferenceObjective(loss="kto")
    if form is Problem:
        raise UserError("problems: say how they are learned, by objective grpo or ppo, and what answers are worth")
    return HeadObjective()


def _as_problem(example: Example) -> Example:
    """What a conversation asks for at its end; its own last answer is what is right."""
    body = example.body
    if not isinstance(body, Conversation):
        return example
    *prompt, last = body.messages
    asks = Problem(tuple(prompt), last.content) if last.role == "assistant" else Problem(body.messages)
    return replace(example, body=asks)


def _are(examples: Sequence[Example], forms: tuple[type, ...], name: str) -> None:
    if not isinstance(examples[0].body, forms):
        wanted = " or ".join(f"{form.__name__.lower()}s" for form in forms)
        raise UserError(f"objective {name}: learns from {wanted}, not from a {type(examples[0].body).__name__.lower()}")
