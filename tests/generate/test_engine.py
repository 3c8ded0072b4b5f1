import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path as FilePath

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor

from underlay.errors import UserError
from underlay.generate import Adapter, Constraint, ContextLengthError, Engine, ParameterError, Request, Sampling
from underlay.generate.native import NativeRunner
from underlay.generate.path import Path, Precision
from underlay.generate.plain import PlainRunner
from underlay.generate.request import Answer
from underlay.generate.speculate import Draft, Lookup
from underlay.models import Decoder
from underlay.models.adapter import LowRank, changed
from underlay.text import Special, Tokenizer

NEVER: frozenset[int] = frozenset()
PATHS: list[Path] = ["native", "plain"]
PRECISIONS: list[Precision] = ["float32", "bfloat16", "int8", "int4"]
MakeModel = Callable[..., Decoder]


def greedy(model: Decoder, prompt: list[int], count: int) -> list[int]:
    """Generation by full recomputation: the oracle."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("seed", "heads", "kv_heads", "tied"), [(4, 4, 4, True), (2, 4, 2, False), (8, 4, 1, True)])
def test_cached_generation_equals_full_recomputation(
    make_model: MakeModel, tokenizer: Tokenizer, seed: int, heads: int, kv_heads: int, tied: bool, path: Path
) -> None:
    model = make_model(tokenizer.size, seed, heads=heads, kv_heads=kv_heads, tied=tied, context=400)
    prompts = [[(7 + i * i * (seed + n)) % tokenizer.size for i in range(n)] for n in (1, 2, 30, 300)]
    requests = [Request(p, 25, Sampling(0), stop_ids=NEVER) for p in prompts]
    answers = Engine(model, tokenizer, slots=3, path=path).generate(requests)
    expected = [greedy(model, p, 25) for p in prompts]
    assert [a.ids for a in answers] == expected
    assert len({token for ids in expected for token in ids}) > 8  # else the test would prove little


def many_requests(tokenizer: Tokenizer, count: int) -> list[Request]:
    rng = random.Random(5)
    requests = []
    for seed in range(count):
        prompt = [rng.randrange(7, tokenizer.size) for _ in range(rng.choice([1, 2, 5, 30, 100]))]
        sampling = Sampling(
            temperature=rng.choice([0, 0.7, 1.5]),
            top_k=rng.choice([None, 20]),
            top_p=rng.choice([1, 0.9]),
            min_p=rng.choice([0, 0.02]),
            seed=seed,
        )
        requests.append(Request(prompt, rng.choice([3, 20, 50]), sampling, stop_ids=NEVER, logprobs=2))
    return requests


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("slots", [3, 8])
def test_tokens_depend_on_the_request_and_its_seed_alone(
    model: Decoder, tokenizer: Tokenizer, slots: int, precision: Precision, path: Path
) -> None:
    requests = many_requests(tokenizer, 10)
    engine = Engine(model, tokenizer, slots=slots, precision=precision, path=path)
    alone = [engine.generate([request])[0] for request in requests]
    order = list(range(len(requests)))
    for round_ in range(2):
        random.Random(round_).shuffle(order)
        together: dict[int, Answer] = dict(zip(order, engine.generate([requests[i] for i in order]), strict=True))
        # Answers carry log-probabilities, so this compares the arithmetic bit by bit, not only the tokens.
        assert [_told(together[i]) for i in range(len(requests))] == [_told(answer) for answer in alone]


def _told(answer: Answer) -> Answer:
    """Without what may differ: how much of the prompt was remembered."""
    return replace(answer, cached_tokens=0)


def test_tokens_do_not_depend_on_arrival(model: Decoder, tokenizer: Tokenizer) -> None:
    requests = many_requests(tokenizer, 8)
    engine = Engine(model, tokenizer, slots=4)
    alone = engine.generate(requests)
    handles = []
    for request in requests:
        handles.append(engine.submit(request))
        for _ in range(3):
            engine.step()
    while engine.busy:
        engine.step()
    assert [_told(handle.answer()) for handle in handles] == [_told(answer) for answer in alone]


def test_a_long_prompt_is_read_while_others_are_answered(make_model: MakeModel, tokenizer: Tokenizer) -> None:
    model = make_model(tokenizer.size, context=1200)
    long = Request([7 + i * i % 200 for i in range(1100)], 4, Sampling(0), stop_ids=NEVER, logprobs=3)
    engine = Engine(model, tokenizer, slots=2)
    alone = engine.generate([long])
    other = engine.submit(Request([9], 20, Sampling(0), stop_ids=NEVER))
    handle = engine.submit(replace(long, salt="else it would be remembered"))
    engine.step()
    assert len(other.ids) == 1  # not held up by the long one
    assert not handle.ids
    while engine.busy:
        engine.step()
    assert [_told(handle.answer())] == [_told(answer) for answer in alone]


def test_seeds_matter(engine: Engine) -> None:
    requests = [Request([9], 20, Sampling(1.0, seed=seed), stop_ids=NEVER) for seed in (1, 2, 1)]
    first, second, third = (answer.ids for answer in engine.generate(requests))
    assert first == third
    assert first != second


def test_answers_end_at_stop_ids_and_length(model: Decoder, tokenizer: Tokenizer, engine: Engine) -> None:
    free = engine.generate([Request([9], 30, Sampling(1.0, seed=3), stop_ids=NEVER, logprobs=0)])[0]
    assert free.finish == "length"
    assert len(free.ids) == 30
    assert free.logprobs is not None
    assert [entry.id for entry in free.logprobs] == free.ids
    last = free.ids[10]
    stopped = engine.generate([Request([9], 30, Sampling(1.0, seed=3), stop_ids=frozenset({last}))])[0]
    assert stopped.finish == "stop"
    assert stopped.ids == free.ids[: free.ids.index(last) + 1]
    assert stopped.logprobs is None
    assert stopped.prompt_tokens == 1


def test_by_default_eos_and_end_stop(make_model: MakeModel, tokenizer: Tokenizer) -> None:
    for special in (Special.EOS, Special.END):
        model = make_model(tokenizer.size, tied=False)
        with torch.no_grad():  # whatever comes in, the special token goes out
            assert model.head is not None
            model.head.weight.zero_()
            model.norm.weight.zero_()
            model.head.weight[tokenizer.special(special)] = 1
        model.norm.forward = lambda x: torch.ones_like(x)  # type: ignore[method-assign]
        answer = Engine(model, tokenizer, path="plain").generate([Request([9], 5, Sampling(0))])[0]
        assert (answer.finish, answer.ids, answer.text) == ("stop", [tokenizer.special(special)], "")


def test_stop_strings_cut_the_text(engine: Engine) -> None:
    sampling = Sampling(1.3, seed=11)
    free = engine.generate([Request([9], 60, sampling, stop_ids=NEVER)])[0]
    middle = free.text[15:18]
    stopped = engine.generate([Request([9], 60, sampling, stop=(middle,), stop_ids=NEVER)])[0]
    assert stopped.finish == "stop"
    assert stopped.text == free.text[: free.text.index(middle)]


def test_text_of_events_is_the_text_of_the_answer(engine: Engine, tokenizer: Tokenizer) -> None:
    handle = engine.submit(Request([9], 80, Sampling(1.5, seed=4), stop_ids=NEVER))
    pieces = [event.text for _ in range(80) for event in engine.step()]
    answer = handle.answer()
    assert "".join(pieces) == answer.text == tokenizer.decode(answer.ids)


def test_cancelling_frees_the_slot_within_one_step(model: Decoder, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer, slots=1)
    first = engine.submit(Request([9], 100, Sampling(0), stop_ids=NEVER))
    second = engine.submit(Request([10], 2, Sampling(0), stop_ids=NEVER))
    third = engine.submit(Request([10], 2, Sampling(0), stop_ids=NEVER))
    engine.step()
    first.cancel()
    third.cancel()
    events = engine.step()
    assert [(e.handle, e.finish) for e in events] == [(first, "cancelled"), (third, "cancelled"), (second, None)]
    assert len(first.answer().ids) == 1
    assert first.answer().finish == "cancelled"
    while engine.busy:
        engine.step()
    assert (engine.running, engine.waiting) == (0, 0)
    assert second.answer().finish == "length"


def test_an_interrupted_batch_leaves_the_engine_empty(engine: Engine) -> None:
    def interrupt(done: float, total: float | None, **facts: float | str) -> None:
        raise KeyboardInterrupt

    requests = [Request([9], 5 * n, Sampling(0), stop_ids=NEVER) for n in range(1, 9)]
    with pytest.raises(KeyboardInterrupt):
        engine.generate(requests, interrupt)
    assert (engine.running, engine.waiting) == (0, 0)


def test_progress_counts_answers(engine: Engine) -> None:
    seen = []
    engine.generate(
        [Request([9], n, Sampling(0), stop_ids=NEVER) for n in (1, 3)], lambda d, t, **f: seen.append((d, t))
    )
    assert seen == [(1, 2), (2, 2)]


def test_requests_longer_than_the_context_are_refused(engine: Engine) -> None:
    engine.generate([Request([9] * 191, 1, Sampling(0))])
    with pytest.raises(ContextLengthError, match=r"max_tokens: 100 prompt.*up to 93.*make 193.*holds 192") as caught:
        engine.generate([Request([9] * 100, 93)])
    assert caught.value.parameter == "max_tokens"
    with pytest.raises(ContextLengthError, match="prompt: 192 prompt"):
        engine.submit(Request([9] * 192, 1))


@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        ("temperature", [-0.1, float("nan"), float("inf")]),
        ("top_k", [0, -1, 2.5]),
        ("repetition", [0, -1.0, 1e-9, 1e9, float("nan"), float("inf")]),
        ("seed", [1.5, np.int64(3)]),
        ("top_p", [-0.1, 1.1, float("nan")]),
        ("min_p", [-0.1, 1.1, float("nan")]),
    ],
)
def test_sampling_out_of_range_is_named(parameter: str, values: list[float]) -> None:
    for value in values:
        with pytest.raises(ParameterError, match=f"^{parameter}: ") as caught:
            Sampling(**{parameter: value})  # type: ignore[arg-type]
        assert caught.value.parameter == parameter
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": []},
        {"max_tokens": 0},
        {"max_tokens": 2.5},
        {"stop": ("a", "")},
        {"stop": ("ab" * 40_000,)},
        {"logprobs": -1},
        {"logprobs": 21},
    ],
)
def test_requests_out_of_range_are_named(values: dict[str, object]) -> None:
    with pytest.raises(ParameterError, match=f"^{next(iter(values))}: "):
        Request(**({"prompt": [1]} | values))  # type: ignore[arg-type]


def test_unknown_ids_and_foreign_tokenizers_are_refused(
    engine: Engine, model: Decoder, tokenizer: Tokenizer, make_model: MakeModel
) -> None:
    for wrong in (-1, tokenizer.size):
        with pytest.raises(ParameterError, match="prompt: holds a token id outside"):
            engine.submit(Request([3, wrong], 1))
    with pytest.raises(UserError, match="slots: 0"):
        Engine(model, tokenizer, slots=0)
    with pytest.raises(UserError, match="load the two together"):
        Engine(make_model(tokenizer.size - 1), tokenizer)


def test_a_constraint_without_choices_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"^constraint: choices need texts"):
        Constraint(choices=())


@pytest.mark.parametrize("path", PATHS)
def test_more_than_all_tokens_are_all_tokens(model: Decoder, tokenizer: Tokenizer, path: Path) -> None:
    engine = Engine(model, tokenizer, path=path)
    few, many = (
        engine.generate([Request([9], 20, Sampling(1.5, top_k=top_k, seed=3), stop_ids=NEVER)])[0].ids
        for top_k in (tokenizer.size, 10**400)
    )
    assert few == many


def test_the_thread_count_is_put_back(engine: Engine) -> None:
    before = torch.get_num_threads()
    engine.generate([Request([9], 3, Sampling(0))])
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("path", PATHS)
def test_logprobs_are_those_of_the_model(model: Decoder, tokenizer: Tokenizer, path: Path) -> None:
    engine = Engine(model, tokenizer, path=path)
    answer = engine.generate([Request([9, 12], 10, Sampling(0.5, top_k=3, seed=2), stop_ids=NEVER, logprobs=4)])[0]
    ids = [9, 12, *answer.ids]
    with torch.inference_mode():
        scores = model(torch.tensor([ids]))[0].log_softmax(-1)[1:-1]
    assert answer.logprobs is not None
    for row, entry in zip(scores, answer.logprobs, strict=True):
        assert entry.logprob == pytest.approx(float(row[entry.id]), abs=1e-4)
        assert [i for i, _ in entry.top] == row.topk(4).indices.tolist()
        assert [p for _, p in entry.top] == pytest.approx(row.topk(4).values.tolist(), abs=1e-4)


@pytest.mark.parametrize("path", PATHS)
def test_a_native_runner_draws_and_tells_by_itself(
    make_model: MakeModel, tokenizer: Tokenizer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("draw", "tell"):
        theirs = getattr(NativeRunner, name)

        def noted(*given: object, name: str = name, theirs: Callable[..., object] = theirs) -> object:
            calls.append(name)
            return theirs(*given)

        monkeypatch.setattr(NativeRunner, name, noted)
    engine = Engine(make_model(tokenizer.size), tokenizer, path=path)
    engine.generate([Request([5, 6], 4, Sampling(), stop_ids=NEVER, logprobs=1)])
    assert calls == (["draw", "tell"] * 4 if path == "native" else [])


@pytest.mark.parametrize("path", PATHS)
def test_guesses_change_nothing(make_model: MakeModel, tokenizer: Tokenizer, path: Path) -> None:
    model = make_model(tokenizer.size)
    requests = [replace(request, logprobs=3) for request in many_requests(tokenizer, 6)]
    requests.append(Request([9, 10, 11, 12] * 8, 40, Sampling(0), stop_ids=NEVER, logprobs=3))
    plain = Engine(model, tokenizer, path=path).generate(requests)
    small = make_model(tokenizer.size, depth=1)
    with torch.no_grad():  # a draft that guesses some, not all
        small.embedding.weight.copy_(model.embedding.weight)
        small.blocks[0].load_state_dict(model.blocks[0].state_dict())
    slots = 3
    for guesser in (Lookup(longest=3, shortest=1), Draft(PlainRunner(small), small.config.context, slots)):
        engine = Engine(model, tokenizer, slots, path=path, guesser=guesser, guesses=3)
        assert engine.generate(requests) == plain


@pytest.mark.parametrize("path", PATHS)
def test_adapters_share_a_step(make_model: MakeModel, tokenizer: Tokenizer, path: Path) -> None:
    model = make_model(tokenizer.size)
    chance = torch.Generator().manual_seed(3)
    adapters = {
        name: Adapter(
            {
                place: LowRank(
                    torch.randn(2, inputs, generator=chance), 0.5 * torch.randn(outputs, 2, generator=chance)
                )
                for place, outputs, inputs in places
            }
        )
        for name, places in {
            "one": [("blocks.0.attention.query", 32, 32), ("blocks.1.mlp.down", 32, 64)],
            "two": [("blocks.0.mlp.gate", 64, 32), ("blocks.1.attention.value", 16, 32)],
        }.items()
    }
    engine = Engine(model, tokenizer, slots=3, path=path)
    for name, adapter in adapters.items():
        engine.add_adapter(name, adapter)
    ask = Request([9, 20, 30], 12, Sampling(0), stop_ids=NEVER, logprobs=2)
    requests = [replace(ask, adapter=name) for name in ("one", None, "two", "one")]
    answers = engine.generate(requests)
    assert len({tuple(answer.ids) for answer in answers[:3]}) == 3
    for request, answer in zip(requests, answers, strict=True):
        assert _told(engine.generate([replace(request, salt="alone")])[0]) == _told(answer)
        merged = model if request.adapter is None else changed(model, adapters[request.adapter])
        expected = Engine(merged, tokenizer, path=path).generate([replace(request, adapter=None)])[0]
        assert expected.ids == answer.ids
        for ours, theirs in zip(answer.logprobs or [], expected.logprobs or [], strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
    with pytest.raises(UserError, match=r"blocks\.9\.mlp\.up"):
        engine.add_adapter("three", Adapter({"blocks.9.mlp.up": LowRank(torch.zeros(1, 32), torch.zeros(64, 1))}))


@pytest.mark.parametrize("path", PATHS)
def test_long_prompts_preemption_and_chunks_change_nothing(
    make_model: MakeModel, tokenizer: Tokenizer, path: Path
) -> None:
    model = make_model(tokenizer.size)
    requests = [replace(request, max_tokens=60) for request in many_requests(tokenizer, 6)]
    expected = Engine(model, tokenizer, path=path).generate(requests)
    least = Engine(model, tokenizer, path=path)
    memory = least.runner.block_bytes * 14  # one context takes 12
    engine = Engine(model, tokenizer, slots=4, path=path, memory=memory, step_tokens=23)
    assert [_told(answer) for answer in engine.generate(requests)] == [_told(answer) for answer in expected]
    assert engine.scheduler.preemptions > 0
    engine.invariants()


@pytest.mark.parametrize("path", ["auto", "plain"])
def test_weights_that_are_no_numbers_are_said_at_load(make_model: MakeModel, tokenizer: Tokenizer, path: Path) -> None:
    for broken in (float("nan"), float("inf")):
        model = make_model(tokenizer.size)
        with torch.no_grad():
            model.blocks[1].mlp.down.weight[3, 4] = broken
        with pytest.raises(UserError, match=r"blocks\.1\.mlp\.down\.weight are not all finite"):
            Engine(model, tokenizer, path=path)


def test_a_path_that_cannot_be_had_is_said(
    make_model: MakeModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tokenizer.size)
    assert Engine(model, tokenizer).runner.describe().startswith("native")
    monkeypatch.setattr("underlay.generate.native.build.find_compiler", lambda: None)
    described = Engine(model, tokenizer).runner.describe()
    assert described.startswith("plain")
    assert "there is no C++ compiler; install g++ or clang++" in described
    with pytest.raises(UserError, match=r"the native path cannot run this model: there is no C\+\+ compiler"):
        Engine(model, tokenizer, path="native")
    with pytest.raises(UserError, match="cache: int8 keys and values need the native path"):
        Engine(model, tokenizer, cache="int8")


def test_weights_that_are_spread_are_left_to_the_plain_path(
    make_model: MakeModel, tokenizer: Tokenizer, tmp_path: FilePath
) -> None:
    model = make_model(tokenizer.size)
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        norm = model.blocks[1].mlp_norm
        mesh = init_device_mesh("cpu", (1,))
        norm.weight = nn.Parameter(distribute_tensor(norm.weight.data, mesh, [Replicate()]))
        with pytest.raises(UserError, match="the native path cannot run this model: its weights are spread over"):
            Engine(model, tokenizer, path="native")
        described = Engine(model, tokenizer).runner.describe()
        assert described.startswith("plain")
        assert "its weights are spread over processes" in described
    finally:
        dist.destroy_process_group()


def test_constraints_hold_and_fail_by_themselves(engine: Engine) -> None:
    sampling = Sampling(1.2, seed=4)
    colour, number, other = engine.generate(
        [
            Request([9], 30, sampling, constraint=Constraint(choices=("red", "green"))),
            Request([9], 30, sampling, constraint=Constraint(regex="[0-9]{2,4}")),
            Request([9], 30, sampling, stop_ids=NEVER),
        ]
    )
    assert colour.text in ("red", "green")
    assert colour.finish == number.finish == "stop"
    assert re.fullmatch("[0-9]{2,4}", number.text)
    assert other.ids == engine.generate([Request([9], 30, sampling, stop_ids=NEVER)])[0].ids
    with pytest.raises(ParameterError, match=r"^constraint: "):
        engine.submit(Request([9], 30, constraint=Constraint(regex="(")))
    impossible = Sampling(0, bias=dict.fromkeys(range(300), -100.0))
    failed = engine.generate([Request([9], 5, impossible)])[0]
    assert failed.finish == "failed"
    assert failed.error
