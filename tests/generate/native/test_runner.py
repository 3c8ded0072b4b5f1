import copy
import os
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from generate.native.worlds import (
    CONTEXT,
    FAMILIES,
    adapter_for,
    blocks_for,
    build,
    distances,
    forward,
    likelihoods,
    missing,
    quantised,
    read,
    rounded,
    rounds_inputs,
    tokens,
)
from underlay.errors import UserError
from underlay.generate.native import NativeRunner, unsupported
from underlay.generate.path import Precision, choose_runner
from underlay.generate.runner import Work
from underlay.models import Decoder, LlamaConfig
from underlay.models.adapter import Adapter, LowRank
from underlay.models.bert import BertConfig
from underlay.models.mistral import MistralConfig
from underlay.models.parts import RopeScaling
from underlay.models.quantised import Bits, matrix, quantised_names, round_to_nearest

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"no native library: {missing()}")


def runner_of(model: Decoder, precision: str = "float32", cache: str = "float32", **settings: object) -> NativeRunner:
    runner = NativeRunner(model, precision, cache, threads=2, **settings)  # type: ignore[arg-type]
    runner.reserve(16)
    return runner


def near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=tolerance * max(scale, 1.0), rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_likelihoods_equal_the_models_own(family: str) -> None:
    model, ids = build(FAMILIES[family]), tokens(CONTEXT)
    runner, expected = runner_of(model), forward(model, ids)
    near(read(runner, ids), expected, 1e-5)
    near(read(runner, ids, chunk=7), expected, 1e-5)
    lists = [ids, ids[:2], ids[5:60], ids[:1]]
    for found, text in zip(runner.likelihoods(lists), lists, strict=True):
        torch.testing.assert_close(found, likelihoods(forward(model, text), text), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_equals_a_model_with_rounded_weights(family: str) -> None:
    model, ids = build(FAMILIES[family]), tokens(60)
    runner = runner_of(model, "bfloat16")
    rounds = rounds_inputs(runner)  # then test_emulated.py has more to say
    near(read(runner, ids), forward(rounded(model, inputs=rounds), ids), 0.03 if rounds else 1e-5)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(("precision", "bits"), [("int8", 8), ("int4", 4)])
@pytest.mark.parametrize("family", ["llama of whole vectors", "llama with biases", "gpt2", "gemma2"])
def test_whole_numbers_equal_a_model_with_dequantised_weights_and_inputs_in_levels(
    family: str, precision: str, bits: Bits, given: bool
) -> None:
    model, ids = build(FAMILIES[family]), tokens(60)
    known = {name: round_to_nearest(matrix(model, name), bits) for name in quantised_names(model)}
    expected = forward(quantised(model, bits), ids)
    runner = runner_of(model, precision, quantised=known if given else None)
    found = read(runner, ids)
    near = distances(found, expected)
    # A number between two levels may be rounded to the other one here: what is read from then on is off by that.
    assert near[len(ids) // 4] < 1e-6
    assert near[-1] < 0.02
    assert torch.equal(read(runner, ids, chunk=1), found)


@pytest.mark.parametrize(("cache", "tolerance"), [("bfloat16", 0.02), ("int8", 0.04)])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "llama of whole vectors"])
def test_a_smaller_cache_is_near(family: str, cache: str, tolerance: float) -> None:
    model, ids = build(FAMILIES[family]), tokens(CONTEXT)
    exact, small = runner_of(model), runner_of(model, cache=cache)
    assert small.block_bytes < 0.7 * exact.block_bytes
    expected, found = read(exact, ids), read(small, ids)
    near(found, expected, tolerance)
    assert not torch.equal(found, expected)


@pytest.mark.parametrize(
    ("family", "precision", "expected"),
    [
        ("llama", "float32", "float32"),
        ("llama", "bfloat16", "bfloat16"),
        ("llama", "int8", "int8"),
        ("llama", "int4", "int8"),
        ("llama with biases", "int8", "bfloat16"),
        ("gpt2", "int4", "bfloat16"),
    ],
)
def test_keys_and_values_are_as_precise_as_weights_but_keys_with_biases_are_not_rounded_to_8_bits(
    family: str, precision: Precision, expected: str
) -> None:
    runner = choose_runner(build(FAMILIES[family]), precision, None, "native", 2, None)
    assert isinstance(runner, NativeRunner)
    assert runner.cache_precision == expected


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8", "int4"])
def test_a_text_longer_than_the_scratch_of_a_step_is_scored_in_pieces(precision: str) -> None:
    config = LlamaConfig(vocabulary=300, width=48, depth=1, heads=4, kv_heads=1, hidden=64, context=1000)
    runner, ids = runner_of(build(config), precision), tokens(1000)
    found = runner.likelihoods([ids, ids[:30], ids[:500]])
    assert torch.equal(found[0][:29], found[1])
    assert torch.equal(found[0][:499], found[2])
    if precision == "float32":
        expected = likelihoods(forward(build(config), ids), ids)
        torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=0)


def test_scoring_leaves_blocks_in_use_alone() -> None:
    runner, ids = runner_of(build(FAMILIES["llama"])), tokens(40)
    expected = read(runner, ids)
    runner.run([Work(ids[:30], 0, [0, 1, 2], 0)])
    runner.likelihoods([tokens(90, seed=1)])
    assert torch.equal(runner.run([Work(ids[30:], 30, [0, 1, 2], 10)]), expected[30:])


def test_logits_come_in_the_order_of_works_for_the_last_tokens_of_each() -> None:
    runner, first, second = runner_of(build(FAMILIES["llama"])), tokens(20), tokens(37, seed=1)
    one, two = read(runner, first), read(runner, second)
    found = runner.run([Work(first, 0, [0, 1], 2), Work(second, 0, [2, 3, 4], 0)])
    assert torch.equal(found, one[-2:])
    found = runner.run([Work(second, 0, [2, 3, 4], 3), Work(first, 0, [0, 1])])
    assert torch.equal(found, torch.cat((two[-3:], one[-1:])))


def changed(model: Decoder, adapter: Adapter) -> Decoder:
    result = copy.deepcopy(model)
    with torch.no_grad():
        for name, change in adapter.changes.items():
            matrix(result, name).add_(change.up @ change.down)
    return result


@pytest.mark.parametrize("family", ["llama with biases", "gpt2", "olmo2", "llama of whole vectors"])
def test_adapters_equal_changed_weights_in_one_step_with_others(family: str) -> None:
    model = build(FAMILIES[family])
    runner, texts = runner_of(model), [tokens(n, seed=n) for n in (20, 33, 7)]
    adapters = {"a": adapter_for(model, 3, 1), "b": adapter_for(model, 9, 2, every=2)}
    for name, adapter in adapters.items():
        runner.add_adapter(name, adapter)
    names = ["a", None, "b"]
    works = [
        Work(text, 0, blocks_for(len(text), 3 * i), len(text), name)
        for i, (text, name) in enumerate(zip(texts, names, strict=True))
    ]
    found = runner.run(works).split([len(text) for text in texts])
    for text, name, part, work in zip(texts, names, found, works, strict=True):
        expected = forward(model if name is None else changed(model, adapters[name]), text)
        near(part, expected, 1e-4)
        assert torch.equal(runner.run([work]), part)
    runner.drop_adapter("a")
    runner.add_adapter("c", adapters["b"])
    assert torch.equal(runner.run([Work(texts[2], 0, [0], 7, "c")]), found[2])


def test_an_adapter_that_does_not_fit_is_a_clear_error() -> None:
    model = build(FAMILIES["llama"])
    runner = runner_of(model)
    with pytest.raises(UserError, match=r"no matrix blocks\.9\.mlp\.up"):
        runner.add_adapter("x", Adapter({"blocks.9.mlp.up": LowRank(torch.ones(2, 72), torch.ones(100, 2))}))
    with pytest.raises(UserError, match=r"blocks\.0\.mlp\.up takes \(2, 72\)"):
        runner.add_adapter("x", Adapter({"blocks.0.mlp.up": LowRank(torch.ones(2, 71), torch.ones(100, 2))}))


def test_what_cannot_run_natively_says_why() -> None:
    sizes = {"vocabulary": 50, "width": 32, "depth": 1, "heads": 2, "hidden": 32, "context": 32}
    assert unsupported(MistralConfig(**sizes, experts=2).build()) == "a mixture of experts"
    dynamic = LlamaConfig(**sizes, rope_scaling=RopeScaling(kind="dynamic", factor=2)).build()
    assert "length of the text" in str(unsupported(dynamic))
    assert unsupported(BertConfig(**sizes).build()) == "it is no decoder"
    assert all(unsupported(build(config)) is None for config in FAMILIES.values())
    with pytest.raises(UserError, match="a mixture of experts"):
        NativeRunner(MistralConfig(**sizes, experts=2).build())


def test_steps_that_would_read_outside_are_refused() -> None:
    runner = runner_of(build(FAMILIES["llama"]))
    for work, reason in [
        (Work([300], 0, [0]), "outside the vocabulary"),
        (Work([-1], 0, [0]), "outside the vocabulary"),
        (Work([1], 0, [16]), "not among"),
        (Work([1], 0, [-1]), "not among"),
        (Work([1], CONTEXT, blocks_for(CONTEXT + 1)), "outside the context"),
        (Work([1], 0, [0], wanted=2), "more logits"),
        (Work([], 0, [0], wanted=0), "no tokens"),
    ]:
        with pytest.raises(ValueError, match=reason):
            runner.run([work])


def test_it_tells_which_path_it_is() -> None:
    said = runner_of(build(FAMILIES["llama"]), "int8", "bfloat16").describe()
    for part in ("native", "2 threads", "int8 weights", "bfloat16 keys"):
        assert part in said


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_threads_that_slept_wake_up_on_other_cores_than_the_caller() -> None:
    tasks, allowed = Path("/proc/self/task"), os.sched_getaffinity(0)
    before = set(tasks.iterdir())
    runner = runner_of(build(FAMILIES["llama"]))
    (thread,) = (int(task.name) for task in set(tasks.iterdir()) - before)
    time.sleep(0.05)
    runner.run([Work(tokens(30), 0, [0, 1])])
    (left_alone,) = allowed - os.sched_getaffinity(thread)
    assert left_alone in allowed
    assert os.sched_getaffinity(0) == allowed, "the caller may go where it likes"
