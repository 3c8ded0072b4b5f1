"""Learning from rewards: what only one behaviour earns is learned, and a run can stop and go on."""

from pathlib import Path

import pytest
import torch

from adapt.reinforcing import beginner, configured, make_tokenizer, problems, run, taught
from underlay.adapt.lora import LoraConfig, attach
from underlay.adapt.reinforce import examine, named, without_critic
from underlay.generate import Engine
from underlay.progress import Progress, silent
from underlay.text import Tokenizer
from underlay.train import Outcome


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_the_only_answer_that_earns_anything_is_learned(tokenizer: Tokenizer, tmp_path: Path, name: str) -> None:
    model, config = beginner(tokenizer), configured(100, 64)
    before = examine(model, tokenizer, problems() * 8, named("matches"), 6).figures["sampled_reward"]
    assert before < 0.5
    made = taught(model, tokenizer, tmp_path, config, name=name)
    found = run(made, tmp_path, config)
    after = examine(without_critic(model), tokenizer, problems() * 8, named("matches"), 6).figures
    assert after["greedy_reward"] == 1.0
    assert after["sampled_reward"] > 0.9
    rows = list(found.journal)
    assert rows[0]["reward"] < 0.5 < 0.9 < rows[-1]["reward"]
    assert all(row["parity_max"] < 1e-3 for row in rows)
    Engine(model, tokenizer)  # what was learned serves as any model


def test_a_critic_comes_to_foretell_what_answers_earn(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model, config = beginner(tokenizer), configured(60, 64)
    made = taught(model, tokenizer, tmp_path, config, name="ppo", value_weight=2.0)
    rows = list(run(made, tmp_path, config).journal)
    assert rows[0]["explained"] <= 0
    assert max(row["explained"] for row in rows) > 0.4


def test_low_rank_changes_learn_it_over_frozen_weights(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model, config = beginner(tokenizer), configured(50, 64)
    with torch.no_grad():
        model.norm.weight.mul_(2)  # a beginner's frozen head could not be certain of anything
    attach(model, LoraConfig(rank=8), 0)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    made = taught(model, tokenizer, tmp_path, config, reward=lambda _, answer: answer == "green", beta=0.01)
    found = list(run(made, tmp_path, config).journal)
    assert found[0]["reward"] < 0.5 < 0.8 < sum(row["reward"] for row in found[-5:]) / 5
    assert found[-1]["divergence"] > 0.1
    assert all(row["parity_max"] < 1e-3 for row in found)
    for name, parameter in model.named_parameters():
        assert name not in frozen or torch.equal(parameter, frozen[name])


def test_a_dear_divergence_keeps_the_model_near_its_start(tokenizer: Tokenizer, tmp_path: Path) -> None:
    ended = []
    for beta in (0.001, 3.0):
        model, config = beginner(tokenizer), configured(20, 32)
        made = taught(model, tokenizer, tmp_path / str(beta), config, beta=beta)
        ended.append(list(run(made, tmp_path / str(beta), config).journal)[-1]["divergence"])
    assert ended[1] < 0.2 * ended[0]


@pytest.mark.parametrize(
    ("name", "updates", "lora", "stop"),
    [("grpo", 1, False, 3), ("grpo", 3, False, 6), ("ppo", 2, False, 4), ("grpo", 2, True, 4), ("ppo", 1, True, 3)],
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    tokenizer: Tokenizer, tmp_path: Path, name: str, updates: int, lora: bool, stop: int
) -> None:
    """Also where it stops between two updates from the same answers."""
    config = configured(7, 16, 8, checkpoint_seconds=1e-6)
    start = beginner(tokenizer).state_dict()

    def go(folder: Path, progress: Progress = silent) -> Outcome:
        model = beginner(tokenizer)
        model.load_state_dict(start)
        if lora:
            attach(model, LoraConfig(rank=4), 0)
        made = taught(model, tokenizer, folder, config, name=name, updates=updates, beta=0.05)
        return run(made, folder, config, progress)

    def stopped(done: float, total: float | None, **facts: float | str) -> None:
        if done >= stop:
            raise InterruptedError

    whole = go(tmp_path / "a")
    with pytest.raises(InterruptedError):
        go(tmp_path / "b", stopped)
    ended = go(tmp_path / "b")
    for key, value in whole.weights.items():
        assert torch.equal(value, ended.weights[key]), key
    assert [row["reward"] for row in whole.journal] == [row["reward"] for row in ended.journal]
    kept = [{path.name: path.read_text() for path in (tmp_path / run_ / "rollouts").iterdir()} for run_ in "ab"]
    assert kept[0] == kept[1]
    assert kept[0]
