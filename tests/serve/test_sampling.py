import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jsonschema
import openai
import pytest
import torch

from underlay.serve import create_app

PROMPT = "The quick brown fox jumps over"
BASE: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 24, "seed": 3}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "sizes": {"type": "array", "items": {"enum": [1, 2]}}},
    "required": ["name", "sizes"],
    "additionalProperties": False,
}


@pytest.fixture
def client(running: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{running.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def test_penalties_keep_tokens_from_coming_again(client: openai.OpenAI, running: Any) -> None:
    def ids(**settings: Any) -> list[str]:
        answer = client.completions.create(**BASE, temperature=0, logprobs=0, **settings)
        assert answer.choices[0].logprobs
        return answer.choices[0].logprobs.tokens or []

    bias = {str(index): 2.0 for index in range(20, 40)}
    plain = ids(logit_bias={**bias, "50": 100})
    assert len(set(plain)) == 1  # forced
    tokenizer = running.engine.tokenizer
    assert plain[0] == tokenizer.decode([50]) or plain[0].startswith("bytes:")
    free = ids()
    first = free[0]
    index = next(i for i in range(tokenizer.size) if tokenizer.decode([i]) == first)
    assert first not in ids(logit_bias={str(index): -100})
    for settings in ({"presence_penalty": 2}, {"frequency_penalty": 2}, {"extra_body": {"repetition_penalty": 50.0}}):
        assert ids(**settings) != free
    assert ids(presence_penalty=0, frequency_penalty=0) == free


def test_typical_p_narrows_what_can_come(client: openai.OpenAI) -> None:
    def text(**extra: Any) -> str:
        return client.completions.create(**BASE, temperature=2, extra_body=extra).choices[0].text

    assert text(typical_p=0.01) != text()
    assert text(typical_p=1.0) == text()


def test_best_of_gives_the_likeliest(client: openai.OpenAI) -> None:
    def mean(choice: Any) -> float:
        values = choice.logprobs.token_logprobs
        return sum(values) / len(values)

    every = client.completions.create(**BASE, n=5, logprobs=0)
    ranked = sorted(every.choices, key=mean, reverse=True)
    best = client.completions.create(**BASE, n=2, best_of=5, logprobs=0)
    assert [choice.text for choice in best.choices] == [choice.text for choice in ranked[:2]]
    assert [choice.index for choice in best.choices] == [0, 1]
    assert best.usage is not None
    assert every.usage is not None
    assert best.usage.completion_tokens == every.usage.completion_tokens
    assert client.completions.create(**BASE, best_of=5).choices[0].text == ranked[0].text
    assert client.completions.create(**BASE, best_of=5).choices[0].logprobs is None
    two = client.completions.create(**{**BASE, "prompt": [PROMPT, "日本"]}, best_of=3)
    assert len(two.choices) == 2


def test_answers_are_held_to_a_schema(client: openai.OpenAI) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
    ended = 0
    for seed in range(8):
        answer = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Hello"}], seed=seed, response_format=wanted
        ).choices[0]
        if answer.finish_reason == "stop":
            ended += 1
            jsonschema.validate(json.loads(answer.message.content or ""), SCHEMA)
    assert ended
    answer = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Hello"}],
        seed=1,
        response_format={"type": "json_object"},
        max_completion_tokens=40,
    ).choices[0]
    assert (answer.message.content or "").startswith("{")
    streamed = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "a"}],
        seed=1,
        stream=True,
        extra_body={"guided_choice": ["yes", "no"]},
    )
    assert "".join(c.choices[0].delta.content or "" for c in streamed) in ("yes", "no")


def test_answers_are_held_to_an_expression_or_a_choice(client: openai.OpenAI) -> None:
    text = client.completions.create(**BASE, n=3, extra_body={"guided_regex": "[a-f]{3}-[0-9]{2}"})
    assert all(re.fullmatch("[a-f]{3}-[0-9]{2}", choice.text) for choice in text.choices)
    assert {choice.finish_reason for choice in text.choices} == {"stop"}
    choices = ["日本", "fox", "the fox"]
    found = client.completions.create(**BASE, n=4, extra_body={"guided_choice": choices})
    assert all(choice.text in choices for choice in found.choices)


def test_an_echo_tells_how_likely_the_prompt_was(running: Any) -> None:
    # OpenAI's own types forbid the null that OpenAI sends for the first token.
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
    ids = running.engine.tokenizer.prompt(PROMPT)
    expected = running.engine.score([ids])[0]
    answer = client.completions.create(**BASE, echo=True, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    values, tops = logprobs.token_logprobs or [], logprobs.top_logprobs or []
    assert values[0] is None
    assert tops[0] is None
    torch.testing.assert_close(torch.tensor(values[1 : len(ids)]), expected, atol=1e-4, rtol=0)
    assert answer.usage is not None
    assert len(values) == len(ids) + answer.usage.completion_tokens
    assert answer.choices[0].text.startswith(PROMPT)
    for token, offset in zip((logprobs.tokens or [])[1 : len(ids)], logprobs.text_offset or [], strict=False):
        assert token in PROMPT
        assert offset <= len(PROMPT)


def test_a_streamed_echo_tells_the_same(http: httpx.Client) -> None:
    body = BASE | {"echo": True, "logprobs": 1, "n": 2, "max_tokens": 6}
    whole = http.post("/v1/completions", json=body).json()
    texts, values = ["", ""], [list[Any](), list[Any]()]
    for line in http.post("/v1/completions", json=body | {"stream": True}).text.splitlines():
        if line.startswith("data: {"):
            choice = json.loads(line[6:])["choices"][0]
            texts[choice["index"]] += choice["text"]
            values[choice["index"]] += (choice["logprobs"] or {"token_logprobs": []})["token_logprobs"]
    assert texts == [choice["text"] for choice in whole["choices"]]
    assert values == [choice["logprobs"]["token_logprobs"] for choice in whole["choices"]]


def test_what_was_remembered_of_a_prompt_is_told(http: httpx.Client) -> None:
    body = BASE | {"prompt": "over the lazy dog " * 6}
    usage = [http.post("/v1/completions", json=body).json()["usage"] for _ in range(2)][1]
    assert 0 < usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]


def test_a_prompt_is_cut_where_asked_and_that_is_told(http: httpx.Client, running: Any) -> None:
    body = BASE | {"prompt": "fox " * 300}
    assert http.post("/v1/completions", json=body).status_code == 400
    usage = http.post("/v1/completions", json=body | {"truncate_prompt": True}).json()["usage"]
    length = len(running.engine.tokenizer.prompt(body["prompt"]))
    assert usage["prompt_tokens"] == running.engine.context - body["max_tokens"]
    assert usage["prompt_tokens_details"]["truncated_tokens"] == length - usage["prompt_tokens"]


def test_memory_is_salted_by_the_key(engine_of: Callable[..., Any]) -> None:
    from fastapi.testclient import TestClient

    salts = []
    for key in (None, "secret", "other"):
        engine = engine_of()
        submit = engine.submit

        def noting(request: Any, submit: Any = submit) -> Any:
            salts.append(request.salt)
            return submit(request)

        engine.submit = noting
        with TestClient(create_app(engine, "tiny", api_key=key), base_url="http://localhost") as client:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            assert client.post("/v1/completions", json=BASE, headers=headers).status_code == 200
    assert salts[0] == ""
    assert len(set(salts)) == 3
    assert not any("secret" in salt for salt in salts)


def test_an_answer_that_fails_is_an_error_of_its_own(engine_of: Callable[..., Any]) -> None:
    from fastapi.testclient import TestClient

    engine = engine_of()
    run = engine.runner.run
    broken = [True]
    engine.runner.run = lambda works: run(works) * (math.nan if broken[0] else 1)
    with TestClient(create_app(engine, "tiny"), base_url="http://localhost") as client:
        refused = client.post("/v1/completions", json=BASE)
        assert refused.status_code == 500
        assert refused.json()["error"]["code"] == "generation_failed"
        streamed = client.post("/v1/completions", json=BASE | {"stream": True}).text
        assert "generation_failed" in streamed
        broken[0] = False
        assert client.post("/v1/completions", json=BASE).status_code == 200
