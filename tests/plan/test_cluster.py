"""Plans for GPUs: held against what the trainer really keeps, against a published run, and against the docs."""

import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from underlay.cli import app
from underlay.errors import UserError
from underlay.models import LlamaConfig
from underlay.models.parts.loss import CHUNK_BYTES
from underlay.plan.cluster import GPUS, Layout, estimate
from underlay.train.config import OptimizerConfig
from underlay.train.optimizer import Optimizer
from underlay.train.spread import Spread

SHAPE = LlamaConfig(vocabulary=100, context=64, width=64, depth=2, heads=2, kv_heads=2, hidden=128)
SCALE = Path(__file__).parents[2] / "docs" / "scale.md"


@pytest.mark.parametrize("muon", [True, False])
def test_slices_are_what_the_trainer_keeps(muon: bool) -> None:
    model = SHAPE.build()
    optimizer = Optimizer(Spread(model), OptimizerConfig(muon=muon))
    weights = sum(p.nbytes for p in model.parameters())
    moments = sum(tensor.nbytes for tensor in optimizer.state().values() if tensor.ndim)
    outside = model.embedding.weight.numel() + model.norm.weight.numel()
    layout = Layout(1, 8, 64, muon=muon)
    # Norms inside the blocks are AdamW's too; the formula counts all of a block as Muon's.
    norms = sum(p.nbytes for block in model.blocks for p in block.parameters() if p.ndim == 1) if muon else 0
    assert estimate(SHAPE, layout, GPUS["h200"]).sliced_bytes == 2 * weights + moments - norms
    assert outside < weights


def test_what_more_gpus_change() -> None:
    one = estimate(SHAPE, Layout(1, 64, 64, 4), GPUS["h200"])
    eight = estimate(SHAPE, Layout(8, 64, 64, 4), GPUS["h200"])
    assert one.traffic_seconds == 0
    assert one.whole_bytes == 2 * CHUNK_BYTES
    assert eight.sliced_bytes == one.sliced_bytes / 8
    assert eight.work_seconds == one.work_seconds / 8
    assert eight.row_bytes == one.row_bytes == 34 * 4 * 64 * 64 * 2
    assert 0 < eight.traffic_seconds < estimate(SHAPE, Layout(16, 64, 64, 4), GPUS["h200"]).traffic_seconds
    again = estimate(SHAPE, Layout(1, 64, 64, 4, recompute=True), GPUS["h200"])
    assert again.work_seconds == pytest.approx(one.work_seconds * 4 / 3)
    assert again.row_bytes == (2 * 2 + 34) * 4 * 64 * 64
    tensor = estimate(SHAPE, Layout(8, 64, 64, 4, tensor_parallel=2), GPUS["h200"])
    assert tensor.row_bytes == one.row_bytes / 2


def test_a_published_run() -> None:
    # LLaMA-65B (arXiv:2302.13971): 2,048 A100, about 380 tokens a second in each, 1.4 T tokens, about 21 days.
    shape = LlamaConfig(vocabulary=32_000, context=2048, width=8192, depth=80, heads=64, hidden=22_016, tied=False)
    found = estimate(shape, Layout(2048, 2048, 2048), GPUS["a100"], 1.4e12, of_peak=0.477)
    assert found.parameters == pytest.approx(65.2e9, rel=0.01)
    assert found.step_tokens / found.work_seconds / 2048 == pytest.approx(380, rel=0.03)
    assert found.tokens / (found.step_tokens / found.work_seconds) / 86400 == pytest.approx(20.8, rel=0.03)


def test_layouts_that_do_not_go_up() -> None:
    with pytest.raises(UserError, match="a tensor group of 3 does not divide 8 GPUs"):
        estimate(SHAPE, Layout(8, 64, 64, tensor_parallel=3), GPUS["h200"])
    with pytest.raises(UserError, match="60 rows a step are no multiple of 1 at once in 8 places"):
        estimate(SHAPE, Layout(8, 60, 64), GPUS["h200"])


def plan(*arguments: str) -> str:
    ended = CliRunner().invoke(app, ["plan", *arguments])
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_the_docs_show_what_the_planner_says() -> None:
    shown = re.findall(r"```console\n\$ underlay plan (.*?)\n(.*?)```", SCALE.read_text(), re.DOTALL)
    assert len(shown) >= 4
    for command, output in shown:
        said = plan(*command.split())
        assert [line.split() for line in output.strip().splitlines()] == [line.split() for line in said.splitlines()]


def test_json_and_what_is_wrong() -> None:
    found = json.loads(plan("--params", "1G", "--gpus", "8", "--json"))
    assert found["gpu_hours"] == pytest.approx(found["seconds"] * 8 / 3600)
    assert found["bytes"] == found["sliced_bytes"] + found["whole_bytes"] + found["row_bytes"]
    for arguments, said in (
        (["--params", "many"], "--params many: a number is expected"),
        (["--params", "1G", "--gpu", "abacus"], "--gpu abacus: known are a100"),
    ):
        ended = CliRunner().invoke(app, ["plan", *arguments])
        assert ended.exit_code == 2
        assert said in ended.output


def test_it_makes_no_weights() -> None:
    before = torch.get_rng_state()
    plan("--params", "70G", "--gpus", "1024", "--batch-rows", "2048")
    assert torch.equal(before, torch.get_rng_state())
