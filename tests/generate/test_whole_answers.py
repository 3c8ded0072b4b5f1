"""All that a request may ask for at once: whatever happens around it, its whole answer is the same."""

import json
import random
import re
from dataclasses import replace
from typing import Any

import jsonschema
from fake_runner import FakeRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scheduling import CONTEXT, NEVER, TOKENIZER, VOCABULARY, make_engine

from underlay.generate import Answer, Constraint, Request, Sampling
from underlay.generate.runner import BLOCK
from underlay.generate.speculate import Draft, Guesser, Lookup

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
CONSTRAINTS = [
    Constraint(json_schema=json.dumps(SCHEMA)),
    Constraint(regex="[a-c]{1,9}x"),
    Constraint(choices=("the quick fox", "the lazy dog", "over")),
]

requests = st.builds(
    Request,
    prompt=st.lists(st.sampled_from([9, 10, 11]), min_size=1, max_size=40),
    max_tokens=st.integers(1, 40),
    sampling=st.builds(
        Sampling,
        temperature=st.sampled_from([0, 0.8]),
        frequency=st.sampled_from([0.0, 0.5]),
        bias=st.sampled_from([{}, {12: -100.0}]),
        seed=st.integers(0, 9),
    ),
    stop=st.sampled_from([(), ("a",), ("th", "o", "e q"), ("qu", "uick")]),
    stop_ids=st.sampled_from([None, NEVER, frozenset(range(20))]),
    logprobs=st.sampled_from([None, 0, 3]),
    prompt_logprobs=st.sampled_from([None, 2]),
    constraint=st.sampled_from([None, *CONSTRAINTS]),
    salt=st.sampled_from(["", "other"]),
)


def guesser_of(kind: str, slots: int) -> Guesser | None:
    if kind == "draft":
        return Draft(FakeRunner(VOCABULARY), CONTEXT, slots)  # right wherever nothing but the model decides
    return Lookup(longest=2, shortest=1) if kind == "lookup" else None


def told(answer: Answer) -> Answer:
    return replace(answer, cached_tokens=0)


def fits(constraint: Constraint, text: str) -> bool:
    if constraint.regex is not None:
        return re.fullmatch(constraint.regex, text) is not None
    if constraint.choices is not None:
        return text in constraint.choices
    jsonschema.validate(json.loads(text), SCHEMA)
    return True


@settings(max_examples=50, deadline=None)
@given(
    st.lists(requests, min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(CONTEXT // BLOCK, 16),
    st.integers(1, 40),
    st.sampled_from(["none", "lookup", "draft"]),
    st.integers(0, 9),
)
def test_the_whole_answer_is_that_of_the_request_alone(
    asked: list[Request], slots: int, blocks: int, budget: int, guessing: str, order: int
) -> None:
    alone = [make_engine(slots=1).generate([request])[0] for request in asked]
    engine = make_engine(slots, blocks, budget, guesser_of(guessing, slots))
    handles: dict[int, Any] = {}
    pieces = ["" for _ in asked]
    owners: dict[Any, int] = {}
    for index in random.Random(order).sample(range(len(asked)), len(asked)):
        handles[index] = engine.submit(asked[index])
        owners[handles[index]] = index
        for event in engine.step():
            pieces[owners[event.handle]] += event.text
        engine.invariants()
    while engine.busy:
        for event in engine.step():
            pieces[owners[event.handle]] += event.text
        engine.invariants()
    assert engine.scheduler.pool.free == blocks
    for index, (request, expected) in enumerate(zip(asked, alone, strict=True)):
        answer = handles[index].answer()
        assert told(answer) == told(expected)
        assert pieces[index] == answer.text
        assert not any(stop in answer.text for stop in request.stop)
        assert answer.logprobs is None or [entry.id for entry in answer.logprobs] == answer.ids
        if request.prompt_logprobs is not None and answer.finish != "failed":
            assert answer.prompt_logprobs is not None
            assert [entry.id for entry in answer.prompt_logprobs] == request.prompt[1:]
        if request.constraint is not None and answer.finish == "stop" and not request.stop:
            assert fits(request.constraint, TOKENIZER.decode_bytes(answer.ids).decode())
