"""Prompts as tokens: a conversation for models that converse, pairs of inputs and outputs for those that write on.

What a prompt is gone on with (a label, the beginning of a chain of thought) is encoded by itself, so a prompt's tokens
never depend on what follows them, and all labels of an input share them to the last.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from underlay.adapt.prompting.cases import Case
from underlay.adapt.prompting.task import Task
from underlay.errors import UserError
from underlay.text import Message, Tokenizer, render

Style = Literal["conversation", "text"]


class Writer:
    """Writes a task's prompts for one model."""

    def __init__(self, tokenizer: Tokenizer, task: Task, style: Style | None = None, begin: Sequence[int] = ()) -> None:
        """By default a conversation wherever the tokenizer knows how to write one; `begin` stands before all of it.

        Raises UserError where a conversation is asked for and it does not.
        """
        if style == "conversation" and not tokenizer.converses:
            raise UserError("style: the tokenizer knows no conversations; take text")
        self.converses = tokenizer.converses if style is None else style == "conversation"
        self.stop = task.decoding.stop if self.converses else (*task.decoding.stop, "\n\nInput:")
        """Strings that end an answer."""
        self._tokenizer, self._task, self._begin = tokenizer, task, list(begin)

    def prompt(self, case: Case, shown: Sequence[Case] = (), worked: bool = False) -> list[int]:
        """Token ids up to where the model begins to answer."""
        if not self.converses:
            return self._begin + self._tokenizer.prompt(self._task.text(case, shown, worked))
        return self._begin + render(self._tokenizer, self._task.prompt(case, shown, worked), reply=True)[0]

    def opening(self, text: str) -> list[int]:
        """Ids of words that an answer begins, or goes on, with."""
        return self._tokenizer.encode(text if self.converses else f" {text}")

    def whole(self, text: str) -> list[int]:
        """Ids of an answer and of its end, so that no answer is only the beginning of another."""
        if not self.converses:
            return self._tokenizer.encode(f" {text}") + self._tokenizer.encode("\n\n")
        ids, weights = render(self._tokenizer, (Message("user", "?"), Message("assistant", text)))
        return [index for index, weight in zip(ids, weights, strict=True) if weight]

    def fitted(
        self, case: Case, shown: Sequence[Sequence[Case]], room: int, context: int, worked: bool = False
    ) -> "Fitted":
        """A prompt for each order of the same demonstrations, with `room` tokens left behind the longest.

        shown: the first order goes from the farthest to the nearest; the farthest are left out of all orders. Raises
        UserError where the bare prompt is too long.
        """
        kept = list(shown[0])
        while True:
            left = [[one for one in order if one in kept] for order in shown]
            prompts = [self.prompt(case, order, worked) for order in left]
            longest = max(map(len, prompts))
            if longest + room <= context:
                return Fitted(prompts, left, len(shown[0]) - len(kept))
            if not kept:
                raise UserError(
                    f"{case.where}: a prompt of {longest} tokens and an answer of up to {room} do not fit into the "
                    f"model's context of {context}; shorten the input, or lower max_tokens (reasoning_tokens)"
                )
            kept.pop(0)


class Fitted(NamedTuple):
    """Prompts that fit."""

    prompts: list[list[int]]
    """One an order, as token ids."""
    orders: list[list[Case]]
    """The demonstrations that are in them."""
    left_out: int
    """How many are not."""
