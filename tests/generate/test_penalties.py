import math

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from underlay.generate.penalties import FORCED, ROOM, Penalties
from underlay.generate.request import Sampling

SIZE = 4 * ROOM
IDS = st.integers(0, SIZE - 1)


@example(Sampling(repetition=1.3, bias=dict.fromkeys(range(2 * ROOM), 5.0)), [1], [SIZE - 1])
@given(
    st.builds(
        Sampling,
        repetition=st.sampled_from([1.0, 1.3, 0.5]),
        presence=st.sampled_from([0.0, 1.5, -2.0]),
        frequency=st.sampled_from([0.0, 0.25, -0.5]),
        bias=st.dictionaries(IDS, st.sampled_from([-100.0, -2.0, 5.0, 100.0]), max_size=2 * ROOM),
    ),
    st.lists(IDS, max_size=3 * ROOM),
    st.lists(IDS, max_size=3 * ROOM),
)
def test_a_few_ids_are_changed_as_if_all_were(sampling: Sampling, prompt: list[int], answer: list[int]) -> None:
    logits = torch.randn(SIZE, generator=torch.Generator().manual_seed(0)) * 3
    penalties = Penalties(sampling, prompt)
    for count, token in enumerate(answer):
        penalties.accept(token)
        penalties.check(count + 1)
    penalties.apply(row := logits.clone())
    expected = logits.clone()
    for token, value in sampling.bias.items():
        expected[token] += -math.inf if value == -100 else FORCED if value == 100 else value
    for token in {*prompt, *answer}:
        value = expected[token]
        expected[token] = value / sampling.repetition if value > 0 else value * sampling.repetition
    for token in set(answer):
        expected[token] -= sampling.presence + sampling.frequency * answer.count(token)
    torch.testing.assert_close(row, expected)
    untouched = sorted(set(range(SIZE)) - {*prompt, *answer, *sampling.bias})
    assert torch.equal(row[untouched], logits[untouched])


def test_logits_that_are_not_numbers_stay_so() -> None:
    penalties = Penalties(Sampling(repetition=2.0, presence=1.0, bias={3: -100.0}), [0, 1, 2])
    row = torch.tensor([math.nan, math.inf, -math.inf, math.inf, 1.0])
    penalties.apply(row)
    assert row.isnan().tolist() == [True, False, False, True, False]
    assert row[[1, 2, 4]].tolist() == [math.inf, -math.inf, 1.0]
