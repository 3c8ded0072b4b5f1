"""Decode steps by CUDA's own graphs."""

from collections.abc import Callable

import pytest
import torch
from graph_world import come_and_go

from underlay.generate.graphs import cuda_capture
from underlay.generate.path import choose_runner
from underlay.generate.plain import PlainRunner
from underlay.generate.runner import Work
from underlay.models import Decoder
from underlay.models.gemma import GemmaConfig
from underlay.models.mistral import MistralConfig
from underlay.text import Tokenizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU is here")
MakeModel = Callable[..., Decoder]
SIZES = {"vocabulary": 50, "context": 320, "depth": 2, "width": 32, "heads": 4}


@pytest.mark.parametrize("seed", range(4))
def test_requests_that_come_and_go_get_the_same_tokens_on_cuda(
    make_model: MakeModel, tokenizer: Tokenizer, seed: int
) -> None:
    model = make_model(tokenizer.size, seed).to("cuda")
    expected = come_and_go(model, tokenizer, PlainRunner(model), seed, greedy=True)
    runner = choose_runner(model, "float32", None, "auto", None, None)
    assert come_and_go(model, tokenizer, runner, seed, greedy=True) == expected
    assert "decode steps as graphs" in runner.describe()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_captured_logits_are_those_of_the_step_on_cuda(precision: str) -> None:
    torch.manual_seed(0)
    config = GemmaConfig(**SIZES, family="gemma2", score_softcap=50.0, sliding_window=24)
    model = config.build().to("cuda")
    plain, runner = (
        PlainRunner(model, precision, graphs=capture)  # type: ignore[arg-type]
        for capture in (None, cuda_capture(model))
    )
    for each in (plain, runner):
        each.reserve(40)
    for place in range(200):
        works = [Work([(place * n) % 50], place, range(13 * n, 13 * n + 13)) for n in range(3)]
        near = 1e-4 if precision == "float32" else 0.1
        torch.testing.assert_close(runner.run(works), plain.run(works), rtol=near, atol=near)
    assert "decode steps as graphs" in runner.describe()


def test_mixtures_of_experts_have_no_graphs_on_cuda() -> None:
    assert cuda_capture(MistralConfig(**SIZES, experts=4).build().to("cuda")) is None
