"""`underlay generate` and `underlay chat`: continue a text, or talk."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from underlay.cli.common import (
    JsonOption,
    LibraryOption,
    ModelArgument,
    as_text,
    console,
    open_library,
    print_json,
    read_argument,
)
from underlay.cli.spans import sources_of, with_spans
from underlay.errors import UserError

if TYPE_CHECKING:
    from underlay.generate import Answer, Engine, Request

Temperature = Annotated[float, typer.Option(help="0 always takes the most likely token.")]
MaxTokens = Annotated[int | None, typer.Option(help="Longest answer; by default up to 256, or what the context holds.")]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens that make up this much probability.")]
TopK = Annotated[int | None, typer.Option(help="Keep this many of the likeliest tokens.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same answer.")]

_DEFAULT_LENGTH = 256
_LEAST_ROOM = 64
"""Tokens that a conversation leaves for the next answer."""


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(generate)
    app.command()(chat)


def generate(
    model: ModelArgument,
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="The text to continue; - reads it from standard input.")
    ],
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    top_k: TopK = None,
    seed: Seed = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Mark what stands word for word in the training data.")
    ] = False,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Continue a text with a model."""
    from underlay.generate import Request, Sampling
    from underlay.trace.tracer import Tracer

    shelf = open_library(library)
    artifact = shelf.find(model, "model")
    tracer = Tracer.of_model(shelf, artifact) if trace else None
    engine = _engine(artifact.folder)
    text = read_argument(prompt)
    ids = engine.tokenizer.prompt(text)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    request = Request(ids, room(engine, ids, max_tokens), sampling, stop=tuple(stop or ()))
    engine.check(request)
    if not json_ and not tracer:
        sys.stdout.write(text)
    answer = _stream(engine, request, show=not json_ and not tracer)
    traced = tracer.trace(text + answer.text).to_dict() if tracer else None
    if json_:
        tokens = {"prompt": answer.prompt_tokens, "completion": len(answer.ids)}
        result = {"model": artifact.reference, "prompt": text, "text": answer.text, "finish": answer.finish}
        print_json(result | {"tokens": tokens} | ({"trace": traced} if traced else {}))
    elif traced:
        out = console()
        for line in (with_spans(traced["text"], traced["spans"]), *sources_of(traced, len(text.encode()))):
            out.print(line)
        out.print(traced["caveat"], style="dim", markup=False)


def chat(
    model: ModelArgument,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    top_k: TopK = None,
    seed: Seed = 0,
    library: LibraryOption = None,
) -> None:
    """Talk with a model that was adapted, or that brought a chat template.

    An empty line sends what you wrote; /new starts over; Ctrl-D leaves.
    """
    from underlay.generate import Request, Sampling
    from underlay.text import Message, render

    artifact = open_library(library).find(model, "model")
    engine = _engine(artifact.folder)
    if not engine.tokenizer.converses:
        raise UserError(
            f"{artifact.reference} has neither marks of turns nor a chat template; use `underlay generate`, or import "
            "it again with its chat_template.jinja beside it"
        )
    out = console()
    out.print(f"{artifact.reference}. An empty line sends; /new starts over; Ctrl-D leaves.", style="dim")
    conversation: list[Message] = []
    while (text := _read_turn()) is not None:
        if text.strip() == "/new":
            conversation = []
            continue
        # Instructions that models are adapted on here end in a newline; templates bring their own ends.
        conversation.append(Message("user", text if engine.tokenizer.native else text.rstrip("\n")))
        try:
            ids, _ = render(engine.tokenizer, conversation, reply=True)
        except UserError as error:  # the template refuses the turn
            out.print(str(error), style="red", markup=False)
            conversation.pop()
            continue
        wanted = min(max_tokens or _LEAST_ROOM, engine.context // 2)
        while len(ids) + wanted > engine.context and len(conversation) > 1:
            out.print("(the conversation is longer than the model's context: its oldest turn is dropped)", style="dim")
            conversation = conversation[2:]  # a question goes with its answer
            ids, _ = render(engine.tokenizer, conversation, reply=True)
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed + len(conversation))
        try:
            room = max(1, min(max_tokens or _DEFAULT_LENGTH, engine.context - len(ids)))
            answer = _stream(engine, Request(ids, room, sampling), show=True)
        except UserError as error:
            out.print(str(error), style="red", markup=False)
            conversation.pop()
            continue
        conversation.append(Message("assistant", answer.text))


def _engine(folder: Path) -> "Engine":
    from underlay.generate import Engine
    from underlay.models.storage import load_decoder
    from underlay.text import Tokenizer

    return Engine(load_decoder(folder), Tokenizer.load(folder), slots=1)


def room(engine: "Engine", ids: Sequence[int], wanted: int | None) -> int:
    """The answer's length: what the user wants, else what the context has room for."""
    return wanted if wanted is not None else max(1, min(_DEFAULT_LENGTH, engine.context - len(ids)))


def _stream(engine: "Engine", request: "Request", show: bool) -> "Answer":
    handle = engine.submit(request)
    finished = False
    while not finished:
        for event in engine.step():
            if show:
                sys.stdout.write(event.text)
                sys.stdout.flush()
            finished = event.finish is not None
    if show:
        sys.stdout.write("\n")
    return handle.answer()


def _read_turn() -> str | None:
    """Lines up to an empty one; None at the end of input."""
    lines: list[str] = []
    while True:
        try:
            line = as_text(input("> " if not lines else "  "))
        except EOFError:
            return "\n".join(lines) or None
        if line.strip() == "/new":
            return line
        if not line.strip() and lines:
            return "\n".join(lines) + "\n"
        if line.strip():
            lines.append(line)
