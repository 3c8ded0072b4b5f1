"""Filling in: for each masked token of a text, what an encoder thinks stands there (arXiv:1810.04805)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from underlay.errors import UserError
from underlay.generate.padded import BATCH_TOKENS, padded
from underlay.models import Encoder
from underlay.progress import Progress, silent
from underlay.text import Special, Tokenizer
from underlay.text.tokenizer import Framed

SPELLINGS = ("[MASK]", "<mask>")
"""How a mask may be written for any model, whatever its own token is called."""


@dataclass(frozen=True)
class Guess:
    """One token that may stand at a mask."""

    id: int
    text: str
    """As it stands within a text: a word with the space before it, or a part of one."""
    probability: float
    """Among all tokens of the model."""


@dataclass(frozen=True)
class Filled:
    """A text, and what may stand at its masks."""

    text: str
    """With the likeliest token at each mask, each chosen for itself."""
    masks: tuple[tuple[Guess, ...], ...]
    """For each mask, in the order of the text, the likeliest tokens, best first."""


@torch.no_grad()
def fill(
    model: Encoder,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    top: int = 5,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = silent,
) -> list[Filled]:
    """Fill in the masks of each text, with the `top` likeliest tokens that can stand in one.

    A mask is written as the model's own token, or as one of `SPELLINGS`. The others stand masked while one is guessed.
    Special tokens are never guessed. Raises UserError where the model cannot fill in, a text has no mask or is longer
    than the model's context, or `top` is below 1.
    """
    if model.masked is None:
        raise UserError(
            f"this {model.config.family} came without the head that fills in masked words; embed texts with it"
        )
    if top < 1:
        raise UserError(f"top: {top} is below 1")
    mask = tokenizer.special(Special.MASK)
    own = str(tokenizer.name(mask))
    pattern = re.compile("|".join(map(re.escape, sorted({own, *SPELLINGS}, key=len, reverse=True))))
    pieces = [pattern.split(text) for text in texts]
    framed = []
    for number, parts in enumerate(pieces, 1):
        where = "the text" if len(texts) == 1 else f"text {number}"
        framed.append(_framed(tokenizer, parts, own, mask, model.config.context, where))
    barred = sorted(tokenizer.special_ids)
    guesses: dict[int, list[tuple[Guess, ...]]] = {}
    for batch in padded(framed, batch_tokens, model.embedding.weight.device):
        types = None if model.types is None else batch.types
        hidden = model.hidden(batch.tokens, batch.present, types)
        # In the order of rows, and within each of places; logits are wide, so no other place has any.
        masked = (batch.tokens == mask) & batch.present
        chances = model.logits(hidden[masked]).float().softmax(-1)[:, : tokenizer.size]
        chances[:, barred] = -1
        best = chances.topk(min(top, tokenizer.size - len(barred)), -1)
        places = iter(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        for row, count in zip(batch.rows, masked.sum(1).tolist(), strict=True):
            guesses[row] = [_guesses(tokenizer, *next(places)) for _ in range(count)]
        progress(len(guesses), len(texts))
    return [Filled(_join(parts, guesses[row]), tuple(guesses[row])) for row, parts in enumerate(pieces)]


def _framed(tokenizer: Tokenizer, parts: list[str], own: str, mask: int, context: int, where: str) -> Framed:
    """The text with its masks as the model spells them, between the tokenizer's marks."""
    if len(parts) == 1:
        raise UserError(f"{where} has no mask; write {own} where a word is to be filled in")
    framed = tokenizer.frame(own.join(parts), masks=True)
    if len(framed.ids) > context:
        raise UserError(f"{where} has {len(framed.ids)} tokens, but the model's context holds {context}")
    if framed.ids.count(mask) != len(parts) - 1:
        raise UserError(f"{where}: not every {own} is a mask to this tokenizer; put spaces around it")
    return framed


def _guesses(tokenizer: Tokenizer, ids: Sequence[int], chances: Sequence[float]) -> tuple[Guess, ...]:
    texts = [tokenizer.decode_bytes([index]).decode("utf-8", "replace") for index in ids]
    return tuple(Guess(*guess) for guess in zip(ids, texts, chances, strict=True))


_OPENING = re.compile(r"""[(\[{<«“‘„¿¡/\\@#_-]$|(^|[\s(\[{])["']$""")


def _join(parts: Sequence[str], guesses: Sequence[tuple[Guess, ...]]) -> str:
    """The text with the best guesses in it.

    A word's own space counts once, and not at all after an opening bracket or quote; a part of a word joins the one
    before.
    """
    text = parts[0]
    for guess, after in zip(guesses, parts[1:], strict=True):
        best = guess[0].text
        stem = text.rstrip(" ")
        first = not stem or stem[-1] in "\r\n\t" or (stem == text and _OPENING.search(stem) is not None)
        text = (text + best.removeprefix(" ") if first else stem + best) + after
    return text
