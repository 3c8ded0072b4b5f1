import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import torch
from fastapi import FastAPI

from underlay.generate import Engine
from underlay.models import LlamaConfig
from underlay.serve import create_app
from underlay.serve.server import Server, listen
from underlay.text import train_tokenizer

TEXT = ["The quick brown fox jumps over the lazy dog. ", "日本語の文章と、絵文字 🦊🎉 と café naïve. "]


def make_engine(slots: int = 4, context: int = 192) -> Engine:
    tokenizer = train_tokenizer(TEXT * 5, 300)
    torch.manual_seed(0)
    model = LlamaConfig(
        vocabulary=tokenizer.size, context=context, width=32, depth=2, heads=4, kv_heads=2, hidden=64
    ).build()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return Engine(model, tokenizer, slots=slots)


def fake_trace(text: str) -> dict[str, Any]:
    if text == "boom":
        raise RuntimeError("secret at 0x7f00deadbeef in /home/secret/path")
    return {"text": text, "coverage": 0.0, "novel_share": 1.0, "caveat": "", "spans": []}


@dataclass
class Live:
    """A server on an ephemeral port."""

    url: str
    app: FastAPI
    server: Server
    thread: threading.Thread

    @property
    def engine(self) -> Engine:
        engine: Engine = self.app.state.worker.engine
        return engine

    def idle(self, seconds: float = 10) -> bool:
        """Wait until the engine holds nothing."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.engine.running + self.engine.waiting + self.app.state.worker._open == 0:
                return True
            time.sleep(0.01)
        return False


@contextlib.contextmanager
def live(app: FastAPI) -> Iterator[Live]:
    bound = listen(app, "127.0.0.1", 0)
    server = Server(app)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    while not server.started:
        time.sleep(0.01)
        assert thread.is_alive()
    try:
        yield Live(url, app, server, thread)
    finally:
        server.should_exit = True
        thread.join(20)
        bound.close()


@pytest.fixture(scope="session")
def running() -> Iterator[Live]:
    with live(create_app(make_engine(), "tiny", fake_trace)) as server:
        yield server


@pytest.fixture
def http(running: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=30) as client:
        yield client


LiveFactory = Callable[[FastAPI], contextlib.AbstractContextManager[Live]]


@pytest.fixture(scope="session")
def start_live() -> LiveFactory:
    return live


@pytest.fixture(scope="session")
def engine_of() -> Callable[..., Engine]:
    return make_engine
