"""Reward models: what they are made of, that they learn, and that an answer has one reward wherever it stands."""

from pathlib import Path

import pytest
import torch

from adapt.preferring import ask, examples, make_model, make_tokenizer, ten_pairs
from underlay.adapt.examples import Preference
from underlay.adapt.preference import RewardConfig, lesson, measure, score, with_reward
from underlay.adapt.preference.rows import last_places
from underlay.errors import UserError
from underlay.models import Decoder
from underlay.text import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


def scored(model: Decoder, tokenizer: Tokenizer) -> tuple[list[float], list[float]]:
    pairs = [pair.body for pair in ten_pairs() if isinstance(pair.body, Preference)]
    prompts = [pair.prompt for pair in pairs]
    chosen = score(model, tokenizer, prompts, [pair.chosen for pair in pairs])
    return chosen, score(model, tokenizer, prompts, [pair.rejected for pair in pairs])


def test_a_reward_model_stands_on_the_trunk_it_came_from(tokenizer: Tokenizer) -> None:
    base = make_model(tokenizer)
    model = with_reward(base, 1)
    assert model.embedding.weight.data_ptr() == base.embedding.weight.data_ptr()
    assert model.head is None
    assert with_reward(model, 2) is model
    assert scored(model, tokenizer) == scored(with_reward(base, 1), tokenizer)
    assert scored(model, tokenizer) != scored(with_reward(base, 2), tokenizer)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_ten_pairs_are_learned_and_scored_alike_everywhere(tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = lesson(
        make_model(tokenizer),
        tokenizer,
        examples(tmp_path),
        RewardConfig(centring=0.01),
        96,
        0,
        torch.float32,
        tmp_path,
    )
    assert isinstance(made.model, Decoder)
    optimizer = torch.optim.AdamW(made.model.parameters(), 3e-3)
    for step in range(60):
        loss = made.objective(made.model, made.source.batch(step * 10, 10))
        (loss.sum / loss.count).backward()
        optimizer.step()
        optimizer.zero_grad()
    figures = measure(made.model, made.source, made.objective, 10, at_once=3)
    assert figures["accuracy"] == 1.0
    assert figures["margin"] > 1.0
    chosen, rejected = scored(made.model, tokenizer)
    assert all(one > other for one, other in zip(chosen, rejected, strict=True))
    # In rows of two answers rewards are what they are of answers by themselves.
    assert sum(chosen) / 10 == pytest.approx(figures["rewards/chosen"], abs=1e-4)
    assert sum(rejected) / 10 == pytest.approx(figures["rewards/rejected"], abs=1e-4)
    assert abs(sum(chosen) + sum(rejected)) / 10 < figures["margin"] / 2  # they stay near 0


def test_answers_end_where_their_branches_do() -> None:
    assert last_places(torch.tensor([[0, 1, 1, 2, 2, 2, -1], [0, 0, 1, 2, -1, -1, -1]])).tolist() == [[2, 5], [2, 3]]


def test_what_cannot_be_scored_is_told(tokenizer: Tokenizer) -> None:
    base = make_model(tokenizer)
    with pytest.raises(UserError, match="no head for rewards"):
        score(base, tokenizer, [ask("sky")], ["blue"])
    with pytest.raises(UserError, match=r"answer 2: \d+ tokens, the reward model reads 96"):
        score(with_reward(base, 0), tokenizer, [ask("sky")] * 2, ["blue", "blue " * 200])
    assert score(with_reward(base, 0), tokenizer, [], []) == []
