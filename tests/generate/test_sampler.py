import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from underlay.generate.grammar import Grammar, GrammarError
from underlay.generate.request import MOST_LOGPROBS, ParameterError, Sampling
from underlay.generate.sampler import HEAD, Sampler, choose, log_probabilities, uniform

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
        (Sampling(typical=0.2), [0, 0, 0, 0.3, 0]),
        (Sampling(typical=0.6), [0, 0.4, 0, 0.3, 0]),
        (Sampling(typical=0.0), [0, 0, 0, 1, 0]),
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


def support(
    logits: torch.Tensor, sampling: Sampling, prompt: Sequence[int] = (), answer: Sequence[int] = ()
) -> np.ndarray:
    """The distribution that is drawn from, seen through 4,000 draws."""
    draws = 4000
    samplers = []
    for _ in range(draws):
        sampler = Sampler(sampling, prompt, len(logits))
        for token in answer:
            sampler.accept(token)
        samplers.append(sampler)
    for place, sampler in enumerate(samplers):
        sampler.place = place
    chosen = choose(logits.expand(draws, -1), samplers)
    assert None not in chosen
    return np.bincount(np.array(chosen), minlength=len(logits)) / draws


def by_definition(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Each step as its paper has it, on a dictionary of probabilities."""
    scaled = {i: float(x) / sampling.temperature for i, x in enumerate(logits)}
    best = max(scaled.values())
    p = {i: math.exp(x - best) for i, x in scaled.items()}

    def normal(kept: dict[int, float]) -> dict[int, float]:
        total = sum(kept.values())
        return {i: x / total for i, x in kept.items()}

    def until(order: list[int], mass: float) -> dict[int, float]:
        kept, total = {}, 0.0
        for i in order:
            kept[i] = p[i]
            total += p[i]
            if total >= mass:
                break
        return kept

    p = normal(p)
    falling = sorted(p, key=lambda i: -p[i])
    if sampling.top_k is not None:
        p = normal({i: p[i] for i in falling[: sampling.top_k]})
    if sampling.top_p < 1:
        p = normal(until([i for i in falling if i in p], sampling.top_p))
    if sampling.typical < 1:
        entropy = -sum(x * math.log(x) for x in p.values() if x > 0)
        p = normal(until(sorted(p, key=lambda i: abs(-math.log(p[i]) - entropy)), sampling.typical))
    p = normal({i: x for i, x in p.items() if x >= sampling.min_p * max(p.values())})
    return np.array([p.get(i, 0.0) for i in range(len(logits))])


def plausible(found: np.ndarray, expected: np.ndarray, draws: int = 4000) -> bool:
    """Chi-square at a level of about one in a million, and nothing outside the support."""
    kept = expected > 0
    if found[~kept].any():
        return False
    freedom = max(int(kept.sum()) - 1, 1)
    statistic = float((draws * (found[kept] - expected[kept]) ** 2 / expected[kept]).sum())
    return statistic < freedom + 5 * math.sqrt(2 * freedom) + 25


MIXES = [
    Sampling(top_k=5),
    Sampling(top_p=0.7),
    Sampling(typical=0.7),
    Sampling(min_p=0.2),
    Sampling(1.7, top_k=7, top_p=0.8),
    Sampling(0.6, top_k=8, top_p=0.95, typical=0.8, min_p=0.1),
    Sampling(1.3, typical=0.5, min_p=0.3),
    Sampling(2.0, top_p=0.9, typical=0.4),
]


@pytest.mark.parametrize("sampling", MIXES)
def test_tokens_come_as_often_as_the_definitions_say(sampling: Sampling) -> None:
    for seed in range(3):
        logits = torch.randn(12, generator=torch.Generator().manual_seed(seed)) * 1.5
        assert plausible(support(logits, sampling), by_definition(logits.numpy(), sampling))


@pytest.mark.parametrize(
    ("sampling", "theirs"),
    [
        (Sampling(0.7), TemperatureLogitsWarper(0.7)),
        (Sampling(top_k=6), TopKLogitsWarper(6)),
        (Sampling(top_p=0.8), TopPLogitsWarper(0.8)),
        (Sampling(typical=0.6), TypicalLogitsWarper(0.6)),
        (Sampling(min_p=0.15), MinPLogitsWarper(0.15)),
        (Sampling(repetition=1.5), RepetitionPenaltyLogitsProcessor(1.5)),
        (Sampling(repetition=0.6), RepetitionPenaltyLogitsProcessor(0.6)),
    ],
)
def test_tokens_come_as_often_as_from_transformers(sampling: Sampling, theirs: LogitsProcessor) -> None:
    for seed in range(3):
        logits = torch.randn(16, generator=torch.Generator().manual_seed(seed)) * 2
        seen = [1, 4, 4, 9]
        scores = theirs(torch.tensor([seen]), logits[None].clone())[0]
        assert plausible(support(logits, sampling, seen[:2], seen[2:]), scores.double().softmax(-1).numpy())


@pytest.mark.parametrize("min_p", [0.0, 0.5])
def test_a_typical_set_that_spreads_beyond_the_head_is_found(min_p: float) -> None:
    # One likely token, and thousands whose surprise is what is expected: these are typical, it is not.
    logits = torch.zeros(4 * HEAD)
    logits[7] = 3.0
    sampling = Sampling(typical=0.5, min_p=min_p)
    chosen = choose(logits.expand(500, -1), [placed(sampling, len(logits), i) for i in range(500)])
    assert 7 not in chosen
    assert len(set(chosen)) > 300
    assert len({token for token in chosen if token is not None and token > HEAD}) > 100


SETTINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([None, 1, 3, 600]),
    top_p=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    typical=st.sampled_from([0.2, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    repetition=st.sampled_from([1.0, 1.3, 0.8]),
    presence=st.sampled_from([0.0, 1.5]),
    frequency=st.sampled_from([0.0, -0.5]),
    bias=st.dictionaries(st.integers(0, 699), st.sampled_from([-100.0, -2.0, 5.0]), max_size=3),
    seed=st.integers(0, 2**64 - 1),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(SETTINGS, min_size=1, max_size=8), st.integers(0, 2**32), st.randoms())
def test_neighbours_change_nothing(mix: list[Sampling], seed: int, random: "object") -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(mix), 700, generator=generator) * 3
    before = logits.clone()

    def fresh(index: int) -> Sampler:
        sampler = Sampler(mix[index], [1, 2, index], 700)
        for token in range(index):
            sampler.accept(token)
        sampler.check()
        return sampler

    together = choose(logits, [fresh(index) for index in range(len(mix))])
    assert torch.equal(logits, before)
    order = list(range(len(mix)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert choose(logits[order], [fresh(index) for index in order]) == [together[index] for index in order]
    for index in order:
        assert choose(logits[index : index + 1], [fresh(index)]) == [together[index]]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(typical=0.9), Sampling(top_p=0.9)])
def test_neighbours_change_nothing_in_rows_so_long_that_threads_share_them(sampling: Sampling) -> None:
    logits = torch.randn(6, 100_000, generator=torch.Generator().manual_seed(0))
    samplers = [placed(sampling, 100_000, place) for place in range(6)]
    together, told = choose(logits, samplers), log_probabilities(logits, [5] * 6, [3] * 6)
    for row in range(6):
        assert choose(logits[row : row + 1], [samplers[row]]) == [together[row]]
        assert log_probabilities(logits[row : row + 1], [5], [3]) == [told[row]]


def test_penalties_follow_their_formulas() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5, 3.0, -2.0, 0.0])
    sampler = Sampler(Sampling(repetition=2.0, presence=0.5, frequency=0.25, bias={3: -4.0, 5: 1.0}), [0, 4], 6)
    for token in (1, 3, 3, 3):
        sampler.accept(token)
    sampler.check()
    sampler.change(row := logits.clone())
    # Bias, then repetition over prompt and answer, then presence and frequency over the answer alone.
    expected = [1.0, -2.0 - 0.75, 0.5, (3.0 - 4.0) * 2 - 0.5 - 0.75, -4.0, 1.0]
    assert row.tolist() == expected


def test_a_bias_forces_and_rules_out() -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0)) * 1000
    best = int(logits.argmax())
    for sampling in (Sampling(0.0, bias={best: -100}), Sampling(5.0, bias={best: -100})):
        assert choose(logits, [Sampler(sampling, [0], 50)]) != [best]
    worst = int(logits.argmin())
    for temperature in (0.0, 1.0):
        assert choose(logits, [Sampler(Sampling(temperature, bias={worst: 100}), [0], 50)]) == [worst]
    with pytest.raises(ParameterError, match=r"0\.\.49"):
        Sampler(Sampling(bias={50: 1.0}), [0], 50)


@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(), Sampling(top_p=0.5), Sampling(0.0, presence=1.0)])
@pytest.mark.parametrize("damage", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_numbers_fail_their_own_row_alone(sampling: Sampling, damage: float) -> None:
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(1))
    sound = choose(logits, [placed(sampling, 30, row) for row in range(4)])
    broken = logits.clone()
    broken[2, 3 if damage > 0 or math.isnan(damage) else slice(None)] = damage
    samplers = [placed(sampling, 30, row) for row in range(4)]
    found = choose(broken, samplers)
    assert found == [*sound[:2], None, sound[3]]
    assert "not numbers" in str(samplers[2].problem)
    assert [sampler.problem for sampler in samplers if sampler is not samplers[2]] == [None] * 3


class Fixed(Grammar):
    """A grammar that allows some ids, whatever came."""

    def __init__(self, ids: Sequence[int], fails: str | None = None) -> None:
        self.ids, self.fails = ids, fails

    @property
    def finished(self) -> bool:
        return False

    def allowed(self) -> torch.Tensor:
        if self.fails == "allowed":
            raise GrammarError("too costly")
        mask = torch.zeros(30, dtype=torch.bool)
        mask[list(self.ids)] = True
        return mask

    def accept(self, token: int) -> None:
        if self.fails == "accept":
            raise GrammarError("too costly")


def test_only_what_the_grammar_allows_is_chosen() -> None:
    logits = torch.randn(1, 30, generator=torch.Generator().manual_seed(1))
    for sampling in (
        Sampling(0.0),
        Sampling(3.0),
        Sampling(top_k=3),
        Sampling(typical=0.1),
        Sampling(0.0, bias={5: 100}),
    ):
        sampler = Sampler(sampling, [0], 30, Fixed([7, 11]))
        assert not sampler.plain
        assert choose(logits, [sampler])[0] in (7, 11)


def test_where_all_is_ruled_out_the_row_says_so() -> None:
    logits = torch.randn(2, 30)
    for sampling in (Sampling(0.0), Sampling(), Sampling(min_p=0.5)):
        none = Sampler(sampling, [0], 30, Fixed([]))
        forbidden = Sampler(Sampling(bias={4: -100}), [0], 30, Fixed([4]))
        assert choose(logits, [none, forbidden]) == [None, None]
        assert "rule out every token" in str(none.problem)
        assert "rule out every token" in str(forbidden.problem)


def test_a_grammar_that_gives_up_fails_its_own_row_alone() -> None:
    logits = torch.randn(3, 30)
    samplers = [Sampler(Sampling(), [0], 30), Sampler(Sampling(), [0], 30, Fixed([1], "allowed"))]
    samplers.append(Sampler(Sampling(), [0], 30, Fixed([1], "accept")))
    samplers[2].accept(1)
    found = choose(logits, samplers)
    assert found[0] is not None
    assert found[1:] == [None, None]
    assert [sampler.problem for sampler in samplers] == [None, "too costly", "too costly"]


def test_log_probabilities_are_those_of_the_model_itself() -> None:
    logits = torch.randn(1100, 40, generator=torch.Generator().manual_seed(0)) * 4
    chosen = [row % 40 for row in range(len(logits))]
    counts = [row % (MOST_LOGPROBS + 1) for row in range(len(logits))]
    exact = logits.double() - logits.double().exp().sum(-1, keepdim=True).log()
    for row, found in enumerate(log_probabilities(logits, chosen, counts)):
        assert found.id == chosen[row]
        assert found.logprob == pytest.approx(float(exact[row, chosen[row]]), abs=1e-5)
        order = exact[row].argsort(descending=True)[: counts[row]].tolist()
        assert [token for token, _ in found.top] == order
        assert [value for _, value in found.top] == pytest.approx(exact[row, order].tolist(), abs=1e-5)
    assert log_probabilities(logits[:0], [], []) == []
    assert len(log_probabilities(logits[:2, :5], [0, 1], [20, 0])[0].top) == 5
