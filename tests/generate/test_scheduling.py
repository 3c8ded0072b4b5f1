"""Promises of the engine that no model is needed for: whatever happens around a request, its tokens are the same."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from fake_runner import FakeRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from underlay.errors import UserError
from underlay.generate import Engine, Request, Sampling
from underlay.generate.request import Answer, ContextLengthError, ParameterError
from underlay.generate.runner import BLOCK
from underlay.generate.sampler import Sampler, choose
from underlay.generate.sequence import Handle
from underlay.generate.speculate import Draft, Guesser, Lookup
from underlay.models import LlamaConfig
from underlay.models.adapter import Adapter
from underlay.text import Tokenizer, train_tokenizer

NEVER: frozenset[int] = frozenset()
CONTEXT = 96
VOCABULARY = 300
TOKENIZER = train_tokenizer(["the quick brown fox jumps over the lazy dog " * 3] * 5, 280)
MODEL = LlamaConfig(vocabulary=VOCABULARY, width=8, depth=1, heads=1, kv_heads=1, hidden=8, context=CONTEXT).build()


def make_engine(
    slots: int = 4,
    blocks: int = 24,
    budget: int = 40,
    guesser: Guesser | None = None,
    guesses: int = 4,
    tokenizer: Tokenizer = TOKENIZER,
) -> Engine:
    runner = FakeRunner(VOCABULARY)
    memory = blocks * runner.block_bytes
    return Engine(
        MODEL, tokenizer, slots, memory=memory, step_tokens=budget, guesser=guesser, guesses=guesses, runner=runner
    )


def reference(request: Request) -> list[int]:
    """No cache, no batch, no engine: each token from all tokens before it."""
    runner, ids = FakeRunner(VOCABULARY), list(request.prompt)
    sampler = Sampler(request.sampling, request.prompt, VOCABULARY)
    stop_ids = TOKENIZER.stop_ids if request.stop_ids is None else request.stop_ids
    for _ in range(request.max_tokens):
        token = choose(runner.logits(ids, request.adapter)[None], [sampler])[0]
        assert isinstance(token, int)
        sampler.accept(token)
        ids.append(token)
        if token in stop_ids:
            break
    return ids[len(request.prompt) :]


@dataclass(frozen=True)
class Coming:
    """A request, the step it comes in, and how many steps later it is cancelled, if at all."""

    request: Request
    step: int
    cancelled: int | None


# Few beginnings, so that many prompts share theirs.
beginnings = st.sampled_from([[7 + (i * k) % 50 for i in range(48)] for k in (3, 5)])
prompts = st.builds(
    lambda start, length, end: start[:length] + end,
    beginnings,
    st.sampled_from([0, 1, 15, 16, 17, 32, 48]),
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=20),
)
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0, 0.7, 1.5]),
    top_k=st.sampled_from([None, 5]),
    repetition=st.sampled_from([1.0, 1.3]),
    frequency=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 5),
)
requests = st.builds(
    Request,
    prompt=prompts,
    max_tokens=st.integers(1, 27),
    sampling=samplings,
    stop_ids=st.sampled_from([NEVER, frozenset(range(20))]),
    salt=st.sampled_from(["", "other"]),
)
arrivals = st.lists(
    st.builds(Coming, requests, st.integers(0, 12), st.one_of(st.none(), st.integers(0, 10))), min_size=1, max_size=10
)


def play(engine: Engine, coming: Sequence[Coming]) -> list[Answer]:
    """Hand in and cancel as told; invariants are checked after every step."""
    handles, leaving, number = {}, {}, 0
    while len(handles) < len(coming) or engine.busy:
        for index, one in enumerate(coming):
            if one.step == number:
                handles[index] = engine.submit(one.request)
                if one.cancelled is not None:
                    leaving.setdefault(number + one.cancelled, []).append(index)
        for index in leaving.get(number, []):
            handles[index].cancel()
        engine.step()
        engine.invariants()
        number += 1
        assert number < 2000, "it does not end"
    return [handles[index].answer() for index in range(len(coming))]


@settings(max_examples=150, deadline=None)
@given(
    arrivals,
    st.integers(1, 5),
    st.integers(CONTEXT // BLOCK, 24),
    st.integers(1, 64),
    st.sampled_from(["none", "lookup", "draft"]),
)
def test_tokens_are_those_of_a_plain_loop(
    coming: list[Coming], slots: int, blocks: int, budget: int, guessing: str
) -> None:
    guesser = {
        "none": lambda: None,
        "lookup": lambda: Lookup(longest=2, shortest=1),
        "draft": lambda: Draft(FakeRunner(VOCABULARY, sharpness=5.0), CONTEXT, slots),
    }[guessing]()
    engine = make_engine(slots, blocks, budget, guesser)
    for one, answer in zip(coming, play(engine, coming), strict=True):
        expected = reference(one.request)
        if answer.finish == "cancelled":
            assert answer.ids == expected[: len(answer.ids)]
            assert one.cancelled is not None
        else:
            assert answer.ids == expected
    assert engine.scheduler.pool.free == blocks


def test_ten_thousand_requests_leave_no_block_behind() -> None:
    chance = random.Random(0)
    engine = make_engine(slots=8, blocks=10, budget=64)
    ended = preempted = 0
    waiting = 10_000
    handles = []
    while waiting or engine.busy:
        while waiting and engine.waiting < 12:
            start = chance.choice([3, 5])
            prompt = [7 + (i * start) % 50 for i in range(chance.choice([1, 5, 16, 33, 60]))] + [chance.randrange(300)]
            handles.append(engine.submit(Request(prompt, chance.choice([1, 2, 20]), Sampling(0), stop_ids=NEVER)))
            waiting -= 1
        if chance.random() < 0.4:
            chance.choice(handles[-20:]).cancel()
        ended += sum(event.finish is not None for event in engine.step())
        preempted = engine.scheduler.preemptions
    engine.invariants()
    assert ended == 10_000
    assert preempted > 0  # else memory was never scarce
    assert engine.scheduler.pool.free == 10


def test_a_cancelled_request_gives_its_memory_back_within_one_step() -> None:
    engine = make_engine()
    handle = engine.submit(Request([9] * 40, 20, Sampling(0), stop_ids=NEVER))
    engine.step()
    assert engine.scheduler.pool.free < 24
    handle.cancel()
    assert [event.finish for event in engine.step()] == ["cancelled"]
    assert engine.scheduler.pool.free == 24
    assert engine.running == 0


def test_a_common_beginning_is_read_once() -> None:
    engine = make_engine(slots=4, blocks=40, budget=512)
    runner = engine.runner
    assert isinstance(runner, FakeRunner)
    prompt = list(range(7, 7 + 64))
    answers = engine.generate(Request([*prompt, 9], 2, Sampling(1.0, seed=3), stop_ids=NEVER).choices(4))
    assert [answer.cached_tokens for answer in answers] == [0, 64, 64, 64]
    assert runner.tokens == 65 + 3 * 1 + 4  # each reads its own last token, and the one it chose
    assert len({tuple(answer.ids) for answer in answers}) > 1
    other = engine.generate([Request([*prompt[:-1], 9], 1, stop_ids=NEVER)])[0]
    assert other.cached_tokens == 48  # the block in which they part is not shared


def test_salts_and_adapters_share_nothing() -> None:
    engine = make_engine(blocks=40)
    engine.add_adapter("mine", Adapter({}))
    prompt = list(range(7, 7 + 40))
    first = Request(prompt, 1, Sampling(0), stop_ids=NEVER)
    engine.generate([first])
    for other in (Request(prompt, 1, Sampling(0), salt="mine"), Request(prompt, 1, Sampling(0), adapter="mine")):
        assert engine.generate([other])[0].cached_tokens == 0
        assert engine.generate([other])[0].cached_tokens == 32
    assert engine.generate([first])[0].cached_tokens == 32


def test_an_adapter_that_answers_cannot_be_dropped() -> None:
    engine = make_engine()
    engine.add_adapter("mine", Adapter({}))
    with pytest.raises(UserError, match="loaded already"):
        engine.add_adapter("mine", Adapter({}))
    handle = engine.submit(Request([9], 3, stop_ids=NEVER, adapter="mine"))
    engine.step()
    with pytest.raises(UserError, match="still answering"):
        engine.drop_adapter("mine")
    handle.cancel()
    engine.step()
    engine.drop_adapter("mine")
    with pytest.raises(ParameterError, match="no 'mine'; loaded: none"):
        engine.submit(Request([9], 3, adapter="mine"))
    with pytest.raises(UserError, match="no adapter"):
        engine.drop_adapter("mine")


def test_what_an_adapter_left_in_memory_is_not_taken_for_its_successors() -> None:
    engine = make_engine()
    prompt = list(range(7, 7 + 40))
    for _ in range(2):
        engine.add_adapter("mine", Adapter({}))
        assert engine.generate([Request(prompt, 1, adapter="mine")])[0].cached_tokens == 0
        engine.drop_adapter("mine")


def test_preemption_loses_no_request_and_no_token() -> None:
    engine = make_engine(slots=4, blocks=CONTEXT // BLOCK + 1, budget=64)
    many = [Request([9 + i] * 20, 60, Sampling(1.0, seed=i), stop_ids=NEVER) for i in range(4)]
    answers = engine.generate(many)
    assert engine.scheduler.preemptions > 0
    assert [answer.ids for answer in answers] == [reference(request) for request in many]


def test_guesses_that_come_true_save_steps() -> None:
    plain, guessing = make_engine(), make_engine(guesser=Draft(FakeRunner(VOCABULARY), CONTEXT, 4))
    request = Request([9, 10, 11], 60, Sampling(0), stop_ids=NEVER)
    assert plain.generate([request]) == guessing.generate([request])
    assert isinstance(plain.runner, FakeRunner)
    assert isinstance(guessing.runner, FakeRunner)
    assert guessing.runner.steps <= plain.runner.steps / 3


def test_repetitions_are_looked_up() -> None:
    engine = make_engine(guesser=Lookup())
    handle = engine.submit(Request([5, 6, 7, 8, 9, 5, 6, 7], 30, Sampling(0)))
    guesser = Lookup()
    assert guesser.guess([handle], [3]) == [[8, 9, 5]]
    assert guesser.guess([handle], [1]) == [[8]]
    handle.tokens += [8, 9, 1]
    assert guesser.guess([handle], [3]) == [[]]
    handle.tokens += [5, 6]
    assert guesser.guess([handle], [2]) == [[7, 8]]


def test_prompts_can_be_given_their_likelihoods() -> None:
    engine = make_engine(budget=10)
    prompt = [9, 30, 8, *range(40, 70)]
    asked = Request(prompt, 3, Sampling(0), stop_ids=NEVER, prompt_logprobs=2, logprobs=1)
    before = engine.generate([Request(prompt, 3, Sampling(0), stop_ids=NEVER)])[0]
    answer = engine.generate([asked])[0]
    assert answer.ids == before.ids
    assert answer.cached_tokens == 0  # what is remembered has no likelihoods
    assert answer.prompt_logprobs is not None
    assert [told.id for told in answer.prompt_logprobs] == prompt[1:]
    runner = FakeRunner(VOCABULARY)
    for place, told in enumerate(answer.prompt_logprobs):
        scores = runner.logits(prompt[: place + 1]).log_softmax(-1)
        assert told.logprob == pytest.approx(float(scores[prompt[place + 1]]), abs=1e-5)
        assert [id_ for id_, _ in told.top] == scores.topk(2).indices.tolist()
    scores = torch.tensor([told.logprob for told in answer.prompt_logprobs])
    assert torch.allclose(engine.score([prompt])[0], scores, atol=1e-5)


def test_a_prompt_that_is_too_long_is_refused_or_cut_when_asked() -> None:
    engine = make_engine()
    prompt = [*TOKENIZER.start, *[9 + i % 200 for i in range(100)]]
    with pytest.raises(ContextLengthError, match=f"{len(prompt)} prompt tokens and up to 10 new ones.*holds {CONTEXT}"):
        engine.submit(Request(prompt, 10))
    answer = engine.generate([Request(prompt, 10, Sampling(0), stop_ids=NEVER, truncate=True)])[0]
    assert answer.prompt_tokens == CONTEXT - 10
    assert answer.truncated_tokens == len(prompt) - (CONTEXT - 10)
    kept = len(TOKENIZER.start)
    cut = prompt[:kept] + prompt[kept + answer.truncated_tokens :]
    assert answer.ids == reference(Request(cut, 10, Sampling(0), stop_ids=NEVER))
    with pytest.raises(ContextLengthError):
        engine.submit(Request(prompt, CONTEXT, truncate=True))


@pytest.mark.parametrize("kind", [np.array, torch.tensor, tuple])
def test_ids_may_be_of_any_whole_numbers(kind: Callable[[list[int]], Sequence[int]]) -> None:
    prompt = [9 + i for i in range(40)]
    engine = make_engine()
    answer = engine.generate([Request(kind(prompt), 5, Sampling(0), stop_ids=NEVER)])[0]
    assert answer.ids == reference(Request(prompt, 5, Sampling(0), stop_ids=NEVER))
    assert engine.generate([Request(prompt, 5, Sampling(0), stop_ids=NEVER)])[0].cached_tokens == 32


@pytest.mark.parametrize("prompt", [[9.0] * 40, ["9"], "text", [None]])
def test_ids_that_are_no_whole_numbers_are_refused_before_they_reach_others(prompt: Any) -> None:
    engine = make_engine()
    other = engine.submit(Request([9], 5, Sampling(0), stop_ids=NEVER))
    with pytest.raises(ParameterError, match=r"^prompt: holds something other than a token id"):
        engine.submit(Request(prompt, 5))
    while engine.busy:
        engine.step()
    assert other.ids == reference(other.request)


def test_memory_for_less_than_a_context_is_refused() -> None:
    with pytest.raises(UserError, match=r"hold 5 blocks.*one context takes 6"):
        make_engine(blocks=5)


@pytest.mark.parametrize("budget", [1, 7, 512])
def test_a_long_prompt_does_not_hold_up_others(budget: int) -> None:
    engine = make_engine(slots=2, budget=budget)
    other = engine.submit(Request([9], 50, Sampling(0), stop_ids=NEVER))
    engine.step()
    long = engine.submit(Request(list(range(7, 80)), 4, Sampling(0), stop_ids=NEVER))
    while not long.ids:
        before = len(other.ids)
        engine.step()
        assert len(other.ids) == before + 1
        if other.finish:
            break


def test_logits_that_are_no_numbers_fail_that_request_alone() -> None:
    engine = make_engine()
    runner = engine.runner
    assert isinstance(runner, FakeRunner)
    real = runner.logits

    def logits(tokens: Sequence[int], adapter: str | None = None) -> torch.Tensor:
        return real(tokens, adapter) * (float("nan") if tokens[0] == 13 else 1)

    runner.logits = logits  # type: ignore[method-assign]
    good, bad = (Request([first, 8], 5, Sampling(), stop_ids=NEVER) for first in (9, 13))
    broken, whole, greedy = engine.generate([bad, good, Request([13], 5, Sampling(0))])
    assert (broken.finish, greedy.finish) == ("failed", "failed")
    assert "not numbers" in (broken.error or "")
    assert whole.ids == reference(good)
    engine.invariants()


@pytest.mark.parametrize("where", ["run", "choose", "take"])
@pytest.mark.parametrize("guessing", [False, True])
def test_a_step_that_failed_can_be_taken_again(where: str, guessing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(guesser=Draft(FakeRunner(VOCABULARY), CONTEXT, 4) if guessing else None)
    prompts = [[9 + i] * 20 for i in range(4)]
    handles = [engine.submit(Request(prompt, 20, Sampling(1.0, seed=3), stop_ids=NEVER)) for prompt in prompts]
    owner, name = {
        "run": (engine.runner, "run"),
        "choose": (engine, "_choose"),
        "take": (engine, "_take"),
    }[where]
    real, chance = getattr(owner, name), random.Random(1)

    def now_and_then(*given: Any) -> Any:
        if chance.random() < 0.3:
            raise MemoryError
        return real(*given)

    monkeypatch.setattr(owner, name, now_and_then)
    failures = 0
    for _ in range(500):
        try:
            engine.step()
        except MemoryError:
            failures += 1
        engine.invariants()
    assert failures > 3
    assert [handle.ids for handle in handles] == [reference(handle.request) for handle in handles]
    assert engine.scheduler.pool.free == 24


def test_a_batch_does_not_count_the_answers_of_others() -> None:
    engine = make_engine()
    other = engine.submit(Request([9], 1, Sampling(0), stop_ids=NEVER))
    (answer,) = engine.generate([Request([10], 5, Sampling(0), stop_ids=NEVER)])
    assert (answer.finish, len(answer.ids)) == ("length", 5)
    assert other.finish == "length"


def test_a_batch_of_which_one_cannot_be_queued_leaves_the_engine_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    real, calls = engine.submit, []

    def submit(request: Request) -> Any:
        calls.append(request)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(request)

    monkeypatch.setattr(engine, "submit", submit)
    with pytest.raises(KeyboardInterrupt):
        engine.generate([Request([9], 5, stop_ids=NEVER)] * 4)
    assert not engine.busy


def test_prompts_are_admitted_only_where_all_of_them_fit() -> None:
    engine = make_engine(slots=4, blocks=10, budget=8)
    for first in range(4):
        engine.submit(Request([9 + first] * 60, 2, Sampling(0), stop_ids=NEVER))
    while engine.busy:
        engine.step()
        assert engine.running <= 2  # each takes 4 blocks of 10
    assert engine.scheduler.preemptions == 0


def test_what_a_preempted_request_has_read_itself_does_not_count_as_found() -> None:
    engine = make_engine(slots=2, blocks=8, budget=2)
    first = engine.submit(Request([9] * 17, 70, Sampling(0), stop_ids=NEVER))
    while len(first.ids) < 14:
        engine.step()
    second = engine.submit(Request(list(range(7, 7 + 65)), 2, Sampling(0), stop_ids=NEVER))
    read = 0
    while engine.busy:
        engine.step()
        read = max(read, second.read)
        assert not (second.ids and engine.scheduler.preemptions == 0)  # it lost its memory before it had an answer
    assert read > 16
    assert second.answer().cached_tokens == 0


def test_guesses_leave_room_for_prompts() -> None:
    engine = make_engine(slots=4, budget=8, guesser=Draft(FakeRunner(VOCABULARY), CONTEXT, 4))
    for first in range(3):
        engine.submit(Request([9 + first], 60, Sampling(0), stop_ids=NEVER))
    for _ in range(3):
        engine.step()
    late = engine.submit(Request([40, 41], 1, Sampling(0), stop_ids=NEVER))
    for _ in range(4):
        engine.step()
    assert late.finish == "length"


def test_guesses_take_no_memory_from_others() -> None:
    class Wrong:
        def guess(self, handles: Sequence[Handle], counts: Sequence[int]) -> list[list[int]]:
            return [[0] * count for count in counts]

        def forget(self, handle: Handle) -> None:
            pass

    # Three answers of two blocks, and one that is cancelled while it fits into its first.
    engine = make_engine(slots=4, blocks=7, guesser=Wrong(), guesses=20)
    long = engine.submit(Request([9] * 4, 80, Sampling(0), stop_ids=NEVER))
    others = [engine.submit(Request([20 + i] * 12, 8, Sampling(0), stop_ids=NEVER)) for i in range(3)]
    while any(other.finish is None for other in others):
        engine.step()
        engine.invariants()
    long.cancel()
    engine.step()
    assert engine.scheduler.preemptions == 0
    assert [other.ids for other in others] == [reference(other.request) for other in others]
