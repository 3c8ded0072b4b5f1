"""Learning from preferences: where each loss begins, where it goes, and that the run can stop and go on."""

import math
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import logsigmoid

from adapt.preferring import ask, example, examples, make_model, make_tokenizer, ten_pairs
from underlay.adapt.examples import Conversation, Preference
from underlay.adapt.lesson import Lesson
from underlay.adapt.preference import DPO, KTO, PreferenceConfig, RewardConfig, lesson, measure, reference
from underlay.adapt.preference.rows import log_probabilities
from underlay.adapt.preference.source import Judgements, Preferences
from underlay.adapt.preference.starting import fingerprint
from underlay.errors import UserError
from underlay.models import Decoder
from underlay.progress import Progress, silent
from underlay.text import Message, Tokenizer
from underlay.train import Outcome, TrainConfig, train

Loss = Literal["dpo", "ipo", "hinge", "kto"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


def prepared(tokenizer: Tokenizer, folder: Path, model: Decoder | None = None, **settings: Any) -> Lesson:
    model = model or make_model(tokenizer)
    config = PreferenceConfig(**settings)
    return lesson(model, tokenizer, examples(folder), config, 96, 0, torch.float32, folder)


def learn(made: Lesson, steps: int, rate: float = 3e-3) -> None:
    optimizer = torch.optim.AdamW(made.model.parameters(), rate, weight_decay=0)
    count = len(made.source)
    for step in range(steps):
        loss = made.objective(made.model, made.source.batch(step * count, count))
        (loss.sum / loss.count).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_dpo_begins_at_the_logarithm_of_two(tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = prepared(tokenizer, tmp_path)
    loss = made.objective(made.model, made.source.batch(0, 10))
    assert loss.count == made.count == 10
    assert abs(float(loss.sum.detach() / loss.count) - math.log(2)) < 1e-6


@pytest.mark.parametrize(("name", "first"), [("ipo", 25.0), ("hinge", 1.0), ("kto", 0.5)])
def test_the_others_begin_where_nothing_is_preferred(
    tokenizer: Tokenizer, tmp_path: Path, name: Loss, first: float
) -> None:
    made = prepared(tokenizer, tmp_path, loss=name)
    assert measure(made.model, made.source, made.objective, len(made.source))["loss"] == pytest.approx(first, abs=1e-4)


def test_dpo_equals_a_plain_one_with_its_gradients(tokenizer: Tokenizer) -> None:
    """Two models, two forward passes each over padded rows, all logits: the textbook's way."""
    model, start = make_model(tokenizer, seed=1), make_model(tokenizer, seed=2)
    source = Preferences(ten_pairs(), tokenizer, 96, 0)
    with torch.no_grad():
        at_first, _ = log_probabilities(start, source.gather(range(10)), torch.float32)
    found = DPO(beta=0.3)(model, source.referred(at_first).gather(range(10)))

    def plain(one: Decoder, which: int) -> torch.Tensor:
        sums = []
        for row in source.rows:
            ids = torch.tensor([*row.prompt, *row.answers[which]])
            logs = one(ids[None, :-1])[0].log_softmax(-1)
            sums.append(logs.gather(1, ids[1:, None])[len(row.prompt) - 1 :].sum())
        return torch.stack(sums)

    with torch.no_grad():
        base = plain(start, 0) - plain(start, 1)
    chosen, rejected = plain(model, 0), plain(model, 1)
    expected = -logsigmoid(0.3 * (chosen - rejected - base)).sum()
    torch.testing.assert_close(found.sum, expected, rtol=1e-5, atol=1e-5)
    of = list(model.parameters())
    for one, other in zip(torch.autograd.grad(found.sum, of), torch.autograd.grad(expected, of), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * max(1.0, float(other.abs().max())))
    assert float(found.metrics["margin"]) == pytest.approx(
        float((0.3 * (chosen - rejected - base)).sum().detach()), abs=1e-3
    )
    lengths = [[len(row.answers[which]) for row in source.rows] for which in (0, 1)]
    assert found.metrics["length/chosen"] == sum(lengths[0])
    assert found.metrics["length/rejected"] == sum(lengths[1])
    a_token = sum(float(one) / length for one, length in zip(chosen.detach(), lengths[0], strict=True))
    assert float(found.metrics["log_probability"]) == pytest.approx(a_token, abs=1e-3)


def test_ipo_is_of_means_over_tokens(tokenizer: Tokenizer) -> None:
    model, source = make_model(tokenizer), Preferences(ten_pairs(), tokenizer, 96, 0)
    with torch.no_grad():
        sums, _ = log_probabilities(model, source.gather(range(10)), torch.float32)
    known = sums - torch.tensor([3.0, -1.0])
    found = DPO("ipo", beta=0.5)(model, source.referred(known).gather(range(10)))
    deltas = [3 / len(row.answers[0]) + 1 / len(row.answers[1]) for row in source.rows]
    assert float(found.sum.detach()) == pytest.approx(sum((delta - 1) ** 2 for delta in deltas), abs=1e-4)


@pytest.mark.parametrize("name", ["dpo", "ipo", "hinge", "kto"])
def test_each_loss_learns_ten_pairs_and_goes_where_it_should(tokenizer: Tokenizer, tmp_path: Path, name: Loss) -> None:
    made = prepared(tokenizer, tmp_path, loss=name, beta=0.5 if name == "ipo" else 0.1)
    learn(made, 80)
    figures = measure(made.model, made.source, made.objective, len(made.source))
    assert figures["accuracy"] == 1.0
    assert figures["loss"] < {"dpo": 0.2, "ipo": 0.05, "hinge": 0.1, "kto": 0.2}[name]
    if name == "ipo":  # 1 / (2 beta) apart, no further
        assert figures["margin"] / 0.5 == pytest.approx(1.0, abs=0.25)
    else:
        assert figures["margin"] > 1.0


def test_more_smoothing_leaves_less_between_answers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    margins = []
    for smoothing in (0.0, 0.3):
        made = prepared(tokenizer, tmp_path, smoothing=smoothing)
        learn(made, 60)
        margins.append(measure(made.model, made.source, made.objective, 10)["margin"])
    assert margins[1] < 1.5 < margins[0]  # ln(0.7 / 0.3) is 0.85


def test_ktos_other_answers_are_compared_with_and_not_learned(tokenizer: Tokenizer) -> None:
    model = make_model(tokenizer)
    source = Judgements(ten_pairs(), tokenizer, 96, 0, group=4)
    with torch.no_grad():
        said, _ = log_probabilities(model, source.gather(range(20)), torch.float32)
    moved = said.clone()
    moved[:, 1] -= 2.0  # the model has moved by 2 nats on the whole
    gradients, points = [], []
    for known in (said, moved):
        found = KTO(4)(model, source.referred(known).batch(0, 2))
        points.append(float(found.metrics["divergence"].detach() / found.count))
        gradients.append(torch.autograd.grad(found.sum, model.embedding.weight)[0])
    assert points == pytest.approx([0.0, 2.0], abs=1e-4)
    # A point away from the ratios makes all gradients flatter, by the same factor, where all ratios are 0.
    flatter = torch.sigmoid(torch.tensor(0.2)) * torch.sigmoid(torch.tensor(-0.2)) / 0.25
    torch.testing.assert_close(gradients[1], flatter * gradients[0], rtol=1e-3, atol=1e-6)
    assert gradients[0].any()


def test_the_reference_is_computed_once_for_what_it_follows_from(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, source = make_model(tokenizer), Preferences(ten_pairs(), tokenizer, 96, 0)
    monkeypatch.setattr("underlay.adapt.preference.starting._TOKENS", 100)  # several batches
    told: list[float] = []
    found = reference(model, source, torch.float32, tmp_path, lambda done, total, **_: told.append(done))
    assert len(told) > 2
    assert told[-1] == 10
    expected, _ = log_probabilities(model, source.gather(range(10)), torch.float32)
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=2e-5)

    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-9])  # a disk's mistake is computed again
    assert torch.equal(reference(model, source, torch.float32, tmp_path), found)

    monkeypatch.setattr("underlay.adapt.preference.starting.compute", lambda *_: pytest.fail("computed again"))
    assert torch.equal(reference(model, source, torch.float32, tmp_path), found)
    before = fingerprint(model, source, torch.float32)
    assert fingerprint(model, Preferences(ten_pairs()[1:], tokenizer, 96, 0), torch.float32) != before
    assert fingerprint(model, source, torch.bfloat16) != before
    with torch.no_grad():
        model.norm.weight[0] += 1e-3
    assert fingerprint(model, source, torch.float32) != before


@pytest.mark.parametrize("name", ["dpo", "kto", "reward"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tokenizer: Tokenizer, tmp_path: Path, name: str) -> None:
    config = TrainConfig(steps=6, context=96, batch_rows=4, micro_rows=2, precision="float32", checkpoint_seconds=1e-6)
    settings = {"dpo": PreferenceConfig(), "kto": PreferenceConfig(loss="kto", group=2), "reward": RewardConfig()}[name]
    given = examples(tmp_path)

    def run(folder: Path, progress: Progress = silent) -> Outcome:
        made = lesson(make_model(tokenizer), tokenizer, given, settings, 96, 0, torch.float32, folder)
        return train(made.model, made.objective, made.source, config, folder, progress)

    def stop(done: float, total: float | None, **facts: float | str) -> None:
        if done >= 3:
            raise InterruptedError

    whole = run(tmp_path / "a")
    with pytest.raises(InterruptedError):
        run(tmp_path / "b", stop)
    ended = run(tmp_path / "b")
    assert [row["step"] for row in ended.journal] == [1, 2, 3, 4, 5, 6]
    for key, value in whole.weights.items():
        assert torch.equal(value, ended.weights[key]), key
    (*_, last) = whole.journal
    assert {"margin", "accuracy"} <= last.keys()


def test_settings_that_a_loss_does_not_heed_are_refused() -> None:
    with pytest.raises(ValueError, match="smoothing: the loss ipo has none"):
        PreferenceConfig(loss="ipo", smoothing=0.1)
    with pytest.raises(ValueError, match="desirable: the loss dpo has none"):
        PreferenceConfig(desirable=2.0)
    assert PreferenceConfig(loss="kto", undesirable=2.0).undesirable == 2.0


def test_other_examples_are_refused_in_one_line(tokenizer: Tokenizer, tmp_path: Path) -> None:
    talks = examples(tmp_path, [example(Conversation((*ask("sky"), Message("assistant", "blue"))))])
    for settings in (PreferenceConfig(), PreferenceConfig(loss="kto"), RewardConfig()):
        with pytest.raises(UserError, match=r"pairs\.jsonl:1 is no example to learn preferences from: a conversation"):
            lesson(make_model(tokenizer), tokenizer, talks, settings, 96, 0, torch.float32, tmp_path)


def test_an_answer_that_is_missing_is_damage(tmp_path: Path) -> None:
    given = examples(tmp_path, [example(Preference(ask("sky"), "blue", "green"))])
    table = pq.read_table(given.path)
    body = table.column("body").to_pylist()[0].replace(', "rejected": "green"', "")
    pq.write_table(table.set_column(2, "body", [[body]]), given.path)
    with pytest.raises(UserError, match="damaged: example 0 is no preference"):
        Preferences(type(given)(tmp_path), make_tokenizer(), 96, 0)
