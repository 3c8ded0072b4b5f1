"""Hidden tokens: how many, which, and what stands in their place."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from underlay.data import Masked, MaskingConfig
from underlay.errors import UserError
from underlay.models import Batch
from underlay.text import Special, Tokenizer, train_tokenizer

TEXT = "Every number keeps its name, and 2 names keep 31 numbers: naïve, Füße. " * 12


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT], 300, mask=True)


class Text:
    """Rows of one text, each from another token on, between marks."""

    def __init__(self, tokenizer: Tokenizer, context: int = 64, seed: int = 0) -> None:
        self.ids, self.context, self.seed = tokenizer.encode(TEXT * 20), context, seed
        self.bos = tokenizer.special(Special.BOS)

    def batch(self, first: int, count: int) -> Batch:
        rows = [[self.bos, *self.ids[n % 100 : n % 100 + self.context - 1]] for n in range(first, first + count)]
        tokens = torch.tensor(rows)
        return Batch(tokens, tokens.roll(-1, 1))


UNITS = ("tokens", "words", "spans")


@pytest.mark.parametrize("unit", UNITS)
@given(share=st.floats(0.02, 0.9), first=st.integers(0, 10_000))
def test_what_is_left_what_was_there_and_where_to_guess(
    tokenizer: Tokenizer, unit: str, share: float, first: int
) -> None:
    rows = Text(tokenizer)
    batch = Masked(rows, tokenizer, MaskingConfig(share=share, unit=unit)).batch(first, 3)
    plain = rows.batch(first, 3).tokens
    assert batch.weights is not None
    chosen = batch.weights.bool()
    assert torch.equal(batch.targets, plain)
    assert torch.equal(batch.tokens[~chosen], plain[~chosen])
    assert not chosen[:, 0].any()  # the mark that begins a row
    wanted = max(1, round(share * 63))
    longest = {"tokens": 1, "words": 12, "spans": 10}[unit]
    assert ((chosen.sum(1) >= wanted) & (chosen.sum(1) < wanted + longest)).all()
    special = torch.tensor(sorted(tokenizer.special_ids - {tokenizer.special(Special.MASK)}))
    assert not torch.isin(batch.tokens[chosen], special).any()


def test_eighty_ten_ten(tokenizer: Tokenizer) -> None:
    rows = Text(tokenizer, 256)
    for config, expected in (
        (MaskingConfig(), (0.8, 0.1, 0.1)),
        (MaskingConfig(kept=0.0, replaced=0.5), (0.5, 0.0, 0.5)),
        (MaskingConfig(kept=1.0, replaced=0.0), (0.0, 1.0, 0.0)),
    ):
        batch = Masked(rows, tokenizer, config).batch(0, 200)
        chosen = batch.weights.bool()
        now, before = batch.tokens[chosen], batch.targets[chosen]
        assert chosen.float().mean() == pytest.approx(0.15, abs=0.002)
        masked = (now == tokenizer.special(Special.MASK)).float().mean()
        same = (now == before).float().mean()  # a random token is the old one now and then
        deviation = 4 * (0.25 / len(now)) ** 0.5
        assert masked == pytest.approx(expected[0], abs=deviation)
        assert same == pytest.approx(expected[1], abs=deviation + 0.01)
        random = now[(now != before) & (now != tokenizer.special(Special.MASK))]
        assert len(random) / len(now) == pytest.approx(expected[2], abs=deviation + 0.01)
        if expected[2]:
            assert len(random.unique()) > 0.8 * (tokenizer.size - len(tokenizer.special_ids))


def test_masks_change_with_the_pass_and_not_with_the_batch(tokenizer: Tokenizer) -> None:
    masked = Masked(Text(tokenizer), tokenizer, MaskingConfig())
    whole = masked.batch(40, 4)
    parts = [masked.batch(40, 1), masked.batch(41, 3)]
    assert torch.equal(whole.tokens, torch.cat([part.tokens for part in parts]))
    assert torch.equal(whole.weights, torch.cat([part.weights for part in parts]))
    again = masked.batch(140, 4)  # the same rows, one pass later
    assert torch.equal(whole.targets, again.targets)
    assert not torch.equal(whole.weights, again.weights)
    other = Masked(Text(tokenizer, seed=1), tokenizer, MaskingConfig()).batch(40, 4)
    assert not torch.equal(whole.weights, other.weights)


def test_words_are_hidden_whole(tokenizer: Tokenizer) -> None:
    batch = Masked(Text(tokenizer, 256), tokenizer, MaskingConfig(unit="words", share=0.3)).batch(0, 50)
    several = 0
    for row, chosen in zip(batch.targets.tolist(), batch.weights.bool().tolist(), strict=True):
        for at in range(2, len(row)):
            before, here = (
                tokenizer.decode_bytes([index]).decode("utf-8", "replace") for index in row[at - 1 : at + 1]
            )
            if before[-1:].isalnum() and here[:1].isalnum():
                assert chosen[at] == chosen[at - 1], (before, here)
                several += chosen[at]
    assert several > 100


def test_spans_have_the_lengths_of_spanbert(tokenizer: Tokenizer) -> None:
    # So few are hidden that spans hardly ever touch.
    batch = Masked(Text(tokenizer, 700), tokenizer, MaskingConfig(unit="spans", share=0.01)).batch(0, 400)
    edges = np.diff(np.pad(batch.weights.numpy(), ((0, 0), (1, 1))), axis=1)
    lengths = np.argwhere(edges < 0)[:, 1] - np.argwhere(edges > 0)[:, 1]
    expected = sum(min(n, 10) * 0.2 * 0.8 ** (n - 1) for n in range(1, 200))
    # A row ends with the span that makes it enough, and longer spans are more often that one.
    assert lengths.mean() == pytest.approx(expected, rel=0.15)
    assert lengths.max() <= 20


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    plain = train_tokenizer([TEXT], 300)
    with pytest.raises(UserError, match="no token for the mask; learn it with `mask: true`"):
        Masked(Text(plain), plain, MaskingConfig())


def test_the_mask_has_its_role_and_its_place(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> None:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    loaded = Tokenizer.load(folder)
    assert loaded.native
    assert loaded.special(Special.MASK) == tokenizer.special(Special.MASK) == 7
    assert tokenizer.special(Special.MASK) not in tokenizer.encode("a <|mask|> b")
    assert tokenizer.special(Special.MASK) in tokenizer.encode_masked("a <|mask|> b")


def test_impossible_shares() -> None:
    with pytest.raises(ValueError, match=r"kept 0\.6 and replaced 0\.5 are more than all"):
        MaskingConfig(kept=0.6, replaced=0.5)
