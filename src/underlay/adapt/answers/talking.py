"""Prompts answered as they stand: a problem by one answer, a conversation by one to each of the user's turns.

    read     user: hello     assistant: hm.    user: why?     assistant: so.
    asked    user: hello  ->
    then     user: hello     TEACHER           user: why?  ->
    made     user: hello     TEACHER           user: why?     TEACHER

So a student never learns a word of the assistant that its teacher did not say. Each answer's chance is a function of
the seed, the example's number, and which of its samples and turns it is.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from underlay.adapt.answers.config import AnswerConfig
from underlay.adapt.examples import Conversation, Example, Judgement, Preference, Problem
from underlay.errors import UserError
from underlay.generate import Answer, Engine, Request, Sampling
from underlay.text import Message, render

LONGEST = 256
"""Tokens of an answer, where nothing else is asked for."""
LONGER = "a prompt that leaves no room in the teacher's context"
CUT = "an answer that was cut off at max_tokens"
EMPTY = "an empty answer"


@dataclass
class Talk:
    """A conversation as it is held."""

    number: int
    """Of the example."""
    sample: int
    asks: Sequence[Sequence[Message]]
    """What is said to the teacher, before each of its answers."""
    messages: list[Message] = field(default_factory=list)
    why: str | None = None
    """Why it came to nothing."""


def talks(
    engine: Engine, examples: Sequence[Example], first: int, settings: AnswerConfig, seed: int
) -> list[list[Talk]]:
    """The conversations that come of each example; `first` is the number of the first.

    Raises UserError where an example asks nothing, or the teacher's tokenizer knows no conversations.
    """
    asked = [asks_of(example) for example in examples]
    held = [
        [Talk(number, sample, asks) for sample in range(settings.samples)] for number, asks in enumerate(asked, first)
    ]
    for turn in range(max(map(len, asked), default=0)):
        going = [one for some in held for one in some if one.why is None and turn < len(one.asks)]
        requests = [request for one in going if (request := _asked(engine, one, turn, settings, seed))]
        waiting = [one for one in going if one.why is None]
        for one, answer in zip(waiting, engine.generate(requests), strict=True):
            one.why = _wrong(answer)
            one.messages.append(Message("assistant", answer.text))
    return held


def asks_of(example: Example) -> list[tuple[Message, ...]]:
    """What is said before each answer that is wanted. Raises UserError where an example asks nothing."""
    body = example.body
    if isinstance(body, Problem | Preference | Judgement):
        return [body.prompt]
    if isinstance(body, Conversation):
        return list(_turns(body.messages))
    form = type(body).__name__.lower()
    raise UserError(f"{example.source}:{example.line}: a {form} is no prompt; say by a task what to do with it")


def right_of(example: Example) -> str | None:
    """What is right to say at the end, where that is known."""
    body = example.body
    if isinstance(body, Conversation):
        return body.messages[-1].content if body.messages[-1].role == "assistant" else None
    return body.answer if isinstance(body, Problem) else None


def _turns(messages: Sequence[Message]) -> Iterator[tuple[Message, ...]]:
    before: list[Message] = []
    for message in messages:
        if message.role != "assistant":
            before.append(message)
        elif before:
            yield tuple(before)
            before = []
    if before:
        yield tuple(before)


def _asked(engine: Engine, talk: Talk, turn: int, settings: AnswerConfig, seed: int) -> Request | None:
    """The next request of a conversation, or None, with the reason in it."""
    talk.messages += talk.asks[turn]
    ids, _ = render(engine.tokenizer, talk.messages, reply=True)
    most = settings.max_tokens or LONGEST
    if len(ids) + most > engine.context:
        talk.why = LONGER
        return None
    named = f"{seed}:{talk.number}:{talk.sample}:{turn}".encode()
    chance = int.from_bytes(hashlib.sha256(named).digest()[:8], "little") >> 1
    return Request(ids, most, Sampling(settings.sampled_at(), seed=chance))


def _wrong(answer: Answer) -> str | None:
    if answer.finish == "length":
        return CUT
    return None if answer.text.strip() else EMPTY
