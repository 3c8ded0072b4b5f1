"""Instruction tuning as a lesson: conversations in, next tokens of the assistant's words out."""

from collections.abc import Sequence

import torch

from underlay.adapt.conversations import Conversations
from underlay.adapt.examples import Example
from underlay.adapt.lesson import Lesson
from underlay.config import Config
from underlay.models import Decoder
from underlay.progress import Progress, silent
from underlay.text import Tokenizer
from underlay.train import CausalLM


class InstructConfig(Config):
    """Learn to answer as the assistant does in conversations."""

    packing: bool = True
    """Put several conversations into a row, none of which sees another; otherwise each gets a row of its own."""


def lesson(
    model: Decoder,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    settings: InstructConfig,
    context: int,
    seed: int,
    dtype: torch.dtype,
    compiled: bool = False,
    progress: Progress = silent,
) -> Lesson:
    """Raises UserError where nothing can be learned from the examples."""
    source = Conversations(examples, tokenizer, context, seed, settings.packing, progress)
    return Lesson(model, source, CausalLM(dtype, compiled), len(source.numbers), dict(source.left_out))
