"""Questions whose answers stand in a text: where each begins and ends (SQuAD, arXiv:1606.05250, 1806.03822).

    [CLS] question [SEP] context ... [SEP]           a context longer than a row is read in windows that overlap
      ^ begins and ends here: not in this window

The first position stands for no answer. It is never one of the context's, as the question and its marks come first.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from underlay.adapt.examples import Question
from underlay.adapt.heads.frame import Frame, frame_of, room
from underlay.adapt.heads.prepared import EMPTY, Prepared
from underlay.errors import UserError
from underlay.models import Model
from underlay.models.heads import TaskConfig
from underlay.text import Framed, Tokenizer

CUT = "questions longer than half a row, cut"
MISPLACED = "answers that do not stand where they are said to"
NOWHERE = (0, 0)
"""Where no answer begins and ends."""


@dataclass(frozen=True)
class Window:
    """A question with a part of its context."""

    framed: Framed
    at: int
    """Where in the row the context begins."""
    first: int
    """Which token of the context that is."""
    length: int
    """How many of the context's tokens are here."""

    def ends(self, tokens: tuple[int, int] | None) -> tuple[int, int]:
        """Where in the row the first and the last token of an answer stand; `NOWHERE` if not all of it is here."""
        if tokens is None or tokens[0] < self.first or tokens[1] >= self.first + self.length:
            return NOWHERE
        return tokens[0] - self.first + self.at, tokens[1] - self.first + self.at


@dataclass(frozen=True)
class Reading:
    """How a model reads a question and its context: in windows, none where the context has no token."""

    windows: list[Window]
    characters: list[tuple[int, int]]
    """The characters [start, end) of the context in each of its tokens."""
    cut: bool
    """Whether the question was longer than half a row."""

    def tokens(self, start: int, end: int) -> tuple[int, int] | None:
        """The first and the last token of the context with some of these characters, where there is one."""
        inside = [token for token, (first, last) in enumerate(self.characters) if last > start and first < end]
        return (inside[0], inside[-1]) if inside else None


def read(tokenizer: Tokenizer, frame: Frame, most: int, stride: int, question: str, context: str) -> Reading:
    """Windows of at most `most` tokens, each of which shares `stride` tokens of the context with the next."""
    asked, tokens = tokenizer.encode(question), tokenizer.encode_marked(context)
    kept = asked[: (most - frame.marks) // 2]
    size = most - frame.marks - len(kept)
    at, step = len(frame.start) + len(kept) + len(frame.middle), max(1, size - stride)
    found = []
    for first in range(0, max(len(tokens) - size, 0) + step, step) if tokens else ():
        part = tokens[first : first + size]
        found.append(Window(frame.put(kept, [token for token, _, _ in part]), at, first, len(part)))
        if first + size >= len(tokens):
            break
    return Reading(found, [(start, end) for _, start, end in tokens], len(kept) < len(asked))


def place_answers(
    model: Model, tokenizer: Tokenizer, questions: Iterable[Question], context: int, stride: int
) -> Prepared:
    """Windows and targets of questions; of several answers the first is learned.

    Questions without an answer are learned as such. Those whose answer does not stand where it is said to are left out.
    Raises UserError where no answer is left to learn.
    """
    frame, most = frame_of(model, tokenizer, pairs=True), room(model, tokenizer, context)
    if most <= frame.marks + 1:
        raise UserError(f"rows of {most} tokens have no room for a question and a text; raise train.context")
    left_out: Counter[str] = Counter()
    framed: list[Framed] = []
    targets: list[tuple[int, int]] = []
    numbers: list[int] = []
    count = 0
    for number, one in enumerate(questions):
        reading = read(tokenizer, frame, most, stride, one.question, one.context)
        standing = [(at, at + len(text)) for text, at in one.answers if text and one.context[at:].startswith(text)]
        answer = reading.tokens(*standing[0]) if standing else None
        left_out[CUT] += reading.cut
        if not reading.windows or (one.answers and answer is None):
            left_out[MISPLACED if reading.windows else EMPTY] += 1
            continue
        count += 1
        framed += [window.framed for window in reading.windows]
        targets += [window.ends(answer) for window in reading.windows]
        numbers += [number] * len(reading.windows)
    if not any(place != NOWHERE for place in targets):
        raise UserError("there is nothing to learn: no question has an answer that stands in its text, within a row")
    return Prepared(framed, targets, numbers, TaskConfig(kind="span"), count, left_out)
