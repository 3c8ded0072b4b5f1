"""A task as a lesson for a soft prompt: its examples, in the words of its prompts, behind what is to be learned."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from underlay.adapt.conversations import Conversations
from underlay.adapt.examples import Example
from underlay.adapt.lesson import Lesson
from underlay.adapt.prompting.soft import PrefixedLM, PromptedEmbedding, SoftConfig, attach_soft
from underlay.adapt.prompting.task import Task
from underlay.errors import UserError
from underlay.models import Batch, Decoder
from underlay.progress import Progress, silent
from underlay.text import Tokenizer
from underlay.train import CausalLM


def lesson(
    model: Decoder,
    tokenizer: Tokenizer,
    task: Task,
    examples: Iterable[Example],
    settings: SoftConfig,
    context: int,
    seed: int,
    dtype: torch.dtype = torch.float32,
    progress: Progress = silent,
) -> Lesson:
    """What trains a soft prompt for a task; the model itself is changed: it is frozen, and reads the prompt.

    A row is one example and the soft prompt, together at most `context` tokens. Raises UserError where an example does
    not go with the task, none fits, or the prompt leaves no room.
    """
    told = [replace(example, body=task.conversation(example)) for example in examples]
    if not told:
        raise UserError(f"{task.name}: there are no examples to learn from; name a file with at least one")
    return conversation_lesson(model, tokenizer, told, settings, context, seed, dtype, progress)


def conversation_lesson(
    model: Decoder,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    settings: SoftConfig,
    context: int,
    seed: int,
    dtype: torch.dtype = torch.float32,
    progress: Progress = silent,
) -> Lesson:
    """The same for conversations as they stand: what the assistant says in them is learned."""
    room = context - settings.tokens
    if room < 2:
        raise UserError(f"tokens: {settings.tokens} leave no room in rows of {context} tokens (train.context)")
    rows = Conversations(examples, tokenizer, room, seed, packing=False, progress=progress)
    attach_soft(model, tokenizer, settings, seed, dtype)
    source, objective = SoftRows(rows, prompt_ids(model)), objective_of(model, dtype)
    fresh = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return Lesson(model, source, objective, len(rows.numbers), dict(rows.left_out), fresh=fresh)


def prompt_ids(model: Decoder) -> list[int]:
    """What rows begin with: the tokens of the model's prompt; a prefix has none."""
    return model.embedding.ids() if isinstance(model.embedding, PromptedEmbedding) else []


def objective_of(model: Decoder, dtype: torch.dtype) -> CausalLM:
    """How a model reads what stands behind its prompt, or its prefix."""
    return CausalLM(dtype) if isinstance(model.embedding, PromptedEmbedding) else PrefixedLM(dtype)


@dataclass(frozen=True)
class WholeBatch(Batch):
    """Rows that begin with a prompt."""

    def cut(self, pieces: int) -> "Batch":
        """The same. Raises UserError where it is to be cut."""
        if pieces > 1:
            raise UserError("short_rows: a soft prompt stands before whole rows, they cannot be cut; leave it out")
        return self


class SoftRows:
    """Conversations, a row each, behind the tokens of a prompt."""

    def __init__(self, rows: Conversations, prompt: Sequence[int]) -> None:
        self._rows, self._prompt = rows, torch.tensor(list(prompt), dtype=torch.int64)

    def __len__(self) -> int:
        """Rows of a pass."""
        return len(self._rows)

    def examples(self, sample: int) -> list[int]:
        """Which example stands in the `sample`-th row to be read."""
        return self._rows.examples(sample)

    def batch(self, first: int, count: int) -> WholeBatch:
        """The samples first, first + 1, ...; as long as the longest of them."""
        found = self._rows.batch(first, count)
        assert found.weights is not None
        longest = int(found.weights.any(0).nonzero().max()) + 1
        prompt = self._prompt.expand(count, -1)
        nothing = torch.zeros_like(prompt)
        return WholeBatch(
            torch.cat([prompt, found.tokens[:, :longest]], 1),
            torch.cat([nothing, found.targets[:, :longest]], 1),
            torch.cat([nothing.float(), found.weights[:, :longest]], 1),
        )
