"""Soft prompts and prefixes within the stage that adapts: what is learned, measured and kept of them."""

from collections.abc import Sequence
from pathlib import Path

from underlay.adapt.conversations import Conversations
from underlay.adapt.examples import Conversation, Example
from underlay.adapt.lesson import Lesson
from underlay.adapt.prompting.lesson import SoftRows, conversation_lesson, prompt_ids
from underlay.adapt.prompting.soft import PromptedEmbedding, SoftConfig, prefix_of, prompt_of
from underlay.errors import UserError
from underlay.formats.soft_prompts import write_prefix, write_prompt
from underlay.models import Decoder, Model
from underlay.recipe import stages
from underlay.recipe.heldout import HeldOut
from underlay.recipe.lessons import Teaching


def is_soft(settings: stages.AdaptStage) -> bool:
    """Whether what is learned stands before every conversation, and the model as it is."""
    return settings.method in ("soft_prompt", "prefix")


def soft_lesson(model: Model, settings: stages.AdaptStage, teaching: Teaching, examples: Sequence[Example]) -> Lesson:
    """Raises UserError where the examples are no conversations, or the model cannot learn from such."""
    if not isinstance(model, Decoder):
        raise UserError(
            f"adapt.method {settings.method}: a {model.config.family} says nothing; take full, lora or head"
        )
    if not all(isinstance(example.body, Conversation) for example in examples):
        form = next(type(one.body).__name__.lower() for one in examples if not isinstance(one.body, Conversation))
        raise UserError(f"adapt.method {settings.method}: learns from conversations, not from a {form}")
    kind = "prompt" if settings.method == "soft_prompt" else "prefix"
    config = SoftConfig.model_validate({"kind": kind, **settings.soft.model_dump()})
    train = teaching.train
    return conversation_lesson(
        model, teaching.tokenizer, examples, config, train.context, teaching.seed, train.dtype(), teaching.progress
    )


def soft_measure(
    lesson: Lesson, settings: stages.AdaptStage, teaching: Teaching, examples: Sequence[Example]
) -> HeldOut:
    """Measures the loss of held-out conversations behind what is learned."""
    assert isinstance(lesson.model, Decoder)
    train, tokenizer = teaching.train, teaching.tokenizer
    room = train.context - settings.soft.tokens
    rows = Conversations(examples, tokenizer, room, teaching.seed, packing=False)
    source = SoftRows(rows, prompt_ids(lesson.model))
    return HeldOut(lesson.model, lesson.objective, source, len(source), train, tokenizer)


def write_soft(model: Model, folder: Path, base: str) -> None:
    """Write what a model has learned to read first, as `peft` does."""
    assert isinstance(model, Decoder)
    if isinstance(model.embedding, PromptedEmbedding):
        write_prompt(prompt_of(model), model, folder, base)
    else:
        write_prefix(*prefix_of(model), model, folder, base)
