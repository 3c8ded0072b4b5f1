"""Decode steps by graphs, with what stands in for CUDA's."""

import warnings
from collections.abc import Callable

import pytest
import torch
from graph_world import Replays, come_and_go
from torch import Tensor

from underlay.generate import Adapter, graphs
from underlay.generate.graphs import Step, cuda_capture
from underlay.generate.path import choose_runner
from underlay.generate.plain import PlainRunner
from underlay.generate.runner import BLOCK, Work
from underlay.models import Decoder, DecoderConfig, LlamaConfig
from underlay.models.adapter import LowRank
from underlay.models.gemma import GemmaConfig
from underlay.models.gpt2 import GPT2Config
from underlay.models.mistral import MistralConfig
from underlay.models.olmo import OLMoConfig
from underlay.models.parts import RopeScaling
from underlay.models.qwen import QwenConfig
from underlay.text import Tokenizer

MakeModel = Callable[..., Decoder]
SIZES = {"vocabulary": 50, "context": 320, "depth": 2, "width": 32, "heads": 4}
FAMILIES: dict[str, DecoderConfig] = {
    "gpt2": GPT2Config(**SIZES),
    "llama": LlamaConfig(**SIZES, kv_heads=2, tied=False),
    "dynamic": LlamaConfig(**SIZES, rope_scaling=RopeScaling(kind="dynamic", factor=4)),
    "yarn": LlamaConfig(**SIZES, rope_scaling=RopeScaling(kind="yarn", factor=4, original_context=32)),
    "mistral": MistralConfig(**SIZES, sliding_window=24),
    "qwen3": QwenConfig(**SIZES),
    "olmo": OLMoConfig(**SIZES, family="olmo"),
    "olmo2": OLMoConfig(**SIZES),
    "gemma2": GemmaConfig(**SIZES, family="gemma2", score_softcap=50.0, logit_softcap=30.0, sliding_window=24),
    "gemma3": GemmaConfig(**SIZES, kv_heads=1, sliding_window=24, full_layers=(0,)),
}


def reserved(model: Decoder, capture: graphs.Capture | None, blocks: int = 100) -> PlainRunner:
    runner = PlainRunner(model, exact=False, graphs=capture)
    runner.reserve(blocks)
    return runner


def decode(places: list[int], first: int = 0) -> list[Work]:
    """A token for each of some sequences, which share no block."""
    works = []
    for number, place in enumerate(places):
        blocks = [first + index for index in range(place // BLOCK + 1)]
        first += len(blocks)
        works.append(Work([(7 * number + place) % 50], place, blocks))
    return works


@pytest.mark.parametrize("seed", range(4))
def test_requests_that_come_and_go_get_the_same_tokens(make_model: MakeModel, tokenizer: Tokenizer, seed: int) -> None:
    model, replays = make_model(tokenizer.size, seed), Replays()
    expected = come_and_go(model, tokenizer, PlainRunner(model, exact=False), seed)
    found = come_and_go(model, tokenizer, PlainRunner(model, exact=False, graphs=replays), seed)
    assert found == expected
    assert len(replays.captured) == len(set(replays.captured))
    assert len(replays.replayed) > 3 * len(replays.captured)


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_steps_of_all_families_can_be_captured_and_give_the_same_logits(config: DecoderConfig) -> None:
    torch.manual_seed(0)
    model, replays = config.build(), Replays()
    plain, runner = reserved(model, None), reserved(model, replays)
    for length in (3, 40, 290):
        prompts = [Work([(length + 3 * i * i) % 50 for i in range(n)], 0, decode([n])[0].blocks) for n in (length, 5)]
        prompts[1] = Work(prompts[1].tokens, 0, [99])
        assert torch.equal(runner.run(prompts), plain.run(prompts))
        for place in range(length, length + 3):
            works = [Work([place % 50], place, prompts[0].blocks), Work([9], place - length + 5, [99])]
            torch.testing.assert_close(runner.run(works), plain.run(works), rtol=1e-4, atol=1e-5)
    assert replays.captured == [(2, 8), (2, 20)]
    assert len(replays.replayed) == 9


def test_rows_and_blocks_come_in_buckets(model: Decoder) -> None:
    replays = Replays()
    runner = reserved(model, replays)
    places = [[0], [127], [128], [191], [3, 4], [1, 2, 3], [5] * 4, [5] * 5, [130, *[5] * 8]]
    for each in places:
        assert runner.run(decode(each)).shape == (len(each), model.config.vocabulary)
    # The context holds 12 blocks, which is less than the next power of two.
    assert replays.replayed == [(1, 8), (1, 8), (1, 12), (1, 12), (2, 8), (4, 8), (4, 8), (8, 8), (16, 12)]
    assert replays.captured == list(dict.fromkeys(replays.replayed))


def test_rows_that_pad_touch_spare_memory_alone(model: Decoder) -> None:
    plain, runner = reserved(model, None), reserved(model, Replays())
    for each in (plain, runner):
        each._keys.fill_(0.5)
        each._values.fill_(0.25)
        each._values[:, 101] = float("nan")  # which reaches whoever reads it, be it with weight 0
    for place in (33, 34, 35):
        works = [Work([9], 4, [17]), Work([10], place, [2, 8, 3]), Work([11], 0, [30])]
        torch.testing.assert_close(runner.run(works), plain.run(works))
    for ours, theirs in ((runner._keys, plain._keys), (runner._values, plain._values)):
        torch.testing.assert_close(ours[:, :101], theirs[:, :101])  # the last block is for them


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_results_outlive_the_next_step(model: Decoder, rows: int) -> None:
    runner = reserved(model, Replays())
    for first in (0, 20):
        found = runner.run(decode([3, 4, 5][:rows]))
        kept = found.clone()
        runner.run(decode([7, 9, 8][:rows], first=20 + first))
        assert torch.equal(found, kept)


def test_a_token_may_be_read_without_being_asked(model: Decoder) -> None:
    plain, runner = reserved(model, None), reserved(model, Replays())
    for each in (plain, runner):
        assert each.run([Work([5], 0, [1], wanted=0)]).shape == (0, model.config.vocabulary)
    works = [Work([7], 0, [2], wanted=0), Work([6], 1, [1])]
    torch.testing.assert_close(runner.run(works), plain.run(works))


def test_what_was_not_used_for_longest_is_dropped(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "KEPT", 2)
    replays = Replays()
    runner = reserved(model, replays)
    for count in (1, 2, 1, 4, 1, 2, 1):
        runner.run(decode([3] * count))
    assert [rows for rows, _ in replays.captured] == [1, 2, 4, 2]


def test_prompts_guesses_and_adapters_stay_eager(model: Decoder) -> None:
    replays = Replays()
    plain, runner = reserved(model, None), reserved(model, replays)
    chance = torch.Generator().manual_seed(3)
    change = LowRank(torch.randn(2, 32, generator=chance), torch.randn(32, 2, generator=chance))
    for each in (plain, runner):
        each.add_adapter("one", Adapter({"blocks.0.attention.query": change}))
    eager = [
        [Work(range(7, 40), 0, [1, 2, 3])],
        [Work([5, 6, 7], 33, [1, 2, 3], wanted=3)],
        [Work([5], 36, [1, 2, 3], adapter="one"), Work([5], 0, [4])],
    ]
    for works in eager:
        assert torch.equal(runner.run(works), plain.run(works))
    assert not replays.captured
    # The adapter of two tokens that were read in the same step is none of the others'.
    mixed = [Work([9, 5], 37, [1, 2, 3], adapter="one"), Work([8], 1, [4]), Work(range(30), 0, [6, 7])]
    for _ in range(2):
        torch.testing.assert_close(runner.run(mixed), plain.run(mixed))
    assert replays.replayed == [(1, 8)] * 2


def refuses(step: Step, inputs: Tensor, logits: Tensor) -> Callable[[], None]:
    raise RuntimeError("operation not permitted when stream is capturing\nand much more")


def remembers_inputs(step: Step, inputs: Tensor, logits: Tensor) -> Callable[[], None]:
    """As a graph would into which a value of the first inputs went as a constant."""
    baked = inputs.clone()
    return lambda: step(baked, logits)


def writes_elsewhere(step: Step, inputs: Tensor, logits: Tensor) -> Callable[[], None]:
    return lambda: step(inputs, torch.empty_like(logits.fill_(float("nan"))))


@pytest.mark.parametrize(
    ("capture", "problem"),
    [
        (refuses, "operation not permitted when stream is capturing"),
        (remembers_inputs, "they gave other logits"),
        (writes_elsewhere, "they gave other logits: nan off in a step of 2"),
    ],
)
def test_graphs_that_fail_are_given_up_and_said_once(model: Decoder, capture: graphs.Capture, problem: str) -> None:
    plain, runner = reserved(model, None), reserved(model, capture)
    assert "decode steps as graphs" in runner.describe()
    works = decode([3, 4])
    with pytest.warns(RuntimeWarning, match=f"without CUDA graphs, since {problem}"):
        assert torch.equal(runner.run(works), plain.run(works))
    assert f"no graphs, since {problem}" in runner.describe()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for works in (decode([3, 4]), decode([9])):
            assert torch.equal(runner.run(works), plain.run(works))


def test_graphs_are_for_cuda(model: Decoder) -> None:
    assert cuda_capture(model) is None
    assert "graph" not in choose_runner(model, "float32", None, "plain", None, None).describe()
