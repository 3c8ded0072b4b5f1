"""Heads learn: every kind, on both trunks, whatever way batches are cut, and as often as a run is stopped."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from head_world import EVERY, examples, learn, made, prepared
from torch import Tensor

from underlay.adapt.examples import Label
from underlay.adapt.heads import HeadConfig, examine, freeze_trunk, fresh, lesson, predict_answers, with_head
from underlay.adapt.heads.source import Order, TaskBatch
from underlay.adapt.lesson import Lesson
from underlay.errors import UserError
from underlay.generate.embed import embed
from underlay.models import Batch, Decoder, Encoder
from underlay.models.heads import TaskConfig
from underlay.models.storage import load_model, save_model

KINDS = ["encoder", "decoder"]
LEARNABLE = [(kind, what) for kind in KINDS for what in EVERY if (kind, what) != ("decoder", "questions")]
BEST = {
    "labels": "accuracy",
    "several": "accuracy",
    "numbers": "pearson",
    "pairs": "accuracy",
    "tags": "f1",
    "questions": "exact",
    "similar": "recall@1",
}


@pytest.mark.parametrize(("kind", "what"), LEARNABLE)
def test_a_few_examples_are_learned_by_heart(kind: str, what: str, tmp_path: Path) -> None:
    one = prepared(kind, what)
    similar = what == "similar"
    learn(one, tmp_path, 120, batch_rows=1 if similar else 4, micro_rows=1 if similar else 4)
    rows = one.source.batch(0, 1 if similar else len(EVERY[what]))
    loss = one.objective(one.model, rows)
    assert float(loss.sum.detach() / loss.count) < 0.05
    figures = examine(one.model, made(kind)[1], EVERY[what])
    assert figures[BEST[what]] > 0.99


@pytest.mark.parametrize("what", [what for what in EVERY if what != "similar"])
@pytest.mark.parametrize("kind", KINDS)
def test_padded_equals_unpadded(kind: str, what: str) -> None:
    one = prepared(kind, what)
    together = one.source.batch(0, 5)
    assert isinstance(together, TaskBatch)
    whole, gradient = loss_and_gradients(one, [together])
    alone, other = loss_and_gradients(one, [bare(one.source.batch(number, 1)) for number in range(5)])
    torch.testing.assert_close(whole, alone, rtol=1e-5, atol=1e-5)
    for name, value in gradient.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5, msg=name)


def test_padding_beside_similar_texts_changes_nothing() -> None:
    one = prepared("encoder", "similar")
    batch = one.source.batch(0, 1)
    assert isinstance(batch, TaskBatch)
    wider = torch.nn.functional.pad
    padded = TaskBatch(
        wider(batch.tokens, (0, 8)), batch.targets, present=wider(batch.present, (0, 8)), allowed=batch.allowed
    )
    torch.testing.assert_close(
        loss_and_gradients(one, [batch]), loss_and_gradients(one, [padded]), rtol=1e-4, atol=1e-5
    )


def bare(batch: Batch) -> TaskBatch:
    """A batch of one row without what pads it."""
    assert isinstance(batch, TaskBatch)
    assert batch.present is not None
    time = int(batch.present.sum())
    by_token = batch.weights is not None
    return TaskBatch(
        batch.tokens[:, :time],
        batch.targets[:, :time] if by_token else batch.targets,
        batch.weights[:, :time] if batch.weights is not None else None,
        present=batch.present[:, :time],
        types=None if batch.types is None else batch.types[:, :time],
        values=batch.values,
    )


def loss_and_gradients(one: Lesson, batches: list[TaskBatch]) -> tuple[Tensor, dict[str, Tensor]]:
    one.model.zero_grad()
    total = torch.zeros(())
    for batch in batches:
        loss = one.objective(one.model, batch)
        loss.sum.backward()
        total += loss.sum.detach()
    return total, {name: p.grad.clone() for name, p in one.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("what", "rows"), [("labels", 4), ("tags", 4), ("questions", 4), ("similar", 2)])
def test_how_many_rows_go_at_once_changes_nothing(what: str, rows: int, tmp_path: Path) -> None:
    ends = []
    for micro in (rows, 1):
        one = prepared("encoder", what, group=2)
        learn(one, tmp_path / str(micro), 6, batch_rows=rows, micro_rows=micro)
        ends.append(one.model.state_dict())
    # What softmax does not see has gradients of rounding alone, which Adam enlarges to whole steps.
    unseen = ["key.bias"] + ["blocks.1.mlp_out_norm.bias", "task.output.bias"] * (what == "questions")
    for name, tensor in ends[0].items():
        if not name.endswith(tuple(unseen)):
            torch.testing.assert_close(tensor, ends[1][name], rtol=1e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize("what", ["several", "tags", "similar"])
def test_stopped_and_resumed_equals_never_stopped(what: str, tmp_path: Path) -> None:
    class Stops:
        def __init__(self, source: object, after: int) -> None:
            self.source, self.left = source, after

        def batch(self, first: int, count: int) -> Batch:
            self.left -= 1
            if not self.left:
                raise InterruptedError
            return self.source.batch(first, count)

    whole = prepared("encoder", what)
    learn(whole, tmp_path / "whole", 8)
    first = prepared("encoder", what)
    stopping = Lesson(first.model, Stops(first.source, 7), first.objective, first.count)
    with pytest.raises(InterruptedError):
        learn(stopping, tmp_path / "other", 8, checkpoint_seconds=1e-9)
    again = prepared("encoder", what)
    learn(again, tmp_path / "other", 8)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    assert not torch.equal(*(one.model.state_dict()["blocks.0.mlp.up.weight"] for one in (whole, first)))


def test_every_row_is_read_once_in_a_pass_and_lengths_stand_together() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 200, (640,), generator=generator).numpy()
    order, other = Order(lengths, 8, 0), Order(lengths, 8, 1)
    rows = order.rows(0, 640)
    assert sorted(rows.tolist()) == list(range(640))
    assert rows.tolist() != other.rows(0, 640).tolist()
    assert rows.tolist() != order.rows(640, 640).tolist()
    assert [int(order.rows(number, 1)[0]) for number in range(100, 110)] == rows[100:110].tolist()

    def filled(rows: torch.Tensor) -> float:
        found = torch.from_numpy(lengths[rows]).reshape(-1, 8)
        return float(found.sum() / (found.max(1).values * 8).sum())

    assert filled(rows) > 0.85 > 0.65 > filled(torch.randperm(640, generator=generator).numpy())
    # Steps are not read from the shortest to the longest.
    means = lengths[rows[:128]].reshape(16, 8).mean(1)
    assert means.tolist() != sorted(means.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_goes_on_the_trunk_as_it_was(kind: str) -> None:
    base, _ = made(kind)
    task = TaskConfig(kind="text", labels=("a", "b"))
    model = with_head(base, task, seed=0)
    old, new = dict(base.named_parameters()), dict(model.named_parameters())
    names = {"task.output.weight"}
    if kind == "encoder":
        names |= {"task.output.bias", "pooler.weight", "pooler.bias"}
    assert fresh(base, model) == names
    assert all(torch.equal(new[name], old[name]) for name in new.keys() - names)
    assert not any(name.startswith(("masked.", "head.")) for name in new)
    assert 0.01 < float(new["task.output.weight"].std()) < 0.03
    assert torch.equal(with_head(base, task, 0).task.output.weight, model.task.output.weight)
    assert not torch.equal(with_head(base, task, 1).task.output.weight, model.task.output.weight)
    assert type(model) is (Encoder if kind == "encoder" else Decoder)


def test_only_heads_for_texts_have_a_pooler() -> None:
    base, _ = made("encoder")
    for task in (TaskConfig(kind="token", labels=("a", "b")), TaskConfig(kind="span")):
        assert fresh(base, with_head(base, task, 0)) == {"task.output.weight", "task.output.bias"}
    model = with_head(base, TaskConfig(kind="text", labels=("a", "b")), 0, pooler=False)
    assert fresh(base, model) == {"task.output.weight", "task.output.bias"}


def test_a_head_for_the_same_task_stays_and_another_does_not() -> None:
    base, _ = made("encoder")
    first = with_head(base, TaskConfig(kind="text", labels=("a", "b")), seed=0)
    assert fresh(first, with_head(first, TaskConfig(kind="text", labels=("a", "b")), seed=1)) == frozenset()
    other = with_head(first, TaskConfig(kind="text", labels=("a", "c")), seed=1)
    assert fresh(first, other) == {"task.output.weight", "task.output.bias"}


def test_a_decoder_with_a_matrix_of_its_own_leaves_it_behind() -> None:
    _, tokenizer = made("decoder")
    from head_world import decoder

    model = with_head(decoder(tokenizer, tied=False), TaskConfig(kind="text", labels=("a", "b")), seed=0)
    assert isinstance(model, Decoder)
    assert model.head is None


def test_a_frozen_trunk_stays_bit_for_bit(tmp_path: Path) -> None:
    base, tokenizer = made("encoder")
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    one = lesson(base, tokenizer, EVERY["labels"], HeadConfig(frozen=True), 40, seed=0)
    head = one.model.state_dict()["task.output.weight"].clone()
    learn(one, tmp_path, 5)
    assert all(torch.equal(base.state_dict()[name], tensor) for name, tensor in before.items())
    assert not torch.equal(one.model.state_dict()["task.output.weight"], head)
    freeze_trunk(one.model)
    assert {n for n, p in one.model.named_parameters() if p.requires_grad} == {"task.output.weight", "task.output.bias"}
    assert one.fresh == {"task.output.weight", "task.output.bias", "pooler.weight", "pooler.bias"}


@pytest.mark.parametrize("what", ["labels", "several", "numbers", "pairs"])
@pytest.mark.parametrize(("kind", "pooler"), [("encoder", True), ("encoder", False), ("decoder", True)])
def test_what_a_frozen_trunk_read_once_is_what_it_reads(kind: str, pooler: bool, what: str) -> None:
    one = prepared(kind, what, frozen=True, pooler=pooler)
    batch = one.source.batch(0, 4)
    assert isinstance(batch, TaskBatch)
    assert batch.vectors is not None
    found, expected = (loss_and_gradients(one, [rows]) for rows in (batch, replace(batch, vectors=None)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found[1].keys() == {n for n, p in one.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_keeps_its_units_on_disk(kind: str, tmp_path: Path) -> None:
    from underlay.adapt.heads import predict_values

    one = prepared(kind, "numbers")
    tokenizer = made(kind)[1]
    learn(one, tmp_path / "run", 120)
    save_model(one.model, tmp_path)
    found = predict_values(load_model(tmp_path), tokenizer, ["good", "bad"])
    assert found == pytest.approx([1030, 970], abs=3)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_found_where_they_stand(kind: str, tmp_path: Path) -> None:
    one = prepared(kind, "questions")
    learn(one, tmp_path, 200)
    tokenizer = made(kind)[1]
    assert examine(one.model, tokenizer, EVERY["questions"])["exact"] == 1
    asked = [example.body for example in EVERY["questions"]]
    found = predict_answers(one.model, tokenizer, [(body.question, body.context) for body in asked])
    right = [(*body.answers[0], 1) if body.answers else ("", 0, -1) for body in asked]
    assert [(answer.text, answer.start) for answer in found] == [(text, at) for text, at, _ in right]
    assert all(answer.margin * sign > 0 for answer, (_, _, sign) in zip(found, right, strict=True))
    assert all(answer.end == answer.start + len(answer.text) for answer in found)


def test_a_label_that_was_never_learned_counts_as_wrong(tmp_path: Path) -> None:
    one = prepared("encoder", "labels")
    learn(one, tmp_path, 80)
    test = examples(Label("good", ("up",)), Label("bad", ("sideways",)))
    figures = examine(one.model, made("encoder")[1], test)
    assert (figures["accuracy"], figures["unknown"]) == (0.5, 1)


def test_vectors_stay_pooled_as_they_were_learned(tmp_path: Path) -> None:
    one = prepared("encoder", "similar", pooling="cls")
    learn(one, tmp_path / "run", 60, batch_rows=1, micro_rows=1)
    save_model(one.model, tmp_path)
    again, tokenizer = load_model(tmp_path), made("encoder")[1]
    assert torch.equal(embed(again, tokenizer, ["good"]), embed(one.model, tokenizer, ["good"], "cls"))
    assert examine(again, tokenizer, EVERY["similar"])["recall@1"] == 1
    with pytest.raises(UserError, match="a llama gives its last token's state alone"):
        prepared("decoder", "similar", pooling="mean")
