"""Where texts stand in a row: between the marks that the tokenizer's maker puts there.

    one text     [CLS] a [SEP]              <s> a
    two texts    [CLS] a [SEP] b [SEP]      <s> a newline b       (types 0 0 0 1 1, where the model has them)

Each text is encoded by itself, so nothing merges across a mark, and a text can be cut without its marks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from underlay.errors import UserError
from underlay.models import Encoder, Model
from underlay.text import Framed, Tokenizer


@dataclass(frozen=True)
class Frame:
    """The marks around one text, or around two."""

    start: tuple[int, ...]
    middle: tuple[int, ...]
    """Between two texts; none where there is one."""
    end: tuple[int, ...]
    second: int = 0
    """The type of the second text and of its closing marks."""

    @property
    def marks(self) -> int:
        """How many they are."""
        return len(self.start) + len(self.middle) + len(self.end)

    def put(self, first: Sequence[int], other: Sequence[int] = ()) -> Framed:
        """The texts between their marks."""
        ids = [*self.start, *first, *self.middle]
        types = [0] * len(ids) + [self.second] * (len(other) + len(self.end))
        return Framed([*ids, *other, *self.end], types)


def frame_of(model: Model, tokenizer: Tokenizer, pairs: bool = False) -> Frame:
    """The marks that a model is used to.

    Raises UserError where an encoder's tokenizer puts no mark between two texts; a decoder reads a new line there.
    """
    start, end = tuple(tokenizer.start), tuple(tokenizer.end)
    if not pairs:
        return Frame(start, (), end)
    if not isinstance(model, Encoder):
        return Frame(start, tuple(tokenizer.encode("\n")), end)
    framed = tokenizer.frame("a", "a")
    special = tokenizer.special_ids
    inner = framed.ids[len(start) : len(framed.ids) - len(end)]
    words = list(takewhile(lambda token: token not in special, inner))
    middle = tuple(takewhile(special.__contains__, inner[len(words) :]))
    if not middle:
        raise UserError("the tokenizer puts no mark between two texts; name a sep_token, or give single texts")
    types = model.config.types
    second = framed.type_ids[len(start) + len(words) + len(middle)] if types else 0
    return Frame(start, middle, end, min(second, max(types - 1, 0)))


def room(model: Model, tokenizer: Tokenizer, context: int | None = None) -> int:
    """Most tokens of a row, marks included: the model's, the tokenizer's and the asked for, whichever is least."""
    return min(length for length in (model.config.context, tokenizer.longest, context) if length)


def cut_pair(first: Sequence[int], other: Sequence[int], most: int) -> tuple[Sequence[int], Sequence[int]]:
    """Two texts of at most `most` tokens together: the longer one is cut, or both to halves where both are long."""
    short = min(len(first), len(other), most // 2)
    if len(first) <= len(other):
        first = first[: max(short, most - len(other))]
        return first, other[: most - len(first)]
    other = other[: max(short, most - len(first))]
    return first[: most - len(other)], other
