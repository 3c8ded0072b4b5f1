import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

import underlay.serve
from underlay.errors import UserError
from underlay.serve import create_app, serve
from underlay.serve.guard import LARGEST_BODY, OPEN_PATHS

GOOD: dict[str, Any] = {"model": "tiny", "prompt": "The", "max_tokens": 2}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


def error_of(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "\n" not in body["error"]["message"]
    assert re.fullmatch("req-[0-9a-f]{32}", response.headers["x-request-id"])
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("max_tokens", 0), ("max_tokens", "3"), ("max_tokens", 1.5), ("max_tokens", True),
        ("temperature", -1), ("temperature", 2.1), ("temperature", "hot"),
        ("top_p", 1.1), ("top_k", 0), ("min_p", -0.1), ("seed", 2**63), ("seed", 1.5),
        ("n", 0), ("n", 17), ("stop", ""), ("stop", ["a", ""]), ("stop", ["a"] * 17), ("stop", 3),
        ("logprobs", 21), ("logprobs", True), ("stream", "yes"), ("echo", 1), ("user", 3),
        ("prompt", None), ("prompt", []), ("prompt", [[]]), ("prompt", ["a", 1]), ("prompt", [-1]), ("prompt", [10**6]),
        ("prompt", [True]), ("prompt", {"a": 1}), ("prompt", "\ud800"), ("prompt", ["a"] * 100), ("model", 3),
        ("stream_options", {"include_usage": True}), ("stream_options", []),
        ("presence_penalty", 2.1), ("frequency_penalty", -2.1), ("repetition_penalty", 0), ("typical_p", 1.5),
        ("logit_bias", {"5": 101}), ("logit_bias", {"x": 1}), ("logit_bias", {"05": 1}), ("logit_bias", {"99999": 1}),
        ("logit_bias", {str(i): 1 for i in range(301)}), ("best_of", 0), ("best_of", 17), ("suffix", "x"),
        ("guided_regex", "(a"), ("guided_choice", []), ("guided_choice", [""]), ("truncate_prompt", 1),
        ("response_format", {"type": "text"}),
    ],
)  # fmt: skip
def test_values_out_of_range_are_named(http: httpx.Client, param: str, value: object) -> None:
    response = http.post(
        "/v1/completions", content=json.dumps(GOOD | {param: value}), headers={"content-type": "application/json"}
    )
    error = error_of(response)
    assert (error["param"], error["type"]) == (
        "n" if param == "prompt" and value == ["a"] * 100 else param,
        "invalid_request_error",
    )


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/trace"])
def test_unknown_parameters_are_named(http: httpx.Client, path: str) -> None:
    good = {"/v1/completions": GOOD, "/v1/chat/completions": CHAT, "/trace": {"text": "a"}}[path]
    assert http.post(path, json=good).status_code == 200
    error = error_of(http.post(path, json=good | {"best_offer": 1}))
    assert (error["param"], error["code"]) == ("best_offer", "unknown_parameter")


def test_nested_unknown_parameters_are_named(http: httpx.Client) -> None:
    body = GOOD | {"stream": True, "stream_options": {"include_use": True}}
    assert error_of(http.post("/v1/completions", json=body))["param"] == "stream_options.include_use"


def test_neutral_values_are_accepted(http: httpx.Client) -> None:
    neutral = {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "best_of": 1, "suffix": None}
    nulls = dict.fromkeys(["temperature", "top_p", "n", "stop", "seed", "logprobs", "echo", "stream", "stream_options"])
    assert http.post("/v1/completions", json=GOOD | neutral | nulls).status_code == 200


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages"),
        ({"messages": [{"role": "user", "content": None}]}, "messages"),
        ({"max_completion_tokens": 3}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tools": []}, "tools"),
        ({"best_of": 1}, "best_of"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "text", "json_schema": {"name": "a", "schema": {}}}}, "response_format"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "x"}}}},
            "response_format",
        ),
    ],
)
def test_chat_refuses_by_name(http: httpx.Client, change: dict[str, Any], param: str) -> None:
    assert error_of(http.post("/v1/chat/completions", json=CHAT | change))["param"] == param


def test_too_long_for_the_context(http: httpx.Client) -> None:
    error = error_of(http.post("/v1/completions", json=GOOD | {"prompt": "fox " * 300}))
    assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")
    assert "192" in error["message"]
    error = error_of(http.post("/v1/completions", json=GOOD | {"max_tokens": 500}))
    assert (error["param"], error["code"]) == ("max_tokens", "context_length_exceeded")
    long = CHAT | {"messages": [{"role": "user", "content": "fox " * 300}]}
    error = error_of(http.post("/v1/chat/completions", json=long))
    assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")


def test_other_mistakes(http: httpx.Client) -> None:
    assert error_of(http.post("/v1/completions", json=GOOD | {"model": "x"}), 404)["code"] == "model_not_found"
    for change, param in (
        ({"echo": True, "logprobs": 1, "truncate_prompt": True}, "echo"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"truncate_prompt": True, "stream": True}, "truncate_prompt"),
    ):
        assert error_of(http.post("/v1/completions", json=GOOD | change))["param"] == param
    assert error_of(http.post("/v1/completions", json={"model": "tiny"}))["param"] == "prompt"
    assert error_of(http.get("/nowhere"), 404)["code"] == "not_found"
    assert error_of(http.get("/v1/completions"), 405)["code"] == "method_not_allowed"
    as_json = {"content-type": "application/json"}
    for raw in (b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"prompt": ' + b"9" * 5000 + b"}"):
        error_of(http.post("/v1/completions", content=raw, headers=as_json))
    nan = b'{"model": "tiny", "prompt": "a", "temperature": NaN}'
    assert error_of(http.post("/v1/completions", content=nan, headers=as_json))["param"] == "temperature"
    assert http.post("/v1/completions", content=b"{}", headers={"content-type": "text/plain"}).status_code == 400


def test_bodies_are_capped(http: httpx.Client) -> None:
    assert error_of(http.post("/trace", json={"text": "a" * LARGEST_BODY}), 413)["code"] == "body_too_large"
    chunks = (b"a" * 65536 for _ in range(LARGEST_BODY // 65536 + 2))
    response = http.post("/trace", content=chunks, headers={"content-type": "application/json"})
    assert error_of(response, 413)["code"] == "body_too_large"
    assert error_of(http.get("/live", headers={"x-large": "a" * 70_000}), 431)["code"] == "headers_too_large"
    assert http.get("/live").status_code == 200


def test_trace(http: httpx.Client, engine_of: Callable[..., Any]) -> None:
    assert http.post("/trace", json={"text": "日本"}).json()["text"] == "日本"
    with TestClient(create_app(engine_of(), "tiny"), base_url="http://localhost") as client:
        assert error_of(client.post("/trace", json={"text": "a"}), 404)["code"] == "no_index"


def test_defects_tell_clients_nothing(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    response = http.post("/trace", json={"text": "boom"})
    error = error_of(response, 500)
    assert error["type"] == "server_error"
    assert response.headers["x-request-id"] in error["message"]
    assert not re.search(r"0x[0-9a-f]{6}|/home|secret|Traceback", response.text)
    assert response.headers["x-request-id"] in caplog.text


def test_every_route_asks_for_the_key(engine_of: Callable[..., Any]) -> None:
    app = create_app(engine_of(), "tiny", api_key="sésame")
    with TestClient(app, raise_server_exceptions=False) as client:
        paths = {route.path: route for route in app.routes}  # type: ignore[attr-defined]
        assert set(paths) > OPEN_PATHS
        for path, route in [*paths.items(), ("/nowhere", None), ("/openapi.json", None), ("/docs", None)]:
            for method in getattr(route, "methods", {"GET"}):
                for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "sésame".encode()}):
                    response = client.request(method, path.replace("{model:path}", "tiny"), headers=header)  # type: ignore[arg-type]
                    assert response.status_code == (200 if path in OPEN_PATHS else 401), path
                    if path not in OPEN_PATHS:
                        assert error_of(response, 401)["code"] == "invalid_api_key"
        key = {"authorization": "Bearer sésame".encode()}
        assert client.get("/v1/models", headers=key).status_code == 200  # type: ignore[arg-type]
        assert client.get("//v1/models").status_code == 401
        assert client.get("/live/../v1/models").status_code == 401


def test_without_a_key_only_this_machine_is_answered(http: httpx.Client, engine_of: Callable[..., Any]) -> None:
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::2]:80", ""):
        assert error_of(http.get("/v1/models", headers={"host": host}), 403)["code"] == "wrong_host"
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "[::1]"):
        assert http.get("/v1/models", headers={"host": host}).status_code == 200
    app = create_app(engine_of(), "tiny")
    for host in ("0.0.0.0", "192.168.1.5", "example.com", "::", ""):
        with pytest.raises(UserError, match="give it an API key"):
            serve(app, host, 0)
    with pytest.raises(UserError, match="API key is empty"):
        create_app(engine_of(), "tiny", api_key=" ")


def test_no_cors(http: httpx.Client) -> None:
    response = http.get("/v1/models", headers={"origin": "https://evil.example"})
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_a_taken_port_is_the_users_to_mend(running: Any, engine_of: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"cannot listen on 127\.0\.0\.1, port"):
        serve(create_app(engine_of(), "tiny"), port=int(running.url.rpartition(":")[2]))


def test_the_page_is_self_contained(http: httpx.Client) -> None:
    response = http.get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page = response.text
    assert len(page.encode()) < 40_000
    assert len(re.findall("'sha256-", policy)) == page.count("<script>") + page.count("<style>")
    for danger in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "http://",
        "https://",
        "style=",
    ):
        assert danger not in page, danger
    assert not re.search(r"\son\w+=", page)


def test_nothing_is_unpickled() -> None:
    root = Path(underlay.serve.__file__).parents[1]
    for path in [*(root / "serve").glob("*.py"), *(root / "generate").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = node.module if isinstance(node, ast.ImportFrom) else None
            assert not {"pickle", "marshal", "shelve", "dill"} & {*names, module}, path
            assert not (isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load"), path
