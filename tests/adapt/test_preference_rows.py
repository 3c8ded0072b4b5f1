"""Rows of a prompt and two answers: equal to plain rows, padded or not, in any order; and what is left out of them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from adapt.preferring import ask, example, make_model, make_tokenizer, ten_pairs
from underlay.adapt.examples import Conversation, Judgement, Preference
from underlay.adapt.preference import DPO, Judgements, Preferences
from underlay.adapt.preference import source as reasons
from underlay.adapt.preference.rows import PairBatch, log_probabilities
from underlay.adapt.preference.starting import compute
from underlay.errors import UserError
from underlay.models import Decoder, LlamaConfig
from underlay.models.gemma import GemmaConfig
from underlay.models.gpt2 import GPT2Config
from underlay.models.mistral import MistralConfig
from underlay.models.parts import masks
from underlay.text import Message, Special, Tokenizer, render


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


def plain(model: Decoder, tokenizer: Tokenizer, pair: Preference) -> Tensor:
    """Log-probabilities of two answers, each in a row of its own, from all logits."""
    sums = []
    for answer in (pair.chosen, pair.rejected):
        ids, _ = render(tokenizer, [*pair.prompt, Message("assistant", answer)])
        begun, _ = render(tokenizer, pair.prompt, reply=True)
        logits = model(torch.tensor([ids]))[0].log_softmax(-1)
        sums.append(sum((logits[place - 1, ids[place]] for place in range(len(begun), len(ids))), torch.zeros(())))
    return torch.stack(sums)


@pytest.mark.parametrize("family", [LlamaConfig, GPT2Config, MistralConfig, GemmaConfig])
def test_one_prompt_for_two_answers_equals_plain_rows(tokenizer: Tokenizer, family: type[LlamaConfig]) -> None:
    torch.manual_seed(1)
    window = {"sliding_window": 6} if family in (MistralConfig, GemmaConfig) else {}
    sizes = {"vocabulary": tokenizer.size, "context": 96, "width": 32, "depth": 2, "heads": 4, "hidden": 64}
    model = family(**sizes, **window).build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    pairs = ten_pairs()
    source = Preferences(pairs, tokenizer, 96, 0)
    batch = source.gather(range(len(source)))
    assert (batch.branches < 0).any()  # some are padded
    found, _ = log_probabilities(model, batch, torch.float32)
    expected = torch.stack([plain(model, tokenizer, pair.body) for pair in pairs if isinstance(pair.body, Preference)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)

    by = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    of = list(model.parameters())
    for one, other in zip(
        torch.autograd.grad((found * by).sum(), of), torch.autograd.grad((expected * by).sum(), of), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * max(1.0, float(other.abs().max())))


def test_padding_and_company_change_nothing(tokenizer: Tokenizer) -> None:
    model, source = make_model(tokenizer), Preferences(ten_pairs(), tokenizer, 96, 0)
    together, lengths = log_probabilities(model, source.gather(range(10)), torch.float32)
    for number in range(10):
        alone, length = log_probabilities(model, source.gather([number]), torch.float32)
        torch.testing.assert_close(alone[0], together[number], rtol=0, atol=2e-5)
        assert torch.equal(length[0], lengths[number])


def test_only_answers_and_the_ends_of_their_turns_count(tokenizer: Tokenizer) -> None:
    pair = Preference((*ask("sky"), Message("assistant", "blue"), Message("user", "sea")), "green", "do not know")
    batch = Preferences([example(pair)], tokenizer, 96, 0).batch(0, 1)
    assert batch.weights is not None
    for branch, answer in ((1, pair.chosen), (2, pair.rejected)):
        counted = (batch.weights[0] > 0) & (batch.branches[0] == branch)
        assert batch.targets[0][counted].tolist() == [*tokenizer.encode(answer), tokenizer.special(Special.END)]
    shared = batch.tokens[0][batch.branches[0] == 0].tolist()
    assert [*shared, tokenizer.special(Special.ASSISTANT)] == render(tokenizer, pair.prompt, reply=True)[0]


def test_a_mask_drawn_by_hand() -> None:
    mask, positions = masks.branched(torch.tensor([[0, 0, 1, 1, 2, -1]]))
    assert positions.tolist() == [[0, 1, 2, 3, 2, 0]]
    drawn = ["x.....", "xx....", "xxx...", "xxxx..", "xx..x.", "xx...x"]
    assert ["".join("x" if seen else "." for seen in row) for row in mask[0, 0].tolist()] == drawn


def test_each_pass_reads_every_pair_once_in_an_order_of_its_own(tokenizer: Tokenizer) -> None:
    many = [
        example(Preference(ask(f"{word} {number}"), "blue " * (number % 7 + 1), "no"), number)
        for word in ("sky", "sea")
        for number in range(100)
    ]
    source, other = (Preferences(many, tokenizer, 96, seed) for seed in (0, 1))
    passes = [[source.row(sample) for sample in range(start, start + 200)] for start in (0, 200)]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(200))
    assert set(passes[0][:64]) != set(passes[1][:64])
    lengths = [len(source.rows[number]) for number in passes[0][:64]]
    assert lengths != sorted(lengths)  # a pass does not go from short to long, over and over
    assert passes[0] != [other.row(sample) for sample in range(200)]
    assert [source.examples(sample) for sample in range(9)] == [[number] for number in passes[0][:9]]
    # The same sample is the same pair, however it is asked for.
    whole = source.batch(40, 8)
    for place in range(8):
        alone = source.batch(40 + place, 1)
        assert torch.equal(whole.tokens[place, : alone.tokens.shape[1]], alone.tokens[0])
    shuffled = [
        sum(max(row) * 4 - sum(row) for row in zip(*[iter(map(len, rows))] * 4, strict=True))
        for rows in ([source.rows[number] for number in range(200)], [source.rows[number] for number in passes[0]])
    ]
    assert shuffled[1] < shuffled[0] / 2  # padding


def test_micro_rows_change_nothing_that_is_learned(tokenizer: Tokenizer) -> None:
    model = make_model(tokenizer)
    source = Preferences(ten_pairs(), tokenizer, 96, 0)
    source = source.referred(compute(model, source, torch.float32) - 1.5)
    gradients = []
    for at_once in (1, 4, 8):
        model.zero_grad()
        for first in range(0, 8, at_once):
            DPO()(model, source.batch(first, at_once)).sum.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-4, atol=1e-6)


def test_what_cannot_be_learned_from_is_left_out_and_told(tokenizer: Tokenizer) -> None:
    good = Preference(ask("sky"), "blue", "green")
    others = {
        reasons.EQUAL: replace(good, rejected="blue"),
        reasons.EMPTY: replace(good, chosen=" "),
        reasons.ENDED: replace(good, prompt=(*good.prompt, Message("assistant", "well"))),
        reasons.LONGER: replace(good, rejected="green " * 100),
    }
    given = [example(pair, line) for line, pair in enumerate([good, *others.values(), replace(good, prompt=())], 1)]
    source = Preferences(given, tokenizer, 40, 0)
    assert len(source) == 1
    assert source.left_out == dict.fromkeys(others, 1) | {reasons.ENDED: 2}
    with pytest.raises(UserError, match=r"nothing to learn from: longer than the context: 1.*raise train\.context"):
        Preferences([example(good)], tokenizer, 3, 0)
    with pytest.raises(UserError, match=r"pairs\.jsonl:7 .* a conversation, not a preference"):
        Preferences([example(Conversation(good.prompt), 7)], tokenizer, 40, 0)
    with pytest.raises(UserError, match="there are no examples"):
        Preferences([], tokenizer, 40, 0)


def test_what_just_fits_is_learned(tokenizer: Tokenizer) -> None:
    source = Preferences(ten_pairs(), tokenizer, 96, 0)
    longest = max(row.longest for row in source.rows)
    assert not Preferences(ten_pairs(), tokenizer, longest, 0).left_out
    assert Preferences(ten_pairs(), tokenizer, longest - 1, 0).left_out == {reasons.LONGER: 1}


def test_judgements_bring_answers_to_other_prompts(tokenizer: Tokenizer) -> None:
    things = ["sky", "sea", "snow", "grass"]
    judged = [example(Judgement(ask(thing), f"it is {thing}", thing != "sea")) for thing in things]
    source = Judgements(judged, tokenizer, 96, 0, group=2)
    batch = source.batch(0, 2)
    assert batch.tokens.shape[0] == 4
    seen = set()
    for row, number in enumerate(source.row(sample) for sample in range(4)):
        said = [tokenizer.decode(list(answer[:-1])) for answer in source.rows[number].answers]
        assert said[0] == f"it is {things[number]}"
        assert said[1] != said[0]
        assert bool(batch.good[row]) == (things[number] != "sea")
        seen.add(said[1])
    assert len(seen) == 4  # each is somebody's other
    pairs = Judgements(ten_pairs(), tokenizer, 96, 0, group=4)
    assert (len(pairs), len(pairs.rows)) == (5, 20)
    read = [number for sample in range(5) for number in pairs.examples(sample)]
    assert sorted(read) == sorted([*range(10)] * 2)
    assert int(pairs.good.sum()) == 10
    asked = {"sky": ("azure", "navy"), "sea": ("teal", "grey")}
    few = [example(Preference(ask(thing), *said)) for thing, said in asked.items()]
    for seed in range(4):
        for row in Judgements(few, tokenizer, 96, seed, group=2).rows:
            first, second = (tokenizer.decode(list(answer[:-1])) for answer in row.answers)
            assert not any({first, second} <= set(said) for said in asked.values())
    uneven = [example(Judgement(ask("sky " * 12), "no", False)), example(Judgement(ask("sea"), "blue " * 9, True))]
    free = Judgements(uneven, tokenizer, 96, 0, group=2)
    context = max(len(row.prompt) + len(row.answers[0]) for row in free.rows)
    assert max(row.longest for row in free.rows) > context
    assert max(row.longest for row in Judgements(uneven, tokenizer, context, 0, group=2).rows) == context
    with pytest.raises(UserError, match="all examples have the same prompt"):
        Judgements(judged[:1], tokenizer, 96, 0, group=2)


def test_a_batch_moves_with_all_it_has_and_is_not_cut(tokenizer: Tokenizer) -> None:
    source = Preferences(ten_pairs(), tokenizer, 96, 0).referred(torch.ones(10, 2))
    batch = source.batch(0, 2)
    moved = batch.to(torch.device("meta"))
    assert isinstance(moved, PairBatch)
    assert moved.reference is not None
    assert {moved.tokens.device.type, moved.branches.device.type, moved.reference.device.type} == {"meta"}
    assert batch.cut(1) is batch
    with pytest.raises(UserError, match="short_rows"):
        batch.cut(2)
