"""An example as a prompt shows it: a text, and what is to be said of it."""

from dataclasses import dataclass

from underlay.adapt.examples import Conversation, Example, Label, Problem, Question
from underlay.errors import UserError
from underlay.text import Message

WORKED = "\n#### "
"""What parts the way from the answer in worked problems (GSM8K, arXiv:2110.14168)."""


@dataclass(frozen=True, slots=True)
class Case:
    """A text, what is right to say of it, and where both come from."""

    input: str
    outputs: tuple[str, ...] = ()
    """All answers that are right, the one to be shown first; none: not known."""
    reasoning: str | None = None
    """The way to the answer, where it is known."""
    where: str = "the input"
    """The place, for messages."""


def case_of(example: Example) -> Case:
    """What a prompt shows of a conversation (its last answer), a problem, a label or a question.

    Several labels are one text, in their order, with commas. Raises UserError for other forms, and for conversations
    in which the assistant does not have the last word.
    """
    where, body = f"{example.source}:{example.line}", example.body
    if isinstance(body, Label):
        text = body.text if body.second is None else f"{body.text}\n{body.second}"
        number = () if body.value is None else (f"{body.value:g}",)
        return Case(text, (", ".join(body.labels),) if body.labels else number, where=where)
    if isinstance(body, Question):
        text = f"{body.context}\n\n{body.question}"
        return Case(text, tuple(dict.fromkeys(answer for answer, _ in body.answers)), where=where)
    if isinstance(body, Problem):
        return Case(_written(body.prompt), () if body.answer is None else (body.answer,), where=where)
    if isinstance(body, Conversation):
        if body.messages[-1].role != "assistant":
            raise UserError(f"{where}: the assistant does not have the last word; end the conversation with its answer")
        way, parted, answer = body.messages[-1].content.rpartition(WORKED)
        return Case(_written(body.messages[:-1]), (answer.strip(),), way.strip() if parted else None, where)
    raise UserError(
        f"{where}: a {type(body).__name__.lower()} is no text with an answer; "
        "give labels, questions, problems or conversations"
    )


def _written(messages: tuple[Message, ...]) -> str:
    """One message as it is, several with their roles."""
    if len(messages) == 1:
        return messages[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in messages)
