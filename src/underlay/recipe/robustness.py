"""Robustness within the stage that adapts: which lessons can be hardened, and what held-out examples are attacked."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from underlay.adapt.examples import Example
from underlay.adapt.lesson import Lesson
from underlay.adapt.robust import AttackConfig, examine_attacked, harden, victim_of
from underlay.errors import UserError
from underlay.models import Model
from underlay.recipe import stages
from underlay.recipe.lessons import Teaching
from underlay.recipe.objectives import AnyObjective, HeadObjective, InstructObjective
from underlay.train import Examination

Measure = Callable[[], Examination]


def hardened(
    lesson: Lesson,
    settings: stages.AdaptStage,
    objective: AnyObjective,
    teaching: Teaching,
    examples: Sequence[Example],
) -> Lesson:
    """The lesson as `adapt.robust` wants it. Raises UserError where what is learned cannot be hardened."""
    if settings.robust is None:
        return lesson
    if not isinstance(objective, HeadObjective | InstructObjective):
        raise UserError(f"adapt.robust: the objectives head and instruct can be hardened, not {objective.name}")
    if isinstance(objective, HeadObjective) and objective.frozen:
        raise UserError(
            "adapt.robust: a head alone reads each text once, so it never meets another form; let the model learn, "
            "too (--method full or lora)"
        )
    context = teaching.train.context
    return harden(lesson, teaching.tokenizer, examples, settings.robust, context, teaching.seed)


def under_attack(
    measure: Measure | None,
    settings: stages.AdaptStage,
    model: Model,
    teaching: Teaching,
    examples: Sequence[Example],
) -> Measure | None:
    """What measures a model, and then attacks it. Raises UserError where an attack is asked for that cannot be made."""
    attack = attack_of(settings, model, examples)
    if attack is None:
        return measure
    if measure is None:
        raise UserError("adapt.attack: there are no examples to measure on; name some as heldout (--heldout)")
    victim_of(model, teaching.tokenizer, examples)
    tokenizer, context, seed = teaching.tokenizer, teaching.train.context, teaching.seed

    def attacked() -> Examination:
        found = measure()
        figures = examine_attacked(model, tokenizer, examples, attack, context, seed)
        return replace(found, figures={**found.figures, **{f"heldout_{name}": one for name, one in figures.items()}})

    return attacked


def attack_of(settings: stages.AdaptStage, model: Model, examples: Sequence[Example]) -> AttackConfig | None:
    """The attack that is asked for; where none is, the one that the model is hardened against, if it can be made."""
    if settings.attack is not None or settings.robust is None or not examples:
        return settings.attack
    task = model.config.task
    if task is None or task.kind != "text" or task.number:
        return None
    same = settings.robust.model_dump(include=set(AttackConfig.model_fields) & set(type(settings.robust).model_fields))
    return AttackConfig.model_validate(same)
