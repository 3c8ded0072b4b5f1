"""From a body to the engine's requests, and from its events to one JSON or a stream of server-sent events.

Streams follow what OpenAI's clients rely on: one id, time and model throughout, then the usage if asked for, then
`[DONE]`. A client that goes away frees its slots within one step of the engine.
"""

import asyncio
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from underlay.errors import UserError
from underlay.generate import Engine, ParameterError, Request, Sampling
from underlay.serve.bodies import Body, ChatBody, CompletionBody
from underlay.serve.errors import ApiError, refuse
from underlay.serve.wording import ChatWording, CompletionWording, Json, Wording
from underlay.serve.worker import Job, Worker
from underlay.text import Gap, Message, Tokenizer, render

DEFAULT_LENGTH = 16
"""Tokens of a completion that does not say how many, as in OpenAI's API."""
CLIENT_CLOSED = 499


@dataclass(frozen=True)
class Plan:
    """What one call asks for."""

    requests: list[Request]
    """In the order of the choices: all answers to the first prompt, then all to the second."""
    prompt_tokens: int
    """Each prompt counts once, however many answers it gets."""
    wording: Wording


def plan_completion(engine: Engine, body: CompletionBody) -> Plan:
    """Read the prompts: text begins as the model is used to, token ids are taken as they are. Raises ApiError.

    With a `suffix` the model fills in what stands between a prompt and it.
    """
    tokenizer = engine.tokenizer
    if body.echo and body.logprobs is not None:
        raise ApiError(
            400, "'logprobs' covers new tokens alone, not those that 'echo' repeats", "invalid_value", "echo"
        )
    given, stop_ids = _prompts(body.prompt), None
    if not given:
        raise ApiError(400, "'prompt' holds no prompt", "invalid_value", "prompt")
    if body.suffix is not None:
        prompts, stop_ids = _gaps(tokenizer, given, body.suffix)
    else:
        with _blaming("prompt"):
            prompts = [tokenizer.prompt(p) if isinstance(p, str) else p for p in given]
    length = DEFAULT_LENGTH if body.max_tokens is None else body.max_tokens
    requests = _requests(engine, body, prompts, length, "max_tokens", body.logprobs, stop_ids=stop_ids)
    # What stands in a request with a suffix is not the prompt alone.
    echoed = map(tokenizer.decode, prompts) if body.suffix is None else map(str, given)
    echoes = [text if body.echo else "" for text in echoed for _ in range(body.n or 1)]
    return Plan(requests, sum(map(len, prompts)), CompletionWording(tokenizer, echoes))


def _gaps(
    tokenizer: Tokenizer, prompts: Sequence[str | list[int]], suffix: str
) -> tuple[list[list[int]], frozenset[int]]:
    """Ids of each prompt, the gap and the suffix, and those that end what is filled in. Raises ApiError."""
    with _blaming("suffix"):
        gap = Gap(tokenizer)
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise ApiError(400, "'suffix' needs a 'prompt' that is text, not token ids", "invalid_value", "suffix")
    with _blaming("prompt"):
        return [gap.prompt(str(prompt), suffix) for prompt in prompts], gap.stop_ids


def _prompts(given: str | list[str] | list[int] | list[list[int]]) -> list[str] | list[list[int]]:
    """One prompt, or a list of them, is a list of them."""
    if isinstance(given, str):
        return [given]
    tokens = [item for item in given if isinstance(item, int)]
    return [tokens] if tokens else [item for item in given if not isinstance(item, int)]  # type: ignore[return-value]


def plan_chat(engine: Engine, body: ChatBody) -> Plan:
    """Render the conversation; the answer may take what is left of the context. Raises ApiError."""
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        message = "send 'max_completion_tokens' or 'max_tokens', not both"
        raise ApiError(400, message, "invalid_value", "max_tokens")
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "'top_logprobs' needs 'logprobs' to be true", "invalid_value", "top_logprobs")
    messages = [Message("system" if m.role == "developer" else m.role, m.text) for m in body.messages]
    with _blaming("messages"):
        prompt, _ = render(engine.tokenizer, messages, reply=True)
    wanted = body.max_completion_tokens or body.max_tokens
    param = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
    length = wanted or max(1, engine.context - len(prompt))
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    requests = _requests(engine, body, [prompt], length, param, logprobs, "messages")
    return Plan(requests, len(prompt), ChatWording(engine.tokenizer))


@contextmanager
def _blaming(param: str) -> Iterator[None]:
    """What the tokenizer or its template refuses is an ApiError that names the client's parameter."""
    try:
        yield
    except UserError as error:
        raise ApiError(400, f"{param!r}: {error}", "invalid_value", param) from error


def _requests(
    engine: Engine,
    body: Body,
    prompts: list[list[int]],
    length: int,
    length_param: str,
    logprobs: int | None,
    prompt_param: str = "prompt",
    stop_ids: frozenset[int] | None = None,
) -> list[Request]:
    """`n` requests a prompt, each with a seed of its own, checked. Raises ApiError naming the client's parameter."""
    seed = secrets.randbits(63) if body.seed is None else body.seed
    defaults = Sampling()
    requests: list[Request] = []
    try:
        for prompt in prompts:
            for _ in range(body.n or 1):
                sampling = Sampling(
                    temperature=defaults.temperature if body.temperature is None else body.temperature,
                    top_k=body.top_k,
                    top_p=defaults.top_p if body.top_p is None else body.top_p,
                    min_p=defaults.min_p if body.min_p is None else body.min_p,
                    seed=seed + len(requests),
                )
                requests.append(Request(prompt, length, sampling, body.stops, stop_ids, logprobs))
                engine.check(requests[-1])
    except ParameterError as error:
        raise refuse(error, {"prompt": prompt_param, "max_tokens": length_param}.get(error.parameter)) from error
    return requests


async def respond(worker: Worker, http: HttpRequest, body: Body, plan: Plan) -> Response:
    """Generate what is planned. Raises ApiError 400, 429 or 503."""
    if len(plan.requests) > worker.capacity:
        message = f"{len(plan.requests)} answers in one call; this server has room for {worker.capacity}"
        raise ApiError(400, message, "invalid_value", "n")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "'stream_options' needs 'stream' to be true", "invalid_value", "stream_options")
    job = worker.submit(plan.requests)
    reply = _Reply(job, plan, body, f"{plan.wording.prefix}{uuid.uuid4().hex}", int(time.time()))
    if body.stream:
        return _EventStream(reply)
    try:
        return await reply.whole(http)
    finally:
        job.cancel()


@dataclass(frozen=True)
class _Reply:
    job: Job
    plan: Plan
    body: Body
    id: str
    created: int

    def envelope(self, kind: str, choices: list[Json]) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.body.model, "choices": choices}

    def usage(self, generated: int) -> Json:
        prompt = self.plan.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}

    async def whole(self, http: HttpRequest) -> Response:
        """Everything in one JSON, unless the client goes away first."""
        finished = asyncio.ensure_future(self._finish())
        gone = asyncio.ensure_future(_disconnect(http))
        try:
            await asyncio.wait((finished, gone), return_when=asyncio.FIRST_COMPLETED)
            return JSONResponse(finished.result()) if finished.done() else Response(status_code=CLIENT_CLOSED)
        finally:
            finished.cancel()
            gone.cancel()

    async def _finish(self) -> Json:
        async for _ in self.job.events():
            pass
        answers = [handle.answer() for handle in self.job.handles]
        choices = [self.plan.wording.choice(index, answer) for index, answer in enumerate(answers)]
        body = self.envelope(self.plan.wording.whole_kind, choices)
        return body | {"usage": self.usage(sum(len(answer.ids) for answer in answers))}

    async def chunks(self) -> AsyncIterator[str]:
        """The stream, one server-sent event at a time."""
        wording, generated = self.plan.wording, 0
        try:
            for index in range(len(self.plan.requests)):
                if first := wording.first(index):
                    yield self._chunk(first)
            async for index, event in self.job.events():
                generated += 1
                if event.text or event.logprob is not None:
                    yield self._chunk(wording.piece(index, event))
                if event.finish is not None:
                    yield self._chunk(wording.last(index, event.finish))
        except ApiError as error:
            yield _event(error.body())
            return
        if self.body.usage:
            yield _event(self.envelope(wording.chunk_kind, []) | {"usage": self.usage(generated)})
        yield "data: [DONE]\n\n"

    def _chunk(self, choice: Json) -> str:
        # Whoever asks for the usage is told in every chunk that it is still to come.
        later: Json = {"usage": None} if self.body.usage else {}
        return _event(self.envelope(self.plan.wording.chunk_kind, [choice]) | later)


class _EventStream(StreamingResponse):
    def __init__(self, reply: _Reply) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(reply.chunks(), media_type="text/event-stream", headers=headers)
        self._job = reply.job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Also where the client went before the first chunk, when the generator has not even begun.
            self._job.cancel()


def _event(data: Json) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _disconnect(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
