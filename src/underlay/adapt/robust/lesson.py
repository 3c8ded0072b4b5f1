"""A lesson made robust: the same model learns the same thing, from harmed inputs beside the clean ones."""

from collections.abc import Sequence
from dataclasses import replace

from underlay.adapt.examples import Example, Label
from underlay.adapt.heads.source import TaskRows
from underlay.adapt.heads.texts import text_of
from underlay.adapt.lesson import Lesson
from underlay.adapt.robust.config import RobustConfig
from underlay.adapt.robust.gradient import Adversarial
from underlay.adapt.robust.source import Beside
from underlay.errors import UserError
from underlay.text import Tokenizer


def harden(
    lesson: Lesson, tokenizer: Tokenizer, examples: Sequence[Example], settings: RobustConfig, context: int, seed: int
) -> Lesson:
    """A lesson, made of these examples for rows of `context` tokens, with what `settings` names.

    Texts are harmed before the model reads them, embeddings while it does; with both, harmed texts are moved, too.
    Raises UserError where texts are to be harmed and the examples are not texts with labels.
    """
    source, objective = lesson.source, lesson.objective
    if settings.wordings:
        labels = [one.body for one in examples if isinstance(one.body, Label)]
        if len(labels) < len(examples) or not isinstance(source, TaskRows):
            form = type(examples[0].body).__name__.lower()
            raise UserError(
                f"robust: {settings.wordings[0]} is for texts with labels, for where things stand in a {form} would be "
                "lost; take gradient"
            )
        texts = [text_of(label) for label in labels]
        source = Beside(source, texts, settings, lesson.model, tokenizer, context, seed)
    if "gradient" in settings.kinds:
        objective = Adversarial(objective, settings.epsilon, settings.ascents, settings.weight)
    return replace(lesson, source=source, objective=objective)
