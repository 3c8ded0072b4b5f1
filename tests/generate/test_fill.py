"""Filling in masked words, in any spelling of the mask, in batches and alone."""

import pytest
import torch
from encoder_world import encoder, letters, words

from underlay.errors import UserError
from underlay.generate.fill import Guess, _join, fill
from underlay.text import Special


@pytest.mark.parametrize("roberta", [False, True])
def test_guesses_are_the_likeliest_of_the_whole_distribution(roberta: bool) -> None:
    tokenizer = letters() if roberta else words()
    model = encoder(tokenizer, roberta)
    own = tokenizer.name(tokenizer.special(Special.MASK))
    (filled,) = fill(model, tokenizer, [f"Paris is the {own} of {own}."], top=4)
    ids = torch.tensor([tokenizer.frame(f"Paris is the {own} of {own}.", masks=True).ids])
    places = (ids[0] == tokenizer.special(Special.MASK)).nonzero()[:, 0]
    assert len(filled.masks) == len(places) == 2
    chances = model(ids)[0].detach().softmax(-1)
    for mask, place in zip(filled.masks, places.tolist(), strict=True):
        order = chances[place].argsort(descending=True).tolist()
        allowed = [i for i in order if i < tokenizer.size and i not in tokenizer.special_ids]
        assert [guess.id for guess in mask] == allowed[:4]
        for guess in mask:
            assert guess.probability == pytest.approx(float(chances[place, guess.id]), rel=1e-4)


@pytest.mark.parametrize("roberta", [False, True])
def test_either_spelling_does_for_any_model(roberta: bool) -> None:
    tokenizer = letters() if roberta else words()
    model = encoder(tokenizer, roberta)
    first, second, both = fill(
        model, tokenizer, ["Paris is [MASK] old.", "Paris is <mask> old.", "[MASK] is <mask> old."]
    )
    assert first.text == second.text
    for one, other in zip(first.masks[0], second.masks[0], strict=True):  # rows of a batch may round differently
        assert (one.id, one.text) == (other.id, other.text)
        assert one.probability == pytest.approx(other.probability, rel=1e-4)
    assert len(both.masks) == 2


def test_a_batch_changes_nothing() -> None:
    tokenizer = words()
    model = encoder(tokenizer)
    texts = [
        "[MASK]",
        "Paris is the [MASK] of France.",
        "The quick [MASK] fox [MASK] over the lazy dog [MASK]",
        "a [MASK]",
    ]
    together = fill(model, tokenizer, texts)
    for batch in (1, 20, 10_000):
        assert [f.text for f in fill(model, tokenizer, texts, batch_tokens=batch)] == [f.text for f in together]
    for text, filled in zip(texts, together, strict=True):
        (alone,) = fill(model, tokenizer, [text])
        assert alone.text == filled.text
        for one, other in zip(alone.masks, filled.masks, strict=True):
            assert [g.id for g in one] == [g.id for g in other]
            assert [g.probability for g in one] == pytest.approx([g.probability for g in other], rel=1e-4)


@pytest.mark.parametrize(
    ("parts", "best", "joined"),
    [
        (["Paris is the ", " of France."], [" capital"], "Paris is the capital of France."),
        (["", " is old."], [" paris"], "paris is old."),
        (["Paris is the capital", " of France."], ["s"], "Paris is the capitals of France."),
        (["They walk ", "."], ["ed"], "They walked."),
        (["one\n", " three"], [" two"], "one\ntwo three"),
        (["Hello ", ""], ["!"], "Hello!"),
        (["in (", ")."], [" paris"], "in (paris)."),
        (['"', '"'], [" one"], '"one"'),
        (["Hello,", ""], [" world"], "Hello, world"),
        (['said "', '"'], ["one"], 'said "one"'),
        (["a ", " ", " d"], [" b", " c"], "a b c d"),
    ],
)
def test_the_text_reads_as_one(parts: list[str], best: list[str], joined: str) -> None:
    assert _join(parts, [(Guess(0, text, 0.5),) for text in best]) == joined


def test_what_cannot_be_filled_in_says_why() -> None:
    tokenizer = words()
    model = encoder(tokenizer)
    with pytest.raises(UserError, match=r"the text has no mask; write \[MASK\]"):
        fill(model, tokenizer, ["Paris"])
    with pytest.raises(UserError, match="text 2 has no mask"):
        fill(model, tokenizer, ["[MASK]", "Paris"])
    with pytest.raises(UserError, match="context holds 48"):
        fill(model, tokenizer, ["[MASK] " * 60])
    with pytest.raises(UserError, match="top: 0"):
        fill(model, tokenizer, ["[MASK]"], top=0)
    with pytest.raises(UserError, match="without the head"):
        fill(encoder(tokenizer, masked_head=False), tokenizer, ["[MASK]"])
    assert fill(model, tokenizer, []) == []


def test_no_more_guesses_than_tokens() -> None:
    tokenizer = words()
    (filled,) = fill(encoder(tokenizer), tokenizer, ["[MASK]"], top=10_000)
    assert len(filled.masks[0]) == tokenizer.size - len(tokenizer.special_ids)
    assert all(guess.probability >= 0 for guess in filled.masks[0])
