"""Rows of conversations: only answers are learned, packed as by themselves, each once a pass."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.adapt import Conversations
from underlay.adapt.examples import Conversation, Example
from underlay.errors import UserError
from underlay.models import Decoder, LlamaConfig
from underlay.text import Message, Special, Tokenizer, render, train_tokenizer
from underlay.train import CausalLM


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["what is asked, and what is answered; a question and its answer"] * 3, 300)


def talk(*turns: str) -> Example:
    roles = ("user", "assistant")
    messages = tuple(Message(roles[place % 2], words) for place, words in enumerate(turns))  # type: ignore[arg-type]
    return Example(Conversation(messages), "talk.jsonl", 1, "MIT")


def ragged(lengths: list[int]) -> list[Example]:
    return [talk(f"question {number}", "answer " * length) for number, length in enumerate(lengths)]


def model(tokenizer: Tokenizer) -> Decoder:
    torch.manual_seed(0)
    config = LlamaConfig(vocabulary=tokenizer.size, context=64, width=32, depth=2, heads=2, kv_heads=1, hidden=48)
    return config.build()


def test_only_what_the_assistant_says_is_learned(tokenizer: Tokenizer) -> None:
    rows = Conversations([talk("ask", "say", "ask again", "say more")], tokenizer, 40, seed=0)
    batch = rows.batch(0, 2)
    assert batch.weights is not None
    assert batch.tokens.shape == batch.targets.shape == batch.weights.shape == (2, 40)
    learned = batch.targets[0][batch.weights[0] > 0].tolist()
    end = tokenizer.special(Special.END)
    assert learned == [*tokenizer.encode("say"), end, *tokenizer.encode("say more"), end]


@pytest.mark.parametrize("packing", [True, False])
def test_what_is_too_long_or_says_nothing_is_counted(tokenizer: Tokenizer, packing: bool) -> None:
    examples = [talk("ask", "say"), talk("question", "answer " * 100), talk("nobody answers")]
    rows = Conversations(examples, tokenizer, 40, seed=0, packing=packing)
    assert rows.left_out == {"longer than a row": 1, "nothing that the assistant says": 1}
    assert rows.examples(0) == [0]
    with pytest.raises(UserError, match=r"of 1 conversations 1 longer than a row; a row holds 5 tokens"):
        Conversations(examples[1:2], tokenizer, 5, seed=0)


@given(st.lists(st.integers(1, 18), min_size=1, max_size=24), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_every_pass_holds_each_conversation_once_and_whole(lengths: list[int], seed: int) -> None:
    tokenizer = train_tokenizer(["question answer 0 1 2 3 4 5 6 7 8 9"] * 3, 280)
    examples = ragged(lengths)
    rows = Conversations(examples, tokenizer, 64, seed)
    left_out = sum(rows.left_out.values())
    for turn in range(2):
        samples = range(turn * len(rows), (turn + 1) * len(rows))
        seen = [number for sample in samples for number in rows.examples(sample)]
        assert len(seen) == len(set(seen)) == len(examples) - left_out
        batch = rows.batch(samples.start, len(samples))
        assert batch.segments is not None
        for row, sample in enumerate(samples):
            for segment, number in enumerate(rows.examples(sample)):
                body = examples[number].body
                assert isinstance(body, Conversation)
                ids, _ = render(tokenizer, body.messages)
                here = batch.segments[row] == segment
                assert batch.tokens[row][here].tolist() == ids[:-1]
                assert batch.targets[row][here].tolist() == ids[1:]
        assert 0 <= rows.padding < 1


def test_any_cut_into_batches_reads_the_same(tokenizer: Tokenizer) -> None:
    rows = Conversations(ragged([3, 9, 1, 12, 7, 2, 5, 5, 8]), tokenizer, 64, seed=0)
    whole = rows.batch(0, 6)
    for first, count in ((0, 1), (1, 3), (4, 2)):
        part = rows.batch(first, count)
        assert torch.equal(part.tokens, whole.tokens[first : first + count])
        assert torch.equal(part.segments, whole.segments[first : first + count])  # type: ignore[index, arg-type]


def test_packed_rows_give_the_loss_and_gradients_of_rows_of_their_own(tokenizer: Tokenizer) -> None:
    examples = ragged([3, 9, 1, 12, 7, 2, 5, 5, 8, 1])
    found = []
    for packing in (True, False):
        rows = Conversations(examples, tokenizer, 64, seed=0, packing=packing)
        learner = model(tokenizer)
        loss = CausalLM()(learner, rows.batch(0, len(rows)))
        loss.sum.backward()
        found.append((len(rows), loss, [parameter.grad for parameter in learner.parameters()]))
    (few, packed, ours), (many, alone, theirs) = found
    assert few < many / 2
    assert packed.count == alone.count
    torch.testing.assert_close(packed.sum, alone.sum, rtol=1e-6, atol=1e-5)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_without_isolation_the_loss_would_be_another(tokenizer: Tokenizer) -> None:
    from dataclasses import replace

    rows = Conversations(ragged([3, 9, 1, 12, 7, 2]), tokenizer, 64, seed=0)
    batch = rows.batch(0, len(rows))
    learner = model(tokenizer)
    with torch.no_grad():
        isolated, naive = (CausalLM()(learner, one).sum for one in (batch, replace(batch, segments=None)))
    assert abs(float(isolated - naive)) > 1e-3
