"""Distillation: the formula, a teacher that stays as it is, and a student that comes to agree."""

from pathlib import Path

import pytest
import torch
from torch import nn

from underlay.adapt import distil
from underlay.adapt.distil import Distil
from underlay.models import Batch, Decoder, LlamaConfig
from underlay.train import CausalLM, TrainConfig, train
from underlay.train.config import OptimizerConfig

TOKENS = torch.randint(40, (3, 13), generator=torch.Generator().manual_seed(1))
WEIGHTS = (torch.rand(3, 12, generator=torch.Generator().manual_seed(2)) < 0.6).float()
SEGMENTS = (torch.arange(12) // 5)[None].expand(3, 12)
BATCH = Batch(TOKENS[:, :-1], TOKENS[:, 1:], WEIGHTS, segments=SEGMENTS)


def fresh(seed: int, width: int = 32) -> Decoder:
    torch.manual_seed(seed)
    sizes = {"vocabulary": 40, "context": 16, "width": width, "depth": 2, "heads": 2, "kv_heads": 1, "hidden": 48}
    model = LlamaConfig(**sizes, tied=False).build()
    assert model.head is not None
    with torch.no_grad():
        model.head.weight.mul_(20)  # so that it says something
    return model


@pytest.mark.parametrize("chunk", [1, 1 << 25])
def test_the_loss_is_that_of_the_formula(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distil, "_CHUNK_BYTES", chunk)
    student, teacher = fresh(0), fresh(1, width=64)
    found = Distil(teacher, 2.0, 0.3)(student, BATCH)
    from underlay.models.parts import masks

    mask, positions = masks.isolated(SEGMENTS)
    own, told = (model(BATCH.tokens, positions, mask) for model in (student, teacher))
    hard = nn.functional.cross_entropy(own.flatten(0, 1), BATCH.targets.flatten(), reduction="none").view(3, 12)
    p, q = (told.detach() / 2).softmax(-1), (own / 2).softmax(-1)
    soft = (p * (p.log() - q.log())).sum(-1)
    expected = (WEIGHTS * (0.7 * hard + 0.3 * 4 * soft)).sum()
    torch.testing.assert_close(found.sum, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.metrics["divergence"], (WEIGHTS * soft).sum().detach(), rtol=1e-4, atol=1e-5)
    assert found.count == WEIGHTS.sum()
    parameters = list(student.parameters())
    ours, theirs = (torch.autograd.grad(loss, parameters, retain_graph=True) for loss in (found.sum, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_without_a_share_it_is_plain_learning_and_from_oneself_there_is_nothing_to_learn() -> None:
    student, teacher = fresh(0), fresh(1)
    plain = CausalLM()(student, BATCH)
    torch.testing.assert_close(Distil(teacher, 3.0, 0.0)(student, BATCH).sum, plain.sum, rtol=1e-5, atol=1e-5)
    own = Distil(fresh(0), 3.0, 1.0)(student, BATCH)
    assert abs(float(own.sum)) < 1e-4
    own.sum.backward()
    assert max(float(p.grad.abs().max()) for p in student.parameters() if p.grad is not None) < 1e-4


class Fixed:
    def batch(self, first: int, count: int) -> Batch:
        rows = torch.arange(first, first + count) % 3
        return Batch(BATCH.tokens[rows], BATCH.targets[rows], BATCH.weights[rows], segments=SEGMENTS[rows])  # type: ignore[index]


def test_a_student_comes_to_agree_with_a_teacher_of_another_size(tmp_path: Path) -> None:
    student, teacher = fresh(0), fresh(1, width=64)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    config = TrainConfig(
        steps=150,
        context=12,
        batch_rows=3,
        micro_rows=3,
        compile=False,
        precision="float32",
        optimizer=OptimizerConfig(muon=False, adam_lr=0.01),
    )
    outcome = train(student, Distil(teacher, 1.0, 1.0), Fixed(), config, tmp_path)
    told = [row["divergence"] for row in outcome.journal]
    assert told[0] > 0.5
    assert told[-1] < 0.02
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
