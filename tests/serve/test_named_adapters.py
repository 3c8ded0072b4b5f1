import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi.testclient import TestClient

from serve.world import make_adapter, make_model
from underlay.errors import UserError
from underlay.generate import Engine, ParameterError, Request, Sampling
from underlay.library import Artifact, Library
from underlay.serve import create_app
from underlay.serve.adapters import MOST_ADAPTERS

BODY: dict[str, Any] = {"model": "tiny", "prompt": "The quick brown", "max_tokens": 16, "temperature": 0}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_model(Library(tmp_path_factory.mktemp("adapters")))


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Two adapters that may be loaded, and what leads out."""
    shelf = tmp_path / "shelf"
    make_adapter(shelf / "one", 1)
    make_adapter(shelf / "deep" / "two", 2)
    outside = make_adapter(tmp_path / "outside", 3)
    (shelf / "link").symlink_to(outside)
    (shelf / "inner").symlink_to(shelf / "one")
    half = shelf / "half"
    half.mkdir()
    (half / "adapter_config.json").write_bytes((outside / "adapter_config.json").read_bytes())
    (half / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
    (shelf / "circle").symlink_to(shelf / "circle")
    return shelf


@pytest.fixture
def engine(artifact: Artifact) -> Engine:
    return Engine.load(artifact.folder, 4, "float32")


@pytest.fixture
def client(engine: Engine, shelf: Path) -> Iterator[TestClient]:
    with TestClient(create_app(engine, "tiny", adapters_from=shelf), base_url="http://localhost") as client:
        yield client


def load(client: Any, name: str, path: str) -> httpx.Response:
    return client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": path})


def unload(client: Any, name: str) -> httpx.Response:
    return client.post("/v1/unload_lora_adapter", json={"lora_name": name})


def text(client: Any, model: str) -> str:
    reply = client.post("/v1/completions", json=BODY | {"model": model})
    assert reply.status_code == 200, reply.text
    assert reply.json()["model"] == model
    return reply.json()["choices"][0]["text"]


def test_a_client_chooses_an_adapter_by_the_name_of_the_model(client: TestClient, engine: Engine, shelf: Path) -> None:
    engine.add_adapter("first", engine.read_adapter(shelf / "one"))
    assert load(client, "team/second", "deep/two").status_code == 200
    prompt = engine.tokenizer.prompt(BODY["prompt"])
    for name, adapter in (("tiny", None), ("first", "first"), ("team/second", "team/second")):
        found = text(client, name)
        fresh = Engine.generate(engine, [Request(prompt, 16, Sampling(temperature=0), adapter=adapter)])[0]
        assert found == fresh.text
    assert len({text(client, name) for name in ("tiny", "first", "team/second")}) == 3
    chat = {"model": "first", "messages": [{"role": "user", "content": "The"}], "max_tokens": 8, "temperature": 0}
    said = [client.post("/v1/chat/completions", json=chat | {"model": name}).json() for name in ("tiny", "first")]
    assert said[0]["choices"] != said[1]["choices"]


def test_models_are_listed_with_what_they_were_adapted_from(client: TestClient, engine: Engine) -> None:
    assert load(client, "one", "one").status_code == 200
    listed = client.get("/v1/models").json()["data"]
    assert [(card["id"], card["parent"]) for card in listed] == [("tiny", None), ("one", "tiny")]
    assert client.get("/v1/models/one").json() == listed[1]
    assert client.get("/v1/models/two").status_code == 404
    assert client.post("/v1/completions", json=BODY | {"model": "two"}).json()["error"]["code"] == "model_not_found"
    assert unload(client, "one").status_code == 200
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["tiny"]
    assert client.post("/v1/completions", json=BODY | {"model": "one"}).status_code == 404


def test_adapters_stay_as_they_are_unless_a_folder_is_named(engine: Engine, shelf: Path) -> None:
    with TestClient(create_app(engine, "tiny"), base_url="http://localhost") as client:
        for reply in (load(client, "one", str(shelf / "one")), unload(client, "one")):
            assert reply.status_code == 403
            assert "--allow-adapters" in reply.json()["error"]["message"]
    assert not engine.adapters


@pytest.mark.parametrize(
    "path",
    [
        *(
            "../outside",
            "one/../../outside",
            "{}/outside",
            "link",
            "half",
            "circle",
            "nowhere",
            "one/adapter_config.json",
        ),
        *(".", "", "one\0", "/etc", "x" * 5000, "~", "deep"),
    ],
)
def test_nothing_but_what_lies_beneath_the_folder_is_read(
    client: TestClient, engine: Engine, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(engine, "read_adapter", read.append)
    reply = load(client, "x", path.format(tmp_path))
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == "lora_path"
    assert path.startswith("{}") or str(tmp_path) not in error["message"]
    assert not read
    assert not engine.adapters


def test_links_within_the_folder_and_whole_paths_are_fine(client: TestClient, shelf: Path) -> None:
    assert load(client, "inner", "inner").status_code == 200
    assert load(client, "whole", str(shelf / "one")).status_code == 200
    assert text(client, "inner") == text(client, "whole") != text(client, "tiny")


def test_what_is_wrong_with_an_adapter_is_told_without_where_it_is(client: TestClient, shelf: Path) -> None:
    make_adapter(shelf / "wide", width=64)
    for name, path, status, param in (
        ("tiny", "one", 409, "lora_name"),
        ("wide", "wide", 400, "lora_path"),
        ("../x", "one", 400, "lora_name"),
    ):
        reply = load(client, name, path)
        assert (reply.status_code, reply.json()["error"]["param"]) == (status, param)
        assert str(shelf) not in reply.text
    assert "made for another" in load(client, "wide", "wide").json()["error"]["message"]
    assert load(client, "one", "one").status_code == 200
    assert load(client, "one", "one").status_code == 409
    assert unload(client, "two").status_code == 404
    more = {"lora_name": "a", "lora_path": "one", "load_inplace": True}
    assert client.post("/v1/load_lora_adapter", json=more).json()["error"]["code"] == "unknown_parameter"


def test_there_is_an_end_to_how_many_are_loaded(client: TestClient) -> None:
    replies = [load(client, f"a{number}", "one").status_code for number in range(MOST_ADAPTERS + 1)]
    assert replies == [200] * MOST_ADAPTERS + [409]


def test_adapters_come_and_go_while_others_are_answered(start_live: Any, engine: Engine, shelf: Path) -> None:
    threads: set[str] = set()
    add, drop, step = engine.add_adapter, engine.drop_adapter, engine.step
    slow = threading.Event()

    def noting(function: Any) -> Any:
        def noted(*arguments: Any) -> Any:
            threads.add(threading.current_thread().name)
            return function(*arguments)

        return noted

    def slower() -> Any:
        slow.wait(0.01)
        return step()

    engine._stop_ids = lambda _: frozenset()  # type: ignore[method-assign]
    engine.add_adapter, engine.drop_adapter, engine.step = noting(add), noting(drop), slower  # type: ignore[method-assign]
    long = BODY | {"max_tokens": 150, "stream": True}
    with (
        start_live(create_app(engine, "tiny", adapters_from=shelf)) as server,
        httpx.Client(base_url=server.url) as http,
        http.stream("POST", "/v1/completions", json=long) as base,
    ):
        lines = base.iter_lines()
        next(lines)
        assert load(http, "one", "one").status_code == 200
        with http.stream("POST", "/v1/completions", json=long | {"model": "one"}) as adapted:
            more = adapted.iter_lines()  # kept, for the client goes with it
            next(more)
            assert unload(http, "one").json()["error"]["code"] == "adapter_in_use"
        end = [unload(http, "one").status_code for _ in range(20)]
        assert 200 in end  # the client has gone, and so has what it wanted
        assert engine.running == 1  # the first one was never held up
        slow.set()
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert threads == {"engine"}


def test_a_request_whose_adapter_went_is_refused_alone(client: TestClient, engine: Engine) -> None:
    submit, left = engine.submit, [1]

    def gone(request: Request) -> Any:
        if request.sampling.seed == 1 and left:  # the second of one call
            left.pop()
            raise ParameterError("adapter", "there is no 'x'")
        return submit(request)

    engine.submit = gone  # type: ignore[method-assign]
    reply = client.post("/v1/completions", json=BODY | {"seed": 0, "n": 3})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "model"
    assert client.post("/v1/completions", json=BODY | {"seed": 1}).status_code == 200
    worker = client.app.state.worker  # type: ignore[attr-defined]
    assert (worker._open, engine.running, engine.waiting) == (0, 0, 0)


def test_what_an_errand_raises_comes_back(client: TestClient) -> None:
    worker = client.app.state.worker  # type: ignore[attr-defined]

    async def scene() -> None:
        worker._loop = asyncio.get_running_loop()
        assert await worker.call(lambda: threading.current_thread().name) == "engine"
        with pytest.raises(ZeroDivisionError):
            await worker.call(lambda: 1 / 0)
        assert await worker.call(lambda: 3) == 3  # and the thread goes on

    loop = worker._loop
    asyncio.run(scene())
    worker._loop = loop


def test_openais_client_reads_the_list(start_live: Any, engine: Engine, shelf: Path) -> None:
    engine.add_adapter("one", engine.read_adapter(shelf / "one"))
    with start_live(create_app(engine, "tiny")) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", _strict_response_validation=True)
        assert [model.id for model in client.models.list()] == ["tiny", "one"]
        assert client.completions.create(**BODY | {"model": "one"}).model == "one"


def test_what_the_server_cannot_be_started_with(engine: Engine, shelf: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        create_app(engine, "tiny", adapters_from=shelf / "nowhere")
    engine.add_adapter("tiny", engine.read_adapter(shelf / "one"))
    with pytest.raises(UserError, match="the model itself is called so"):
        create_app(engine, "tiny")


def test_loading_needs_the_key(engine: Engine, shelf: Path) -> None:
    app = create_app(engine, "tiny", adapters_from=shelf, api_key="secret")
    with TestClient(app, base_url="http://localhost") as client:
        assert load(client, "one", "one").status_code == 401
        assert json.loads(load(client, "one", "one").text)["error"]["code"] == "invalid_api_key"
    assert not engine.adapters
