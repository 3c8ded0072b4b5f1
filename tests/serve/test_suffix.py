"""Completions with a suffix: what stands between it and the prompt."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
import torch
from fastapi.testclient import TestClient

from underlay.generate import Engine, Request, Sampling
from underlay.models import LlamaConfig
from underlay.serve import create_app
from underlay.text import Gap, train_tokenizer

BODY = {"model": "gaps", "prompt": "The quick", "suffix": " fox", "max_tokens": 24, "temperature": 0.8, "seed": 4}


def engine_with_marks() -> Engine:
    tokenizer = train_tokenizer(["The quick brown fox jumps over the lazy dog. "] * 5, 300, fim=True)
    torch.manual_seed(0)
    shape = LlamaConfig(vocabulary=tokenizer.size, context=128, width=32, depth=2, heads=4, kv_heads=2, hidden=64)
    model = shape.build()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return Engine(model, tokenizer, slots=4)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(engine_with_marks(), "gaps"), base_url="http://127.0.0.1") as client:
        yield client


def test_the_engine_reads_the_gap_and_stops_at_its_end(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    # So many that each middle ends at one: an untaught model hardly ever writes a mark.
    monkeypatch.setattr(Gap, "stop_ids", frozenset(range(0, 300, 3)))
    engine = engine_with_marks()
    gap = Gap(engine.tokenizer)
    for suffix in (" fox", ""):
        prompt = gap.prompt("The quick", suffix)
        requests = [Request(prompt, 24, Sampling(0.8, seed=seed), stop_ids=gap.stop_ids) for seed in (4, 5, 6, 7, 8, 9)]
        wanted = engine.generate(requests)
        found = client.post("/v1/completions", json=BODY | {"suffix": suffix, "n": 6}).json()
        assert [choice["text"] for choice in found["choices"]] == [answer.text for answer in wanted]
        assert [choice["finish_reason"] for choice in found["choices"]] == [answer.finish for answer in wanted]
        assert {choice["finish_reason"] for choice in found["choices"]} == {"stop"}
        assert found["usage"]["prompt_tokens"] == len(prompt)
    plain = client.post("/v1/completions", json={key: BODY[key] for key in BODY if key != "suffix"}).json()
    assert plain["choices"][0]["text"] != wanted[0].text


def test_an_echo_is_the_prompt_alone(client: TestClient) -> None:
    body = BODY | {"prompt": ["The", "quick"], "n": 2}
    bare, echoed = (client.post("/v1/completions", json=body | {"echo": echo}).json() for echo in (False, True))
    starts = ["The", "The", "quick", "quick"]
    assert [a["text"] for a in echoed["choices"]] == [
        start + choice["text"] for start, choice in zip(starts, bare["choices"], strict=True)
    ]


def test_marks_in_a_prompt_are_text(client: TestClient) -> None:
    text = "<|fim_suffix|><|fim_middle|>"
    engine = engine_with_marks()
    found = client.post("/v1/completions", json=BODY | {"prompt": text, "suffix": text}).json()
    assert found["usage"]["prompt_tokens"] == 4 + 2 * len(engine.tokenizer.encode(text))


@pytest.mark.parametrize("prompt", [[1, 2], [[1, 2], [3]]])
def test_token_ids_have_no_suffix(client: TestClient, prompt: Any) -> None:
    response = client.post("/v1/completions", json=BODY | {"prompt": prompt})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "suffix"
    assert "needs a 'prompt' that is text" in response.json()["error"]["message"]


def test_too_long_a_suffix_is_told(client: TestClient) -> None:
    error = client.post("/v1/completions", json=BODY | {"suffix": "fox " * 300}).json()["error"]
    assert error["code"] == "context_length_exceeded"


def test_a_model_without_marks_says_so(running: Any) -> None:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="no tokens for prefix, suffix and middle") as caught:
            client.completions.create(model="tiny", prompt="The", suffix="x", max_tokens=2)
        assert caught.value.param == "suffix"
