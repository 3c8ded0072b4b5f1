"""Rounds of answers: by which weights, from which chance, with which rewards, and what of them is learned."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from adapt.preferring import ask, example, make_model
from adapt.reinforcing import COLOURS, CONTEXT, beginner, configured, make_tokenizer, problems, taught
from underlay.adapt.examples import Preference, Problem
from underlay.adapt.lesson import Lesson
from underlay.adapt.lora import LoraConfig, attach
from underlay.adapt.reinforce import ReinforceConfig, Rollouts, examine, lesson, named, with_critic, without_critic
from underlay.adapt.reinforce.losses import Reduction
from underlay.adapt.reinforce.reading import log_probabilities, read
from underlay.adapt.reinforce.rounds import RolloutBatch, Rounds, evenly
from underlay.errors import UserError
from underlay.generate import Engine, Request, Sampling
from underlay.models import Decoder
from underlay.models.gemma import GemmaConfig
from underlay.models.parts import LoraLinear
from underlay.text import Tokenizer, render


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


@pytest.fixture(scope="module")
def begun(tokenizer: Tokenizer) -> dict[str, torch.Tensor]:
    return beginner(tokenizer).state_dict()


@pytest.fixture
def model(tokenizer: Tokenizer, begun: dict[str, torch.Tensor]) -> Decoder:
    fresh = make_model(tokenizer, context=CONTEXT)
    fresh.load_state_dict(begun)
    return fresh


def whole(made: Lesson, number: int = 0, rows: int = 32) -> RolloutBatch:
    batch = made.source.batch(number * rows, rows)
    assert isinstance(batch, RolloutBatch)
    return batch


def gradients(made: Lesson, batches: list[RolloutBatch]) -> tuple[list[torch.Tensor], dict[str, float]]:
    """As the loop takes them: sums, divided once."""
    made.model.zero_grad()
    count, told = 0.0, dict[str, float]()
    for batch in batches:
        loss = made.objective(made.model, batch)
        loss.sum.backward()
        count += float(loss.count)
        for name, one in {"loss": loss.sum.detach(), **loss.metrics}.items():
            told[name] = told.get(name, 0.0) + float(one)
    found = [p.grad / count for p in made.model.parameters() if p.grad is not None]
    return found, {name: one / count for name, one in told.items()}


def alike(one: list[torch.Tensor], other: list[torch.Tensor], within: float = 1e-4) -> None:
    assert len(one) == len(other) > 0
    size = max(float(gradient.abs().max()) for gradient in other)
    assert size > 0
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=within * size)


@pytest.mark.parametrize("name", ["grpo", "ppo"])
@pytest.mark.parametrize("reduction", ["dapo", "grpo", "dr_grpo"])
def test_rows_at_once_do_not_change_what_is_learned(
    model: Decoder, tokenizer: Tokenizer, tmp_path: Path, name: str, reduction: str
) -> None:
    made = taught(
        model,
        tokenizer,
        tmp_path,
        configured(1),
        name=name,
        reduction=reduction,
        beta=0.1,
        temperature=1.3,
        reward="length",
    )
    at_once, figures = gradients(made, [whole(made)])
    pieces = [made.source.batch(first, 4) for first in range(0, 32, 4)]
    apart, others = gradients(made, pieces)  # type: ignore[arg-type]
    alike(apart, at_once)
    assert others == pytest.approx(figures, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("how", ["all", "lora"])
def test_the_engine_and_the_trainer_say_the_same(
    model: Decoder, tokenizer: Tokenizer, tmp_path: Path, how: str, temperature: float
) -> None:
    if how == "lora":
        attach(model, LoraConfig(rank=4), 0)
        for module in model.modules():
            if isinstance(module, LoraLinear):
                torch.nn.init.normal_(module.lora_b, std=0.1)
    batch = whole(taught(model, tokenizer, tmp_path, configured(1), temperature=temperature))
    assert 0 < batch.facts["parity_max"] < 1e-4
    assert batch.facts["parity_mean"] <= batch.facts["parity_max"]


def test_what_is_learned_from_is_the_distribution_sampled_from(
    model: Decoder, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    made = taught(model, tokenizer, tmp_path, configured(1), temperature=1.7)
    batch = whole(made)
    logs = (model(batch.tokens) / 1.7).log_softmax(-1)
    wanted = logs.gather(-1, batch.targets[..., None])[..., 0].detach()
    active = batch.even > 0
    torch.testing.assert_close(batch.old[active], wanted[active], rtol=0, atol=1e-4)
    entropy = -(logs.exp() * logs).sum(-1)[active].mean()
    assert batch.facts["entropy"] == pytest.approx(float(entropy.detach()), abs=1e-4)
    _, told = gradients(made, [batch])
    assert told["moved"] == pytest.approx(0, abs=1e-6)
    assert told["clipped"] == 0


def capped(vocabulary: int) -> Decoder:
    """One whose logits stay within 5, so that they are divided by the temperature themselves."""
    sizes = {"width": 16, "depth": 1, "heads": 2, "kv_heads": 1, "hidden": 16, "context": 8}
    torch.manual_seed(0)
    return GemmaConfig(family="gemma2", vocabulary=vocabulary, logit_softcap=5.0, **sizes).build()


def test_the_golden_logits_have_their_log_probability_and_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    model, logits = capped(4), torch.tensor([4.0, 2.0, 0.0, -2.0])
    monkeypatch.setattr(model, "logits", lambda hidden: logits.expand(*hidden.shape[:-1], 4))
    tokens = torch.zeros(1, 2, dtype=torch.int64)
    said = read(model, tokens, tokens, torch.ones(1, 2, dtype=torch.bool), 2.0, torch.float32)
    assert said.log_probabilities.tolist() == pytest.approx([-0.440190] * 2, abs=1e-5)
    assert said.entropy.tolist() == pytest.approx([0.947537] * 2, abs=1e-5)


def test_capped_logits_are_divided_by_the_temperature_after_they_were_capped() -> None:
    model, hidden, targets = capped(9), 40 * torch.randn(5, 16), torch.arange(5)
    wanted = (model.logits(hidden) / 2).log_softmax(-1)[torch.arange(5), targets]
    torch.testing.assert_close(log_probabilities(model, hidden, targets, 2.0), wanted)


def test_answers_are_those_of_the_weights_as_they_are(model: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = taught(model, tokenizer, tmp_path, configured(1))
    first = whole(made)
    again = whole(taught(model, tokenizer, tmp_path / "other", configured(1)))
    assert torch.equal(first.tokens, again.tokens)
    second = whole(made, 1)
    assert first.tokens.shape != second.tokens.shape or not torch.equal(first.tokens, second.tokens)
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.mul_(1.5)
    later = whole(made, 2)
    assert later.facts["parity_max"] < 1e-4
    assert later.facts["reward"] != first.facts["reward"] or later.facts["entropy"] != first.facts["entropy"]


def test_rows_have_few_lengths_and_never_more_than_fit() -> None:
    assert [evenly(time, 200) for time in (1, 32, 33, 190, 193, 200)] == [32, 32, 64, 192, 200, 200]


def test_updates_learn_from_the_same_answers(model: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = taught(model, tokenizer, tmp_path, configured(4), updates=2)
    assert torch.equal(whole(made, 0).tokens, whole(made, 1).tokens)
    two = whole(made, 2)
    assert not torch.equal(whole(made, 1).old, two.old)
    assert len(made.source) == 4 * 8 * 2
    # A pass is over when every problem was answered and learned from in all updates.
    seen = [made.source.examples(sample)[0] for sample in range(64)]
    assert sorted(seen[:32]) == sorted(seen[32:]) == sorted([0, 1, 2, 3] * 8)


def test_batches_name_the_problems_that_they_answer(model: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = taught(model, tokenizer, tmp_path, configured(1), group=4)
    for sample in (0, 5, 33, 64):
        (number,) = made.source.examples(sample)
        text = tokenizer.decode(made.source.batch(sample, 1).tokens[0].tolist())
        assert f"colour is {COLOURS[number]}" in text


def test_a_round_is_kept_until_a_checkpoint_is_past_it(model: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = taught(model, tokenizer, tmp_path, configured(9), updates=2)
    first = whole(made, 0)

    def kept() -> list[int]:
        return sorted(int(path.stem.rpartition("-")[2]) for path in tmp_path.glob("round-*"))

    whole(made, 2)
    whole(made, 4)
    assert kept() == [0, 1, 2]  # no checkpoint: a killed run would begin anew
    (tmp_path / "step-00000003").mkdir()
    (tmp_path / "step-00000003" / "state.json").write_text("{}")
    from underlay.models.storage import write_tensors

    write_tensors({"x": torch.ones(1)}, tmp_path / "step-00000003" / "state.safetensors")
    whole(made, 6)
    assert kept() == [1, 2, 3]  # step 3 is within round 1
    path = next(tmp_path.glob("round-*-00000001*"))
    stored = Rounds(tmp_path, path.name.split("-")[1])
    assert stored.load(0) is None
    assert stored.load(1) is not None
    path.write_bytes(path.read_bytes()[:-7])
    assert stored.load(1) is None  # a disk's mistake is made again
    assert first.facts.keys() == whole(made, 6).facts.keys()


def test_rounds_of_other_weights_or_settings_are_not_taken(
    model: Decoder, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    def names(**settings: Any) -> set[str]:
        whole(taught(model, tokenizer, tmp_path, configured(1), **settings))
        return {path.name for path in tmp_path.glob("round-*")}

    first = names()
    assert names() == first
    second = names(temperature=0.5)
    assert not first & second  # and the others are gone
    with torch.no_grad():
        model.norm.weight[0] += 1e-3
    assert not names(temperature=0.5) & second


def test_unscorable_answers_change_nothing_for_the_others(model: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Every second answer cannot be scored; the others are learned from as if they had been alone."""
    count = 0

    def reward(problem: Problem, answer: str) -> float | None:
        nonlocal count
        count += 1
        return None if count % 2 else float(count % 4 == 0) + float(answer == problem.answer)

    made = taught(model, tokenizer, tmp_path, configured(1), reward=reward)
    batch = whole(made)
    assert batch.weights is not None
    assert batch.facts["unscorable"] == 0.5
    assert not batch.weights[::2].any()
    assert not batch.advantages[::2].any()
    found, told = gradients(made, [batch])
    assert math.isfinite(told["loss"])
    left = {name: getattr(batch, name)[1::2] for name in ("tokens", "targets", "weights", "even", "old", "advantages")}
    half = RolloutBatch(**{**left, "weights": left["weights"] / 2, "even": left["even"] / 2}, facts=batch.facts)
    assert batch.even.sum() == pytest.approx(32)
    alone, _ = gradients(made, [half])
    alike(found, alone)
    alike(gradients(made, [made.source.batch(first, 1) for first in range(32)])[0], found)  # type: ignore[misc]


def test_where_nothing_can_be_scored_the_run_says_so(model: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = taught(model, tokenizer, tmp_path, configured(1), reward=lambda *_: None)
    with pytest.raises(UserError, match="cannot tell what any answer of a step is worth"):
        whole(made)


def test_answers_that_are_cut_off_are_counted(model: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = taught(model, tokenizer, tmp_path, configured(1), max_tokens=1)
    batch = whole(made)
    assert batch.facts["truncated"] == 1.0
    assert batch.facts["length"] == 1.0
    (path,) = (tmp_path / "rollouts").iterdir()
    assert all(json.loads(line)["truncated"] for line in path.read_text().splitlines())


def test_answers_are_kept_with_what_they_earned(model: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = taught(model, tokenizer, tmp_path, configured(1), keep=2)
    facts = [whole(made, number).facts for number in range(3)]
    assert [path.name for path in sorted((tmp_path / "rollouts").iterdir())] == [
        "round-00000000.jsonl",
        "round-00000002.jsonl",
    ]
    rows = [json.loads(line) for line in (tmp_path / "rollouts" / "round-00000002.jsonl").read_text().splitlines()]
    assert [row["sample"] for row in rows] == list(range(64, 96))
    assert sum(row["reward"] for row in rows) / 32 == pytest.approx(facts[2]["reward"])
    for row in rows:
        assert row["reward"] == (row["answer"].strip() == row["prompt"].split()[-1])
        assert row["advantage"] == 0 or (row["advantage"] > 0) == (row["reward"] == 1)
    assert any(row["advantage"] > 0 for row in rows)


@pytest.mark.parametrize("reduction", ["dapo", "grpo", "dr_grpo"])
def test_the_loss_of_a_step_is_the_textbooks(
    model: Decoder, tokenizer: Tokenizer, tmp_path: Path, reduction: Reduction
) -> None:
    """All logits of each answer by itself, after the model has moved on, with means taken one by one."""
    made = taught(model, tokenizer, tmp_path, configured(1), reduction=reduction, beta=0.3, reward="length")
    batch = whole(made)
    assert batch.reference is not None
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    found, told = gradients(made, [batch])
    rows = []
    for row in range(len(batch.tokens)):
        active = batch.even[row] > 0
        logs = model(batch.tokens[row : row + 1])[0].log_softmax(-1)
        now = logs.gather(-1, batch.targets[row, :, None])[:, 0][active]
        ratio = (now - batch.old[row][active]).exp()
        advantage, apart = batch.advantages[row][active], batch.reference[row][active] - now
        gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        rows.append(-gain + 0.3 * (apart.exp() - apart - 1))
    assert len({len(row) for row in rows}) > 1
    wanted = {
        "dapo": torch.cat(rows).mean(),
        "grpo": torch.stack([row.mean() for row in rows]).mean(),
        "dr_grpo": torch.stack([row.sum() for row in rows]).mean() / 6,
    }[reduction]
    assert told["loss"] == pytest.approx(float(wanted.detach()), abs=1e-5)
    alike(found, list(torch.autograd.grad(wanted, [p for p in model.parameters() if p.requires_grad])), 1e-3)
    assert told["clipped"] > 0


def test_held_out_problems_are_answered_twice(model: Decoder, tokenizer: Tokenizer) -> None:
    found = examine(model, tokenizer, problems() * 8, named("matches"), 6)
    assert 0 <= found.figures["greedy_reward"] <= 1
    assert 0 < found.figures["sampled_reward"] < 1
    assert found.figures["unscorable"] == found.figures["truncated"] == 0
    assert len(found.samples) == 4
    prompts = [render(tokenizer, ask(f"colour is {colour}"), reply=True)[0] for colour in COLOURS]
    likeliest = Engine(model, tokenizer).generate([Request(prompt, 6, Sampling(0.0)) for prompt in prompts])
    assert [sample["text"] for sample in found.samples] == [answer.text for answer in likeliest]
    right = [answer.text.strip() == colour for answer, colour in zip(likeliest, COLOURS, strict=True)]
    assert found.figures["greedy_reward"] == sum(right) / 4
    assert found.samples[0]["text"].strip() in COLOURS
    assert float(found.samples[0]["reward"]) == (found.samples[0]["text"].strip() == COLOURS[0])
    with pytest.raises(UserError, match="no problem to examine by"):
        examine(model, tokenizer, problems(), named("matches"), CONTEXT)


def test_a_critic_says_nothing_at_first_and_leaves_no_trace(
    model: Decoder, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config, names = model.config, list(model.state_dict())
    made = taught(model, tokenizer, tmp_path, configured(1), name="ppo")
    batch = whole(made)
    assert batch.values is not None
    assert not batch.values.any()
    assert made.fresh == {name for name, _ in model.named_parameters() if name.startswith("task.")} != set()
    with_critic(model)
    assert without_critic(model).config == config
    assert list(model.state_dict()) == names


def test_ppo_takes_the_divergence_off_the_reward_of_each_token(
    model: Decoder, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    made = taught(model, tokenizer, tmp_path, configured(2), name="ppo", beta=0.5, trace=1.0)
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    batch = whole(made)
    assert batch.reference is not None
    assert batch.returns is not None
    lines = (tmp_path / "rollouts" / "round-00000000.jsonl").read_text().splitlines()
    for row, line in enumerate(lines):
        active = batch.even[row] > 0
        apart = (batch.old[row] - batch.reference[row])[active]
        wanted = json.loads(line)["reward"] - 0.5 * apart.flip(0).cumsum(0).flip(0)
        torch.testing.assert_close(batch.returns[row][active], wanted, rtol=0, atol=1e-4)
    assert (batch.old - batch.reference).abs().max() > 0.1


@pytest.mark.parametrize("how", ["all", "lora"])
def test_the_reference_stays_the_starting_model(model: Decoder, tokenizer: Tokenizer, tmp_path: Path, how: str) -> None:
    if how == "lora":
        attach(model, LoraConfig(rank=4), 0)
    made = taught(model, tokenizer, tmp_path, configured(2), beta=0.5)
    _, told = gradients(made, [whole(made)])
    assert told["divergence"] == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    batch = whole(made, 1)
    assert batch.reference is not None
    _, told = gradients(made, [batch])
    assert told["divergence"] > 1e-3
    assert told["moved"] == pytest.approx(0, abs=1e-6)


def test_what_cannot_be_learned_from_is_refused_in_one_line(
    model: Decoder, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"train\.batch_rows 30 is no multiple of group 8"):
        taught(model, tokenizer, tmp_path, configured(1, 30))
    with pytest.raises(UserError, match="no problem to learn from: longer than the context leaves room for: 4"):
        taught(model, tokenizer, tmp_path, configured(1), max_tokens=CONTEXT - 2)
    config = ReinforceConfig(reward="length")
    pair = [example(Preference(ask("sky"), "blue", "green"))]
    with pytest.raises(UserError, match=r"pairs.jsonl:1 is no example to be rewarded for: a preference, no problem"):
        lesson(model, tokenizer, pair, config, CONTEXT, 0, configured(1), tmp_path)
    with pytest.raises(UserError, match="exactly one of the two"):
        lesson(model, tokenizer, problems(), ReinforceConfig(), CONTEXT, 0, configured(1), tmp_path)
    with pytest.raises(ValueError, match="trace: grpo has no critic"):
        ReinforceConfig(trace=0.5)
    with pytest.raises(ValueError, match="group: grpo compares"):
        ReinforceConfig(group=1)
    assert ReinforceConfig(name="ppo", group=1, trace=0.5).group == 1
    with pytest.raises(UserError, match="short_rows"):
        whole(taught(model, tokenizer, tmp_path, configured(1))).cut(2)


def test_problems_that_do_not_fit_are_left_out_and_counted(
    model: Decoder, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    given = [*problems(), example(Problem(ask("colour " * 40), "blue"), 5)]
    settings = ReinforceConfig(reward="matches", max_tokens=6)
    source = Rollouts(model, tokenizer, given, settings, named("matches"), CONTEXT, 0, configured(1), tmp_path)
    assert source.left_out == {"longer than the context leaves room for": 1}
    assert {source.examples(sample)[0] for sample in range(32)} == {0, 1, 2, 3}
    assert source.batch(0, 32).tokens.shape[1] <= CONTEXT
