import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from generate.native.worlds import FAMILIES, build, missing
from underlay.generate.native import NativeRunner
from underlay.generate.request import MOST_LOGPROBS, Sampling
from underlay.generate.sampler import HEAD, Sampler, best, choose, draw_by_torch, log_probabilities

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"no native library: {missing()}")


@pytest.fixture(scope="module")
def runner() -> NativeRunner:
    return NativeRunner(build(FAMILIES["llama"]), threads=2)


def sampler(sampling: Sampling, vocabulary: int, place: int = 0) -> Sampler:
    result = Sampler(sampling, [0], vocabulary)
    result.place = place
    return result


# No share falls together with a number of equally likely tokens, where rounding would decide.
SETTINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.05, 0.7, 1.0, 2.5, 40.0]),
    top_k=st.sampled_from([None, None, 1, 3, 50, 600, 10**6]),
    top_p=st.sampled_from([0.0, 0.31416, 0.71828, 0.98765, 0.99999, 1.0, 1.0]),
    typical=st.sampled_from([0.0, 0.21718, 0.91234, 0.99999, 1.0, 1.0]),
    min_p=st.sampled_from([0.0, 0.0, 1e-6, 0.0512, 1.0]),
    seed=st.integers(0, 2**64 - 1),
)


@settings(max_examples=120)
@given(
    st.lists(SETTINGS, min_size=1, max_size=8),
    st.sampled_from([1, 3, 63, 64, 65, 700, 3001]),
    st.sampled_from([0.0, 0.25, 1.0]),
    st.sampled_from([0.01, 1.0, 3.0, 30.0]),
    st.floats(0, 0.999),
    st.integers(0, 2**32),
)
def test_tokens_are_those_that_torch_draws(
    runner: NativeRunner, mix: list[Sampling], size: int, grid: float, spread: float, masked: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(mix), size, generator=generator) * spread
    if grid:
        logits = (logits / grid).round() * grid  # so that many are equally likely
    logits[:, 1:][torch.rand(len(mix), size - 1, generator=generator) < masked] = -math.inf
    before, samplers = logits.clone(), [sampler(sampling, size, place) for place, sampling in enumerate(mix)]
    rows = list(range(len(mix)))
    found = runner.draw(logits, rows, samplers)
    assert found == draw_by_torch(logits, rows, samplers)
    assert torch.equal(logits, before)
    for row in rows:  # neighbours and threads change nothing
        assert runner.draw(logits, [row], [samplers[row]]) == [found[row]]


@given(data=st.data())
def test_the_best_of_each_row_is_that_of_numpy(runner: NativeRunner, data: st.DataObject) -> None:
    size, count = data.draw(st.sampled_from([1, 5, 16, 40, 9000]), "size"), data.draw(st.integers(1, 7), "rows")
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999), "seed"))
    logits = (torch.randn(count, size, generator=generator) * data.draw(st.sampled_from([1, 9]), "spread")).round()
    for value in data.draw(st.lists(st.sampled_from([math.nan, math.inf, -math.inf]), max_size=4), "odd"):
        logits[data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, size - 1))] = value
    if data.draw(st.booleans(), "nothing is possible"):
        logits[0] = -math.inf
    assert runner.best(logits) == best(logits)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(2.0, top_p=0.9),
        Sampling(top_k=40),
        Sampling(top_k=4000),
        Sampling(min_p=0.05),
        Sampling(typical=0.8),
        Sampling(top_p=0.95, typical=0.5, min_p=0.001),
    ],
)
def test_long_rows_on_several_threads_come_out_the_same(runner: NativeRunner, sampling: Sampling) -> None:
    logits = torch.randn(12, 50_000, generator=torch.Generator().manual_seed(3)) * 2
    samplers = [sampler(sampling, 50_000, place) for place in range(12)]
    found = choose(logits, samplers, runner.draw)
    assert found == choose(logits, samplers)
    assert found == [choose(logits[row : row + 1], [samplers[row]], runner.draw)[0] for row in range(12)]
    assert len(set(found)) > 6


def test_a_flat_row_is_drawn_from_everywhere(runner: NativeRunner) -> None:
    size = 4 * HEAD
    logits = torch.zeros(4000, size)
    for sampling in (Sampling(), Sampling(top_p=0.98765), Sampling(typical=0.98765), Sampling(min_p=0.5)):
        samplers = [sampler(sampling, size, place) for place in range(4000)]
        found = runner.draw(logits, list(range(4000)), samplers)
        counts = np.bincount(np.array(found), minlength=size)
        kept = counts[: int(size * (0.98765 if sampling.top_p < 1 or sampling.typical < 1 else 1)) + 1]
        assert kept.sum() == 4000
        expected = 4000 / len(kept)
        assert ((kept - expected) ** 2 / expected).sum() < len(kept) + 5 * math.sqrt(2 * len(kept))


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e-3, 1e30, 1e308])
def test_temperatures_at_the_ends_of_the_scale(runner: NativeRunner, temperature: float) -> None:
    logits = torch.randn(1, 500, generator=torch.Generator().manual_seed(0))
    for sampling in (Sampling(), Sampling(top_k=5), Sampling(top_p=0.5), Sampling(typical=0.5), Sampling(min_p=0.1)):
        sampling = replace(sampling, temperature=temperature)
        found = runner.draw(logits, [0], [sampler(sampling, 500)])
        if temperature <= 1e-3:
            assert found == [int(logits.argmax())]
        else:
            assert found[0] is not None


@pytest.mark.parametrize("damage", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_p=0.5), Sampling(top_k=3), Sampling(typical=0.5)])
def test_a_row_that_is_no_distribution_gives_nothing(runner: NativeRunner, sampling: Sampling, damage: float) -> None:
    for size, place in ((30, 3), (200, 199), (128, 0)):
        logits = torch.randn(3, size)
        logits[1, slice(None) if damage == -math.inf else place] = damage
        samplers = [sampler(sampling, size, row) for row in range(3)]
        found = runner.draw(logits, [0, 1, 2], samplers)
        assert found[1] is None
        assert None not in (found[0], found[2])


def exact(logits: Tensor) -> Tensor:
    return logits.double().log_softmax(-1)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([1, 5, 64, 700, 9000]), st.sampled_from([0.1, 3.0, 30.0]))
def test_likelihoods_are_those_of_the_model(runner: NativeRunner, seed: int, size: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(9, size, generator=generator) * spread
    chosen = torch.randint(0, size, (9,), generator=generator).tolist()
    counts = [0, 1, 5, MOST_LOGPROBS, 0, 2, 3, 4, 5]
    told, expected = runner.tell(logits, chosen, counts), exact(logits)
    for row, one in enumerate(told):
        assert one.id == chosen[row]
        assert one.logprob == pytest.approx(float(expected[row, chosen[row]]), abs=1e-6, rel=1e-6)
        order = logits[row].sort(descending=True, stable=True).indices[: counts[row]].tolist()
        assert [token for token, _ in one.top] == order
        assert [value for _, value in one.top] == pytest.approx(expected[row, order].tolist(), abs=1e-6, rel=1e-6)
        assert runner.tell(logits[row : row + 1], [chosen[row]], [counts[row]]) == [one]


def test_likelihoods_where_little_is_possible(runner: NativeRunner) -> None:
    logits = torch.full((2, 100), -math.inf)
    logits[0, [3, 70]] = torch.tensor([1.0, 1.0])
    logits[1, 4] = math.nan
    told = runner.tell(logits, [70, 4], [5, 2])
    assert told[0].logprob == pytest.approx(-math.log(2))
    assert [token for token, _ in told[0].top[:2]] == [3, 70]
    assert [value for _, value in told[0].top[2:]] == [-math.inf] * 3
    assert math.isnan(told[1].logprob)
    assert runner.tell(logits[:0], [], []) == []


def test_torch_tells_the_same(runner: NativeRunner) -> None:
    logits = torch.randn(600, 333, generator=torch.Generator().manual_seed(0)) * 4
    chosen, counts = [row % 333 for row in range(600)], [row % 21 for row in range(600)]
    told = runner.tell(logits, chosen, counts)
    for ours, theirs in zip(told, log_probabilities(logits, chosen, counts), strict=True):
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-5)
        assert [token for token, _ in ours.top] == [token for token, _ in theirs.top]
