import math

import pytest
import torch

from underlay.generate.request import Sampling
from underlay.generate.sampler import HEAD, Sampler, choose, uniform

CPU = torch.device("cpu")


def placed(sampling: Sampling, vocabulary: int, place: int) -> Sampler:
    sampler = Sampler(sampling, [0], vocabulary)
    sampler.place = place
    return sampler


def frequencies(probabilities: torch.Tensor, sampling: Sampling, draws: int = 4000) -> torch.Tensor:
    logits = probabilities.log().float().expand(draws, -1)
    chosen = choose(logits, [placed(sampling, logits.shape[-1], place) for place in range(draws)])
    return torch.bincount(torch.tensor(chosen), minlength=logits.shape[-1]) / draws


P = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15])


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(), [0.1, 0.4, 0.05, 0.3, 0.15]),
        (Sampling(top_k=2), [0, 0.4, 0, 0.3, 0]),
        (Sampling(top_k=5), [0.1, 0.4, 0.05, 0.3, 0.15]),
        (Sampling(top_p=0.6), [0, 0.4, 0, 0.3, 0]),
        (Sampling(top_p=0.0), [0, 1, 0, 0, 0]),
        (Sampling(top_k=3, top_p=0.8), [0, 0.4, 0, 0.3, 0]),  # 0.7 of the 0.85 that top-k left is more than 0.8
        (Sampling(min_p=0.5), [0, 0.4, 0, 0.3, 0]),
        (Sampling(min_p=1.0), [0, 1, 0, 0, 0]),
        (Sampling(0.0, top_p=0.5), [0, 1, 0, 0, 0]),
        (Sampling(1e-30), [0, 1, 0, 0, 0]),
        (Sampling(0.5), [0.01, 0.16, 0.0025, 0.09, 0.0225]),
    ],
)
def test_choices_follow_the_distribution(sampling: Sampling, kept: list[float]) -> None:
    expected = torch.tensor(kept) / sum(kept)
    found = frequencies(P, sampling)
    assert bool((found[expected == 0] == 0).all())
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


def test_a_flat_distribution_is_kept_beyond_the_head() -> None:
    size = 4 * HEAD
    flat = torch.full((size,), 1 / size)
    found = frequencies(flat, Sampling(top_p=0.99), draws=8000)
    assert int((found > 0).sum()) > size * 0.9
    found = frequencies(flat, Sampling(top_k=HEAD + 100), draws=8000)
    assert int((found > 0).sum()) <= HEAD + 100
    assert int((found > 0).sum()) > HEAD


def test_rows_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    settings = [Sampling(), Sampling(0.0), Sampling(top_p=0.7), Sampling(2.0, top_p=0.999), Sampling(top_k=9)] * 4
    logits = torch.randn(len(settings), 3000)
    samplers = [placed(setting, 3000, place) for place, setting in enumerate(settings)]
    together = choose(logits, samplers)
    for row, sampler in enumerate(samplers):
        assert choose(logits[row : row + 1], [sampler]) == [together[row]]


def test_uniform_numbers_are_uniform_and_fixed_for_all_time() -> None:
    numbers = [uniform(seed, place) for seed in range(40) for place in range(100)]
    assert all(0 <= number < 1 for number in numbers)
    assert len(set(numbers)) == len(numbers)
    assert math.isclose(sum(numbers) / len(numbers), 0.5, abs_tol=0.02)
    assert uniform(-1, 0) == uniform(2**64 - 1, 0)
    # SplitMix64's published stream for seed 0 starts e220a8397b1dcdaf, 6e789e6aa1b965f4.
    assert uniform(0, 0) == (0xE220A8397B1DCDAF >> 24) * 2.0**-40
    assert uniform(0, 1) == (0x6E789E6AA1B965F4 >> 24) * 2.0**-40
