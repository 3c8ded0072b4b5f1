"""Words with tags: a word's first token carries its tag, the others learn nothing (arXiv:1810.04805, section 5.3).

    words     Barack      Obama        went
    tokens    bar ##ack   obama        went
    targets   B-per -     I-per        O

Words are encoded as the text they make together, and tokens come to words by their characters. So a word has the tokens
that it has in running text, whatever the tokenizer does with spaces.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from underlay.adapt.examples import Tags
from underlay.adapt.heads.frame import Frame, frame_of, room
from underlay.adapt.heads.prepared import EMPTY, Prepared
from underlay.adapt.heads.source import NO_TARGET
from underlay.errors import UserError
from underlay.models import Model
from underlay.models.heads import TaskConfig
from underlay.text import Framed, Tokenizer

OUTSIDE = "O"
"""The tag of words that are nothing."""
UNEVEN = "not as many tags as words"
LONG_WORD = "words longer than a row, cut"
NO_TOKEN = "words without a token of their own"  # noqa: S105


def places(words: Sequence[str]) -> list[tuple[int, int]]:
    """First and last character, exclusive, of each word in the text that they make, a space between two."""
    found, at = [], 0
    for word in words:
        found.append((at, at + len(word)))
        at += len(word) + 1
    return found


def word_tokens(tokenizer: Tokenizer, words: Sequence[str]) -> list[list[int]]:
    """The tokens of each word; none for one whose characters the tokenizer drops, or gives to the word before."""
    tokens: list[list[int]] = [[] for _ in words]
    spans, word = places(words), 0
    for token, start, _ in tokenizer.encode_marked(" ".join(words)):
        while word + 1 < len(words) and spans[word][1] <= start:
            word += 1
        if words:
            tokens[word].append(token)
    return tokens


@dataclass(frozen=True)
class WordRow:
    """Some neighbouring words of a sentence as one row."""

    framed: Framed
    words: tuple[int, ...]
    """Numbers of those that have a token."""
    firsts: tuple[int, ...]
    """Where in the row the first token of each stands."""


def word_rows(tokens: Sequence[Sequence[int]], frame: Frame, most: int) -> Iterator[WordRow]:
    """A sentence in rows of at most `most` tokens, cut between words; only a word longer than a row is cut itself."""
    size = most - frame.marks
    row: list[int] = []
    words: list[int] = []
    firsts: list[int] = []
    for number, own in enumerate(tokens):
        if row and len(row) + len(own) > size:
            yield WordRow(frame.put(row), tuple(words), tuple(firsts))
            row, words, firsts = [], [], []
        if own:
            words.append(number)
            firsts.append(len(frame.start) + len(row))
            row += own[:size]
    if words:
        yield WordRow(frame.put(row), tuple(words), tuple(firsts))


def tag_words(model: Model, tokenizer: Tokenizer, sentences: Iterable[Tags], context: int) -> Prepared:
    """Rows and targets of sentences; tags are sorted by name.

    Sentences longer than a row become several. Those without words, or with another number of tags, are left out.
    Raises UserError where there is nothing to tell apart.
    """
    frame, most = frame_of(model, tokenizer), room(model, tokenizer, context)
    left_out: Counter[str] = Counter()
    kept: list[tuple[int, Tags, list[list[int]]]] = []
    for number, one in enumerate(sentences):
        tokens = word_tokens(tokenizer, one.words) if len(one.words) == len(one.tags) else []
        if any(tokens):
            kept.append((number, one, tokens))
            left_out[LONG_WORD] += sum(len(own) > most - frame.marks for own in tokens)
            left_out[NO_TOKEN] += tokens.count([])
        else:
            left_out[EMPTY if len(one.words) == len(one.tags) else UNEVEN] += 1
    names = tuple(sorted({tag for _, one, _ in kept for tag in one.tags}))
    if len(names) < 2:
        found = f"all words have the tag {names[0]!r}" if names else "no sentence has words with tags"
        raise UserError(f"there is nothing to tell apart: {found}; give examples of at least two tags")
    index = {name: number for number, name in enumerate(names)}
    framed, targets, numbers = [], [], []
    for number, one, tokens in kept:
        for row in word_rows(tokens, frame, most):
            target = [NO_TARGET] * len(row.framed.ids)
            for word, first in zip(row.words, row.firsts, strict=True):
                target[first] = index[one.tags[word]]
            framed.append(row.framed)
            targets.append(target)
            numbers.append(number)
    return Prepared(framed, targets, numbers, TaskConfig(kind="token", labels=names), len(kept), left_out)
