import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

PROMPT = "The quick"


@pytest.fixture
def client(running: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{running.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture
def lenient(running: Any) -> Iterator[openai.OpenAI]:
    """OpenAI's own types forbid the null finish_reason that OpenAI sends in pieces of completions."""
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "underlay"
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        client.models.retrieve("other")


def test_completions_of_every_kind_of_prompt(client: openai.OpenAI, running: Any) -> None:
    tokenizer = running.engine.tokenizer
    ids = [0, *tokenizer.encode(PROMPT)]
    kinds: list[Any] = [PROMPT, [PROMPT, PROMPT], ids, [ids, ids]]
    texts = set()
    for prompt in kinds:
        answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=12, temperature=0, user="someone")
        assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
        texts |= {choice.text for choice in answer.choices}
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(ids) * len(answer.choices)
        Completion.model_validate(answer.model_dump())
    assert len(texts) == 1
    assert client.completions.create(model="tiny", prompt="", max_tokens=1).choices[0].finish_reason


def test_stream_equals_whole(client: openai.OpenAI, lenient: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": "tiny", "prompt": [PROMPT, "日本"], "n": 2, "max_tokens": 60, "seed": 7}
    whole = client.completions.create(**settings, temperature=1.5)
    joined = dict.fromkeys(range(4), "")
    reasons = dict.fromkeys(range(4), "")
    usage = None
    for chunk in lenient.completions.create(
        **settings, temperature=1.5, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage
        for choice in chunk.choices:
            assert not reasons[choice.index]
            joined[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or ""
    assert [choice.text for choice in whole.choices] == list(joined.values())
    assert [choice.finish_reason for choice in whole.choices] == list(reasons.values())
    assert usage == whole.usage
    assert len({choice.text for choice in whole.choices}) == 4  # each answer has a seed of its own


def test_seed_decides(client: openai.OpenAI) -> None:
    def text(seed: int | None) -> str:
        answer = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20, temperature=1.5, seed=seed)
        return answer.choices[0].text

    assert text(3) == text(3) != text(4)
    assert text(None) != text(None)


def test_stop_echo_and_logprobs(client: openai.OpenAI, lenient: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 40, "temperature": 1.5, "seed": 5}
    free = client.completions.create(**settings).choices[0].text
    stop = free[6:9]
    stopped = client.completions.create(**settings, stop=["never", stop]).choices[0]
    assert stopped.text == free[: free.index(stop)]
    assert stopped.finish_reason == "stop"
    assert client.completions.create(**settings, echo=True).choices[0].text == PROMPT + free
    streamed = lenient.completions.create(**settings, echo=True, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == PROMPT + free
    logprobs = client.completions.create(**settings, logprobs=2).choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens
    assert logprobs.token_logprobs
    assert logprobs.top_logprobs
    assert logprobs.text_offset
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset)
    assert all(len(top) == 2 for top in logprobs.top_logprobs)
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        if not token.startswith(("bytes:", "<|")) and "\ufffd" not in free:
            assert free[offset:].startswith(token)


def test_own_parameters_through_extra_body(client: openai.OpenAI) -> None:
    def text(**extra: object) -> str:
        answer = client.completions.create(
            model="tiny", prompt=PROMPT, max_tokens=10, temperature=2, seed=1, extra_body=extra
        )
        return answer.choices[0].text

    greedy = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=10, temperature=0).choices[0].text
    assert text(top_k=1) == text(min_p=1.0) == greedy != text()


def test_chat(client: openai.OpenAI) -> None:
    messages: list[Any] = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
    ]
    settings: dict[str, Any] = {"model": "tiny", "messages": messages, "max_completion_tokens": 20, "seed": 1}
    whole = client.chat.completions.create(**settings, logprobs=True, top_logprobs=1)
    ChatCompletion.model_validate(whole.model_dump())
    assert whole.choices[0].logprobs
    assert whole.choices[0].logprobs.content
    assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 1
    chunks = list(client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump())
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    # Only what was remembered of the prompt may differ.
    apart = {"prompt_tokens_details"}
    assert chunks[-1].usage.model_dump(exclude=apart) == whole.usage.model_dump(exclude=apart)
    unlimited = client.chat.completions.create(model="tiny", messages=messages)
    assert unlimited.usage is not None
    assert unlimited.usage.total_tokens <= 192
    with (
        client.chat.completions.stream(model="tiny", messages=messages, seed=1, extra_body={"max_tokens": 5}) as stream,
        pytest.raises(openai.LengthFinishReasonError),
    ):
        stream.get_final_completion()


def test_async_client(running: Any) -> None:
    async def scene() -> None:
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
            settings: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 20, "seed": 1}
            whole = await client.completions.create(**settings)
            stream = await client.completions.create(**settings, stream=True)
            assert "".join([chunk.choices[0].text async for chunk in stream]) == whole.choices[0].text

    asyncio.run(scene())


def test_golden_stream(http: httpx.Client) -> None:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 3, "temperature": 0, "stream": True}
    body["stream_options"] = {"include_usage": True}
    whole = http.post("/v1/completions", json={k: body[k] for k in ("model", "prompt", "max_tokens", "temperature")})
    with http.stream("POST", "/v1/completions", json=body) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        raw = response.read().decode()
    assert raw.endswith("\n\n")
    lines = raw[:-2].split("\n\n")
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    assert lines.pop() == "data: [DONE]"
    events = [json.loads(line[6:]) for line in lines]
    head = {key: events[0][key] for key in ("id", "object", "created", "model")}
    assert head["object"] == "text_completion"
    choice = {"index": 0, "logprobs": None, "finish_reason": None}
    usage = events.pop()
    assert usage == head | {"choices": [], "usage": whole.json()["usage"]}
    last = events.pop()
    assert last == head | {"choices": [choice | {"text": "", "finish_reason": "length"}], "usage": None}
    assert events
    for event in events:
        assert event == head | {"choices": [choice | {"text": event["choices"][0]["text"]}], "usage": None}
    assert "".join(e["choices"][0]["text"] for e in events) == whole.json()["choices"][0]["text"]
