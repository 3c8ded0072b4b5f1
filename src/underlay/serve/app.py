"""The server's routes: the API that OpenAI's clients speak, where words come from, health, and the page.

A client of OpenAI's works against it by changing its base URL. What sets it apart is `POST /trace`: which parts of a
text stand word for word in the training data, and where.
"""

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from underlay.errors import UserError
from underlay.generate import ServingEngine
from underlay.serve.adapters import Adapters, add_adapter_routes
from underlay.serve.bodies import ChatBody, CompletionBody, TraceBody
from underlay.serve.completions import plan_chat, plan_completion, respond
from underlay.serve.errors import ApiError, install
from underlay.serve.guard import Guard
from underlay.serve.worker import Worker

Trace = Callable[[str], dict[str, Any]]


def create_app(
    engine: ServingEngine,
    name: str,
    trace: Trace | None = None,
    api_key: str | None = None,
    chat: bool = True,
    queue_size: int = 64,
    adapters_from: Path | None = None,
) -> FastAPI:
    """Make the server of one model, called `name` by its clients, and of its adapters, called as the engine does.

    trace: finds a text in the training data, and gives what `POST /trace` answers (`underlay.trace.Trace.to_dict`);
    it is called in a thread, one call at a time. api_key: what clients must send; without one only this machine is
    answered. chat: whether the model was taught to converse. queue_size: how many requests may wait for a slot.
    adapters_from: clients may load adapters from folders beneath this one, and unload them; by default they may not.
    Raises UserError where the key is empty, the queue negative, the folder missing, or an adapter called as the model.
    """
    if api_key is not None and not api_key.strip():
        raise UserError("the API key is empty; give one, or none at all")
    if queue_size < 0:
        raise UserError(f"queue_size: {queue_size} is below 0")
    worker = Worker(engine, queue_size)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await worker.stop()

    app = FastAPI(title="Underlay", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.worker = worker
    app.state.has_key = api_key is not None
    app.add_middleware(Guard, api_key=api_key)
    install(app)
    _add_health(app, worker)
    _add_page(app)
    _add_trace(app, trace)
    created = int(time.time())
    # What a key's holder has sent is found in memory by that key's holder alone.
    salt = "" if api_key is None else hashlib.sha256(api_key.encode()).hexdigest()
    facts = {"context_length": engine.context, "chat": chat, "traceable": trace is not None}
    card = {"id": name, "object": "model", "created": created, "owned_by": "underlay", "parent": None, **facts}
    adapters = Adapters(worker, name, adapters_from)
    add_adapter_routes(app, adapters)

    def described(adapter: str | None) -> dict[str, Any]:
        return card if adapter is None else card | {"id": adapter, "parent": name}

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [described(one) for one in (None, *engine.adapters)]})

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> JSONResponse:
        return JSONResponse(described(adapters.meant(model)))

    @app.post("/v1/completions")
    async def completions(http: Request, body: CompletionBody) -> Response:
        adapter = adapters.meant(body.model)
        return await respond(worker, http, body, await asyncio.to_thread(plan_completion, engine, body, salt, adapter))

    @app.post("/v1/chat/completions")
    async def chat_completions(http: Request, body: ChatBody) -> Response:
        adapter = adapters.meant(body.model)
        if not chat:
            raise ApiError(404, f"{name!r} was not taught to converse; use /v1/completions", "no_chat", "messages")
        return await respond(worker, http, body, await asyncio.to_thread(plan_chat, engine, body, salt, adapter))

    return app


def _add_health(app: FastAPI, worker: Worker) -> None:
    def state(good: bool, words: str) -> JSONResponse:
        return JSONResponse({"status": words if good else f"not {words}"}, 200 if good else 503)

    @app.get("/live")
    async def live() -> JSONResponse:
        return state(worker.alive, "alive")

    @app.get("/ready")
    async def ready() -> JSONResponse:
        return state(worker.ready, "ready")


def _add_trace(app: FastAPI, trace: Trace | None) -> None:
    turn = asyncio.Lock()

    @app.post("/trace")
    async def trace_text(body: TraceBody) -> JSONResponse:
        if trace is None:
            raise ApiError(404, "this model has no index of its training data", "no_index")
        async with turn:
            return JSONResponse(await asyncio.to_thread(trace, body.text))


def _add_page(app: FastAPI) -> None:
    page = resources.files("underlay.serve").joinpath("page.html").read_text("utf-8")
    # The page's own script and style are allowed by their hashes, and nothing else.
    allowed = {
        f"{tag}-src": " ".join(_hash(text) for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL))
        for tag in ("script", "style")
    }
    rules = {"default-src": "'none'", "connect-src": "'self'", "img-src": "data:", **allowed}
    rules |= {"base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'"}
    headers = {"Content-Security-Policy": "; ".join(f"{key} {value}" for key, value in rules.items())}

    @app.get("/")
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
