"""Embeddings are moved as the formulas say, and learning from them is what the loop would do by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from head_world import learn, prepared
from torch import Tensor

from underlay.adapt.conversations import Conversations
from underlay.adapt.examples import Conversation, Example
from underlay.adapt.heads.objectives import text_scores, text_vectors
from underlay.adapt.heads.source import TaskBatch
from underlay.adapt.lesson import Lesson
from underlay.adapt.robust import Adversarial, embedded, worst_move
from underlay.models import Decoder, Encoder, LlamaConfig
from underlay.text import Message, train_tokenizer
from underlay.train import CausalLM

EPSILON = 0.2


def clean_rows(one: Lesson, batch: TaskBatch) -> Tensor:
    assert isinstance(one.model, Decoder | Encoder)
    with torch.no_grad():
        return one.model.embedding(batch.tokens)


def by_hand(one: Lesson, batch: TaskBatch, row: int) -> Tensor:
    """The move of one row, read by itself and without padding, through the head's own equation."""
    model = one.model
    assert isinstance(model, Encoder)
    assert batch.present is not None
    time = int(batch.present[row].sum())
    rows = model.embedding(batch.tokens[row : row + 1, :time]).detach().requires_grad_()
    x = rows + model.positions.weight[:time] + model.types.weight[0]
    x = model.embedding_norm(x)
    for block in model.blocks:
        x = block(x, None, None)
    present = torch.ones(1, time, dtype=torch.bool)
    scores = text_scores(model, text_vectors(model, x, present))
    torch.nn.functional.cross_entropy(scores, batch.targets[row]).backward()
    assert rows.grad is not None
    return EPSILON * rows.detach().norm() * rows.grad[0] / rows.grad.norm()


def test_the_move_equals_one_made_by_hand_and_padding_stays() -> None:
    one = prepared("encoder", "labels")
    batch = one.source.batch(0, 4)
    assert isinstance(batch, TaskBatch)
    assert batch.present is not None
    move = worst_move(one.objective, one.model, batch, EPSILON)
    assert all(parameter.grad is None for parameter in one.model.parameters())
    for row in range(4):
        time = int(batch.present[row].sum())
        torch.testing.assert_close(move[row, :time], by_hand(one, batch, row), rtol=1e-3, atol=1e-5)
        assert not move[row, time:].any()


@pytest.mark.parametrize(("kind", "what"), [("encoder", "labels"), ("decoder", "labels"), ("encoder", "tags")])
def test_a_small_move_raises_the_loss_as_the_gradient_says(kind: str, what: str) -> None:
    one = prepared(kind, what)
    batch = one.source.batch(0, 1)
    assert isinstance(batch, TaskBatch)
    with torch.no_grad():
        clean = float(one.objective(one.model, batch).sum)
    risen = []
    for epsilon in (1e-3, 2e-3, 4e-3):
        move = worst_move(one.objective, one.model, batch, epsilon)
        with torch.no_grad(), embedded(one.model, lambda rows, move=move: rows + move):
            risen.append(float(one.objective(one.model, batch).sum) - clean)
    assert 0 < risen[0] < risen[1] < risen[2]
    assert risen[1] / risen[0] == pytest.approx(2, rel=0.1)
    found: list[Tensor] = []

    def leaf(rows: Tensor) -> Tensor:
        found.append(rows.detach().requires_grad_())
        return found[0]

    with embedded(one.model, leaf):
        one.objective(one.model, batch).sum.backward()
    assert found[0].grad is not None
    length = clean_rows(one, batch)[batch.present].norm()
    assert risen[0] == pytest.approx(float(1e-3 * length * found[0].grad.norm()), rel=0.1)


def test_several_ascents_stay_within_the_ball_and_find_what_is_worse() -> None:
    one = prepared("encoder", "labels")
    batch = one.source.batch(0, 4)
    assert isinstance(batch, TaskBatch)
    losses = []
    for ascents in (1, 5):
        move = worst_move(one.objective, one.model, batch, 0.5, ascents)
        reached = (clean_rows(one, batch) * batch.present[..., None]).flatten(1).norm(dim=1)
        assert (move.flatten(1).norm(dim=1) <= 0.5 * reached * (1 + 1e-5)).all()
        with torch.no_grad(), embedded(one.model, lambda rows, move=move: rows + move):
            losses.append(float(one.objective(one.model, batch).sum))
    assert losses[1] > losses[0]


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_clean_and_moved_are_learned_in_their_shares(kind: str) -> None:
    one = prepared(kind, "labels")
    batch = one.source.batch(0, 4)
    robust = Adversarial(one.objective, EPSILON, weight=3.0)
    move = worst_move(one.objective, one.model, batch, EPSILON)
    clean = one.objective(one.model, batch)
    with embedded(one.model, lambda rows: rows + move):
        moved = one.objective(one.model, batch)
    ((clean.sum + 3 * moved.sum) / 4).backward()
    wanted = {name: p.grad.clone() for name, p in one.model.named_parameters() if p.grad is not None}
    one.model.zero_grad()
    found = robust(one.model, batch)
    found.sum.backward()
    assert float(found.count) == 4
    assert float(found.metrics["attacked"]) > float(clean.sum.detach())
    for name, parameter in one.model.named_parameters():
        if name in wanted:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-5, atol=1e-6, msg=name)
    with torch.no_grad():
        assert float(robust(one.model, batch).sum) == pytest.approx(float(clean.sum.detach()))


def test_packed_conversations_are_learned_with_moved_embeddings(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["say a number and I will say it again"] * 5, 280)
    torch.manual_seed(0)
    model = LlamaConfig(vocabulary=tokenizer.size, width=32, depth=2, heads=2, context=64).build()
    told = [(Message("user", f"say {n}"), Message("assistant", f"it is {n}")) for n in range(12)]
    examples = [Example(Conversation(turns), "here", line, "CC0-1.0") for line, turns in enumerate(told, 1)]
    source = Conversations(examples, tokenizer, 64, 0)
    lesson = Lesson(model, source, Adversarial(CausalLM(), 0.1), len(examples))
    outcome = learn(lesson, tmp_path, 12, context=64)
    first, last = next(iter(outcome.journal)), outcome.journal.tail(1)[0]
    assert last["loss"] < first["loss"]
    assert last["attacked"] > 0


def test_how_many_rows_go_at_once_changes_nothing(tmp_path: Path) -> None:
    ends = []
    for micro in (4, 1):
        one = prepared("encoder", "labels")
        learn(replace(one, objective=Adversarial(one.objective, EPSILON)), tmp_path / str(micro), 4, micro_rows=micro)
        ends.append(one.model.state_dict())
    for name, tensor in ends[0].items():
        if not name.endswith("key.bias"):
            torch.testing.assert_close(tensor, ends[1][name], rtol=1e-3, atol=5e-5, msg=name)
