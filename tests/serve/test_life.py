import asyncio
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from underlay.generate import ParameterError
from underlay.serve import create_app

LONG = {"model": "tiny", "prompt": "The", "max_tokens": 3000, "temperature": 1.0, "stop": None}


@pytest.fixture
def slow(start_live: Any, engine_of: Callable[..., Any]) -> Any:
    """A server with one slot, one place in the queue, and room for a long answer that never ends by itself."""
    engine = engine_of(slots=1, context=4096)
    engine._stop_ids = lambda _: frozenset()
    step = engine.step

    def slower() -> Any:
        time.sleep(0.005)
        return step()

    engine.step = slower
    with start_live(create_app(engine, "tiny", queue_size=1)) as server:
        yield server


def test_a_client_that_goes_frees_its_slot(slow: Any) -> None:
    with httpx.Client(base_url=slow.url) as client:
        with client.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as response:
            next(response.iter_raw())
            assert slow.engine.running == 1
        assert slow.idle()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{slow.url}/v1/completions", json=LONG, timeout=0.3)
    assert slow.idle()


def test_a_full_queue_says_when_to_come_back(slow: Any) -> None:
    async def scene() -> None:
        async with httpx.AsyncClient(base_url=slow.url, timeout=20) as client:
            first = [asyncio.create_task(client.post("/v1/completions", json=LONG)) for _ in range(2)]
            while slow.app.state.worker._open < 2:
                await asyncio.sleep(0.01)
            refused = await client.post("/v1/completions", json=LONG | {"max_tokens": 1})
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "queue_full"
            assert (await client.get("/live")).status_code == 200  # the loop is not held up
            for task in first:
                task.cancel()
            await asyncio.gather(*first, return_exceptions=True)

    asyncio.run(scene())
    assert slow.idle()
    assert httpx.post(f"{slow.url}/v1/completions", json=LONG | {"max_tokens": 1}).status_code == 200


def test_what_is_under_way_ends_before_the_server_does(slow: Any) -> None:
    body = LONG | {"max_tokens": 60}
    replies: list[httpx.Response] = []
    client = httpx.Client(base_url=slow.url, timeout=20)
    thread = threading.Thread(target=lambda: replies.append(client.post("/v1/completions", json=body)))
    thread.start()
    while slow.engine.running == 0:
        time.sleep(0.01)
    slow.server.handle_exit(signal.SIGTERM, None)
    assert not slow.app.state.worker.ready
    thread.join(20)
    slow.thread.join(20)
    assert replies[0].status_code == 200
    assert replies[0].json()["usage"]["completion_tokens"] == 60
    assert not slow.thread.is_alive()
    assert not slow.app.state.worker.alive


def test_a_defect_of_the_engine_ends_no_more_than_what_is_under_way(
    start_live: Any, engine_of: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of()
    run = engine.runner.run

    def broken(_: Any) -> Any:
        engine.runner.run = run
        raise RuntimeError("secret at 0x7f00deadbeef")

    with start_live(create_app(engine, "tiny")) as server:
        for stream in (False, True):
            engine.runner.run = broken
            body = {"model": "tiny", "prompt": "The", "max_tokens": 3, "stream": stream}
            response = httpx.post(f"{server.url}/v1/completions", json=body)
            assert response.status_code == (200 if stream else 500)
            assert '"error"' in response.text
            assert "secret" not in response.text
            assert "[DONE]" not in response.text
            assert "secret" in caplog.text
            assert server.idle()
            assert httpx.post(f"{server.url}/v1/completions", json=body).status_code == 200
        assert httpx.get(f"{server.url}/ready").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ParameterError("adapter", "was dropped"), 400, "was dropped"),
        (RuntimeError("secret"), 500, "generation failed"),
    ],
)
def test_what_the_engine_does_not_take_fails_alone(
    slow: Any, caplog: pytest.LogCaptureFixture, stream: bool, error: Exception, status: int, told: str
) -> None:
    engine, submit = slow.engine, slow.engine.submit
    slow.app.state.worker.capacity = 10
    body = {"model": "tiny", "prompt": "The", "max_tokens": 3001, "n": 3, "stream": stream}
    taken: list[Any] = []

    def second_time(request: Any) -> Any:
        if request.max_tokens == 3001 and len(taken) == 1:
            raise error
        if request.max_tokens == 3001:
            taken.append(request)
        return submit(request)

    with httpx.Client(base_url=slow.url, timeout=20) as client:
        url, other = f"{slow.url}/v1/completions", list[httpx.Response]()
        long = LONG | {"max_tokens": 60}
        thread = threading.Thread(target=lambda: other.append(httpx.post(url, json=long, timeout=20)))
        thread.start()
        while engine.running == 0:
            time.sleep(0.01)
        engine.submit = second_time
        response = client.post("/v1/completions", json=body)
        engine.submit = submit
        assert response.status_code == (200 if stream else status)
        assert told in response.text
        assert "secret" not in response.text
        assert ("secret" in caplog.text) is (status == 500)
        thread.join(20)
        assert other[0].json()["usage"]["completion_tokens"] == 60
        assert slow.idle()
        assert slow.app.state.worker.ready
        assert client.post("/v1/completions", json=body | {"max_tokens": 3}).status_code == 200


def test_a_stuck_or_dead_engine_is_not_ready(running: Any, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = running.app.state.worker
    assert http.get("/ready").status_code == 200
    monkeypatch.setattr(worker, "_open", 1)
    monkeypatch.setattr(worker, "_last_step", time.monotonic() - 1000)
    assert http.get("/ready").status_code == 503
    assert http.get("/live").status_code == 200
    monkeypatch.setattr(worker, "_open", 0)
    assert http.get("/ready").status_code == 200
    monkeypatch.setattr(worker, "_thread", None)
    assert http.get("/live").status_code == 503
    body = {"model": "tiny", "prompt": "The"}
    assert http.post("/v1/completions", json=body).status_code == 503
