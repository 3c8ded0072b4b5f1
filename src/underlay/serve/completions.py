"""From a body to the engine's requests, and from its events to one JSON or a stream of server-sent events.

Streams follow what OpenAI's clients rely on: one id, time and model throughout, then the usage if asked for, then
`[DONE]`. A client that goes away frees its slots within one step of the engine.
"""

import asyncio
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from underlay.errors import UserError
from underlay.generate import Answer, Constraint, ParameterError, Request, Sampling, ServingEngine
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
    """All answers to the first prompt, then all to the second."""
    each: int
    """How many answers are written to each prompt."""
    kept: int
    """How many of them are given: the likeliest, where these are fewer."""
    wording: Wording

    def choices(self, answers: Sequence[Answer]) -> list[Answer]:
        """What is given, in order: of more than are wanted, those of the highest mean log-probability."""
        if self.kept == self.each:
            return list(answers)
        chosen: list[Answer] = []
        for start in range(0, len(answers), self.each):
            ranked = sorted(answers[start : start + self.each], key=_mean_logprob, reverse=True)
            chosen += ranked[: self.kept]
        return chosen


def _mean_logprob(answer: Answer) -> float:
    assert answer.logprobs
    return sum(entry.logprob for entry in answer.logprobs) / len(answer.logprobs)


def plan_completion(engine: ServingEngine, body: CompletionBody, salt: str = "", adapter: str | None = None) -> Plan:
    """Read the prompts: text begins as the model is used to, token ids are taken as they are. Raises ApiError.

    With a `suffix` the model fills in what stands between a prompt and it. salt, adapter: see `Request`.
    """
    tokenizer = engine.tokenizer
    told = bool(body.echo) and body.logprobs is not None
    if told and (body.suffix is not None or body.truncate_prompt):
        message = "'echo' with 'logprobs' needs the whole prompt as it is; leave out 'suffix' and 'truncate_prompt'"
        raise ApiError(400, message, "invalid_value", "echo")
    kept = body.n or 1
    each = kept if body.best_of is None else body.best_of
    if each < kept:
        raise ApiError(400, f"'best_of' is {each}, fewer than 'n', which is {kept}", "invalid_value", "best_of")
    if each > kept and body.stream:
        message = "'best_of' compares whole answers, which cannot be streamed; leave out 'stream'"
        raise ApiError(400, message, "invalid_value", "best_of")
    given, stop_ids = _prompts(body.prompt), None
    if not given:
        raise ApiError(400, "'prompt' holds no prompt", "invalid_value", "prompt")
    if body.suffix is not None:
        prompts, stop_ids = _gaps(tokenizer, given, body.suffix)
    else:
        with _blaming("prompt"):
            prompts = [tokenizer.prompt(p) if isinstance(p, str) else p for p in given]
    base = Request(
        [0],
        DEFAULT_LENGTH if body.max_tokens is None else body.max_tokens,
        stop_ids=stop_ids,
        # Answers are compared by their log-probabilities.
        logprobs=0 if body.logprobs is None and each > kept else body.logprobs,
        prompt_logprobs=body.logprobs if told else None,
        constraint=_guide(body),
        salt=salt,
        adapter=adapter,
    )
    requests = _requests(engine, body, base, prompts, each, {"constraint": _guided(body)})
    # What stands in a request with a suffix is not the prompt alone.
    echoed = map(tokenizer.decode, prompts) if body.suffix is None else map(str, given)
    echoes = [text if body.echo else "" for text in echoed for _ in range(kept)]
    ids = [prompt for prompt in prompts for _ in range(kept)] if told else None
    return Plan(requests, each, kept, CompletionWording(tokenizer, echoes, ids, body.logprobs is not None))


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


def plan_chat(engine: ServingEngine, body: ChatBody, salt: str = "", adapter: str | None = None) -> Plan:
    """Render the conversation; the answer may take what is left of the context. Raises ApiError.

    salt, adapter: see `Request`.
    """
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
    base = Request(
        [0],
        length,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        constraint=_format(body),
        salt=salt,
        adapter=adapter,
    )
    names = {"prompt": "messages", "max_tokens": param, "constraint": _guided(body)}
    each = body.n or 1
    return Plan(_requests(engine, body, base, [prompt], each, names), each, each, ChatWording(engine.tokenizer))


def _guided(body: Body) -> str:
    """The parameter that says what an answer must look like."""
    named = (name for name in ("guided_regex", "guided_choice") if getattr(body, name) is not None)
    return next(named, "response_format")


def _guide(body: Body) -> Constraint | None:
    if body.guided_regex is not None and body.guided_choice is not None:
        message = "send one of 'guided_regex' and 'guided_choice', not both"
        raise ApiError(400, message, "invalid_value", "guided_choice")
    if body.guided_regex is not None:
        return Constraint(regex=body.guided_regex)
    return None if body.guided_choice is None else Constraint(choices=tuple(body.guided_choice))


def _format(body: ChatBody) -> Constraint | None:
    wanted, guide = body.response_format, _guide(body)
    if wanted is None:
        return guide
    if (wanted.type == "json_schema") != (wanted.json_schema is not None):
        message = "'response_format' holds 'json_schema' exactly where its 'type' is \"json_schema\""
        raise ApiError(400, message, "invalid_value", "response_format")
    if wanted.type == "text":
        return guide
    if guide is not None:
        message = f"send one of 'response_format' and {_guided(body)!r}, not both"
        raise ApiError(400, message, "invalid_value", "response_format")
    schema = {"type": "object"} if wanted.json_schema is None else wanted.json_schema.schema_
    return Constraint(json_schema=json.dumps(schema))


@contextmanager
def _blaming(param: str) -> Iterator[None]:
    """What the tokenizer or its template refuses is an ApiError that names the client's parameter."""
    try:
        yield
    except UserError as error:
        raise ApiError(400, f"{param!r}: {error}", "invalid_value", param) from error


_NAMES = {
    "bias": "logit_bias",
    "presence": "presence_penalty",
    "frequency": "frequency_penalty",
    "repetition": "repetition_penalty",
    "typical": "typical_p",
    "adapter": "model",
}
"""What clients call the engine's parameters, where it is not the same."""


def _requests(
    engine: ServingEngine, body: Body, base: Request, prompts: list[list[int]], each: int, names: Mapping[str, str]
) -> list[Request]:
    """`each` requests a prompt, with seeds of their own, checked. Raises ApiError naming the client's parameter."""
    seed = secrets.randbits(63) if body.seed is None else body.seed
    given = {
        "temperature": body.temperature,
        "top_k": body.top_k,
        "top_p": body.top_p,
        "typical": body.typical_p,
        "min_p": body.min_p,
        "repetition": body.repetition_penalty,
        "presence": body.presence_penalty,
        "frequency": body.frequency_penalty,
    }
    requests: list[Request] = []
    try:
        sampling = Sampling(
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
            bias={int(token): value for token, value in (body.logit_bias or {}).items()},
        )
        base = replace(base, stop=body.stops, truncate=bool(body.truncate_prompt))
        for prompt in prompts:
            request = replace(base, prompt=prompt, sampling=replace(sampling, seed=seed + len(requests)))
            engine.check(request)
            requests += request.choices(each)
    except ParameterError as error:
        raise refuse(error, {**_NAMES, **names}.get(error.parameter)) from error
    return requests


async def respond(worker: Worker, http: HttpRequest, body: Body, plan: Plan) -> Response:
    """Generate what is planned. Raises ApiError 400, 429 or 503."""
    if len(plan.requests) > worker.capacity:
        message = f"{len(plan.requests)} answers in one call; this server has room for {worker.capacity}"
        raise ApiError(400, message, "invalid_value", "n" if plan.each == plan.kept else "best_of")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "'stream_options' needs 'stream' to be true", "invalid_value", "stream_options")
    if body.truncate_prompt and body.stream and not body.usage:
        message = "'truncate_prompt' is told in the usage; ask for it by 'stream_options': {\"include_usage\": true}"
        raise ApiError(400, message, "invalid_value", "truncate_prompt")
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
        """Each prompt counts once, however many answers it gets."""
        first = self.job.handles[:: self.plan.each]
        prompt = sum(handle.prompt_length for handle in first)
        details: Json = {"cached_tokens": sum(handle.cached for handle in first)}
        if self.body.truncate_prompt:
            details["truncated_tokens"] = sum(len(h.request.prompt) - h.prompt_length for h in first)
        counts = {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
        return {**counts, "prompt_tokens_details": details}

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
        choices = [self.plan.wording.choice(index, answer) for index, answer in enumerate(self.plan.choices(answers))]
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
