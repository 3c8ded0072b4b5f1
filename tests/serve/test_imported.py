"""Serving a model of another tool: no BOS, a chat template of its own, more rows than tokens."""

from collections.abc import Iterator

import httpx
import pytest
import torch
from fastapi import FastAPI
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from underlay.generate import Engine
from underlay.models.qwen import QwenConfig
from underlay.serve import create_app
from underlay.serve.wording import token_name
from underlay.text import Tokenizer

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system turns') }}"
    "{% endif %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def engine() -> Engine:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(["The quick brown fox. "] * 5, trainer)
    tokenizer = Tokenizer(backend, {"eos_token": "<|im_end|>", "chat_template": TEMPLATE})
    torch.manual_seed(0)
    shape = {"width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "hidden": 64, "context": 128}
    model = QwenConfig(vocabulary=tokenizer.size + 300, **shape).build()
    return Engine(model, tokenizer, slots=4)


@pytest.fixture(scope="module")
def http(engine: Engine, start_live: object) -> Iterator[httpx.Client]:
    app: FastAPI = create_app(engine, "tiny")
    with start_live(app) as live, httpx.Client(base_url=live.url, timeout=30) as client:  # type: ignore[operator]
        yield client


def test_completions_without_bos_and_with_ids_beyond_the_tokenizer(http: httpx.Client, engine: Engine) -> None:
    beyond = engine.tokenizer.size + 5
    for prompt in ("The fox", [*engine.tokenizer.encode("The"), beyond]):
        body = {"model": "tiny", "prompt": prompt, "max_tokens": 12, "temperature": 2, "seed": 1}
        answer = http.post("/v1/completions", json={**body, "logprobs": 5})
        assert answer.status_code == 200, answer.text
        tops = answer.json()["choices"][0]["logprobs"]["top_logprobs"]
        assert all(len(top) == 5 for top in tops)
        echoed = http.post("/v1/completions", json={**body, "echo": True}).json()
        assert echoed["choices"][0]["text"].startswith("The")
    assert http.post("/v1/completions", json={"model": "tiny", "prompt": "The fox"}).json()["usage"][
        "prompt_tokens"
    ] == len(engine.tokenizer.encode("The fox"))


def test_what_the_tokenizer_refuses_names_the_parameter(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json={"model": "tiny", "prompt": ""})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt"
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    answer = http.post("/v1/chat/completions", json={"model": "tiny", "messages": turns})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"
    assert "no system turns" in answer.json()["error"]["message"]
    answer = http.post("/v1/chat/completions", json={"model": "tiny", "messages": turns[1:], "logprobs": True})
    assert answer.status_code == 200


def test_tokens_are_called_as_their_files_call_them(engine: Engine) -> None:
    tokenizer = engine.tokenizer
    names = [token_name(tokenizer, index) for index in range(tokenizer.size + 300)]
    assert names[:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert names[-1] == f"id:{tokenizer.size + 299}"
    assert sum(name.startswith("bytes:") for name in names) == 128
