"""What a model is adapted by: the forms that examples have, whatever file they come from."""

from dataclasses import dataclass

from underlay.text import Message


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns, of which a model learns what the assistant says."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt with two answers, of which people prefer one."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """A prompt with an answer that was called good, or bad."""

    prompt: tuple[Message, ...]
    answer: str
    good: bool


@dataclass(frozen=True, slots=True)
class Problem:
    """A prompt whose answers can be checked."""

    prompt: tuple[Message, ...]
    answer: str | None = None
    """What is right, where one answer is."""


@dataclass(frozen=True, slots=True)
class Label:
    """A text, or a pair of texts, and what it is."""

    text: str
    labels: tuple[str, ...] = ()
    """One, or of several that may hold together those that do."""
    value: float | None = None
    """A number in the place of labels."""
    second: str | None = None
    """The other text of a pair."""


@dataclass(frozen=True, slots=True)
class Tags:
    """Words, and what each is, such as `B-person`, `I-person`, `O`."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question whose answers stand in a text."""

    question: str
    context: str
    answers: tuple[tuple[str, int], ...]
    """Texts, and at which character of the context each begins; none: the context does not tell."""


@dataclass(frozen=True, slots=True)
class Similar:
    """A text, one that means the same, and some that do not."""

    text: str
    positive: str
    negatives: tuple[str, ...] = ()


Form = Conversation | Preference | Judgement | Problem | Label | Tags | Question | Similar
FORMS: dict[str, type[Form]] = {
    "conversation": Conversation,
    "preference": Preference,
    "judgement": Judgement,
    "problem": Problem,
    "label": Label,
    "tags": Tags,
    "question": Question,
    "similar": Similar,
}
"""Their names on disk."""


@dataclass(frozen=True, slots=True)
class Example:
    """One of them, and where it comes from."""

    body: Form
    source: str
    """The file, as it was named."""
    line: int
    """Where in it the example begins: a line, or the number of a record, from 1."""
    licence: str
    document: str | None = None
    """The document of a corpus that it was made of, where there is one."""
