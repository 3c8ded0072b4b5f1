"""Adapters over HTTP: a client chooses one by the name of the model, as vLLM's clients do, and may load others.

Loading is off unless whoever starts the server names a folder; only what lies beneath it is ever read. A path that
leads out of it, be it by `..`, as an absolute path or through a link, is answered like one that leads nowhere. The
adapter is read in a thread, while others are answered, and handed to the engine between two of its steps.
"""

import asyncio
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from underlay.errors import UserError
from underlay.formats.peft import CONFIG, WEIGHTS
from underlay.serve.bodies import LoadBody, UnloadBody
from underlay.serve.errors import ApiError
from underlay.serve.worker import Worker

MOST_ADAPTERS = 64
"""Clients may load so many, for each takes memory."""


class Adapters:
    """The adapters of one server."""

    def __init__(self, worker: Worker, model: str, folder: Path | None) -> None:
        """Take the name of the model itself, and where adapters may be loaded from.

        Raises UserError where there is no such folder, or an adapter is called as the model.
        """
        if model in worker.engine.adapters:
            raise UserError(f"adapter {model}: the model itself is called so; choose another name")
        if folder is not None and not folder.is_dir():
            raise UserError(f"{folder}: no such folder to take adapters from")
        self._worker = worker
        self._model = model
        self._folder = None if folder is None else folder.resolve()

    def meant(self, name: str) -> str | None:
        """The adapter that a client means by a model's name; None: the model as it is. Raises ApiError."""
        if name == self._model:
            return None
        known = self._worker.engine.adapters
        if name not in known:
            here = ", ".join(map(repr, (self._model, *known)))
            raise ApiError(404, f"there is no model {name!r} here, only {here}", "model_not_found", "model")
        return name

    async def load(self, name: str, path: str) -> None:
        """Read an adapter and let requests name it. Raises ApiError."""
        engine, folder = self._worker.engine, self._beneath(path)
        if name == self._model or name in engine.adapters:
            raise ApiError(409, f"there is a model {name!r} here already; unload it first", "name_taken", "lora_name")
        if len(engine.adapters) >= MOST_ADAPTERS:
            raise ApiError(409, f"{MOST_ADAPTERS} adapters are loaded; unload one first", "too_many_adapters")
        try:
            adapter = await asyncio.to_thread(engine.read_adapter, folder)
            await self._worker.call(lambda: engine.add_adapter(name, adapter))
        except UserError as error:
            message = str(error).replace(str(folder), path)  # where the folder is, is not the client's to know
            raise ApiError(400, message, "invalid_adapter", "lora_path") from error

    async def unload(self, name: str) -> None:
        """Forget an adapter. Raises ApiError 409 while requests need it."""
        if self._folder is None:
            raise _off()
        engine = self._worker.engine
        if name not in engine.adapters:
            raise ApiError(404, f"there is no adapter {name!r} here", "model_not_found", "lora_name")
        try:
            await self._worker.call(lambda: engine.drop_adapter(name))
        except UserError as error:
            raise ApiError(409, str(error), "adapter_in_use", "lora_name") from error

    def _beneath(self, path: str) -> Path:
        if self._folder is None:
            raise _off()
        try:
            folder = (self._folder / path).resolve(strict=True)
            files = [(folder / name).resolve(strict=True) for name in (CONFIG, WEIGHTS)]
        except (OSError, ValueError, RuntimeError):  # nothing there, a NUL, links in a circle
            folder, files = Path(), []
        if not files or not all(place.is_relative_to(self._folder) for place in (folder, *files)):
            message = f"{path!r} leads to no adapter ({CONFIG} and {WEIGHTS}) beneath the folder that this server reads"
            raise ApiError(400, message, "invalid_value", "lora_path")
        return folder


def _off() -> ApiError:
    return ApiError(403, "this server was not started with --allow-adapters, so its adapters stay as they are", "off")


def add_adapter_routes(app: FastAPI, adapters: Adapters) -> None:
    """Let clients load and unload adapters."""

    @app.post("/v1/load_lora_adapter")
    async def load(body: LoadBody) -> JSONResponse:
        await adapters.load(body.lora_name, body.lora_path)
        return JSONResponse({"id": body.lora_name, "object": "model", "loaded": True})

    @app.post("/v1/unload_lora_adapter")
    async def unload(body: UnloadBody) -> JSONResponse:
        await adapters.unload(body.lora_name)
        return JSONResponse({"id": body.lora_name, "object": "model", "loaded": False})
