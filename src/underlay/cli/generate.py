"""`underlay generate` and `underlay chat`: continue a text, or talk."""

import sys
from collections.abc import Sequence
from dataclasses import replace
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
from underlay.cli.engines import (
    ADAPTER,
    CacheOption,
    DraftOption,
    EngineChoice,
    GuessOption,
    MemoryOption,
    OneAdapterOption,
    PrecisionOption,
    one_adapter,
)
from underlay.cli.spans import sources_of, with_spans
from underlay.errors import UserError

if TYPE_CHECKING:
    from underlay.generate import Answer, Constraint, Engine, Request
    from underlay.library import Artifact, Library
    from underlay.trace.tracer import Tracer

Temperature = Annotated[float, typer.Option(help="0 always takes the most likely token.")]
MaxTokens = Annotated[int | None, typer.Option(help="Longest answer; by default up to 256, or what the context holds.")]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens that make up this much probability.")]
TopK = Annotated[int | None, typer.Option(help="Keep this many of the likeliest tokens.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same answer.")]

_DEFAULT_LENGTH = 256
_LEAST_ROOM = 64
"""Tokens that a conversation leaves for the next answer."""
_TOGETHER = 8
"""Answers that are written at the same time."""


_CHOICE = "How tokens are chosen"
_FORM = "What the answer must look like"


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
    min_p: Annotated[
        float,
        typer.Option(help="Keep tokens at least this fraction as likely as the likeliest.", rich_help_panel=_CHOICE),
    ] = 0.0,
    typical: Annotated[
        float,
        typer.Option(help="Keep the most typical tokens that make up this much probability.", rich_help_panel=_CHOICE),
    ] = 1.0,
    repetition: Annotated[
        float, typer.Option(help="Above 1: tokens of prompt or answer come again less often.", rich_help_panel=_CHOICE)
    ] = 1.0,
    presence: Annotated[
        float, typer.Option(help="Taken from the logit of each token that came already.", rich_help_panel=_CHOICE)
    ] = 0.0,
    frequency: Annotated[
        float, typer.Option(help="The same, once for each time that it came.", rich_help_panel=_CHOICE)
    ] = 0.0,
    json_schema: Annotated[
        Path | None,
        typer.Option(
            help="The answer is JSON that fits the schema in this file.", rich_help_panel=_FORM, metavar="FILE"
        ),
    ] = None,
    regex: Annotated[
        str | None, typer.Option(help="The whole answer matches this expression.", rich_help_panel=_FORM)
    ] = None,
    choice: Annotated[
        list[str] | None, typer.Option(help="The answer is one of these; repeat it.", rich_help_panel=_FORM)
    ] = None,
    n: Annotated[int, typer.Option("--n", help="So many answers, with seeds one apart.", min=1, max=64)] = 1,
    trace: Annotated[
        bool, typer.Option("--trace", help="Mark what stands word for word in the training data.")
    ] = False,
    adapter: OneAdapterOption = None,
    precision: PrecisionOption = None,
    memory: MemoryOption = None,
    cache: CacheOption = None,
    guess: GuessOption = False,
    draft: DraftOption = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Continue a text with a model."""
    if trace and n > 1:
        raise UserError("--trace follows one answer; leave out --n")
    shelf = open_library(library)
    artifact = shelf.find(model, "model")
    from underlay.generate import Request, Sampling  # brings torch along: what is not there is said before

    constraint = _constraint(json_schema, regex, choice)
    tracer = _tracer(shelf, artifact) if trace else None
    wanted = EngineChoice(min(n, _TOGETHER), precision, one_adapter(adapter), memory, cache, guess, draft)
    engine = wanted.load(shelf, artifact)
    text = read_argument(prompt)
    ids = engine.tokenizer.prompt(text)
    sampling = Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        typical=typical,
        min_p=min_p,
        repetition=repetition,
        presence=presence,
        frequency=frequency,
        seed=seed,
    )
    request = Request(
        ids,
        room(engine, ids, max_tokens),
        sampling,
        stop=tuple(stop or ()),
        constraint=constraint,
        adapter=ADAPTER if adapter else None,
    )
    engine.check(request)
    if n > 1:
        _several(engine, request, n, text, artifact.reference, json_)
        return
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


def _tracer(shelf: "Library", artifact: "Artifact") -> "Tracer":
    from underlay.trace.tracer import Tracer  # what it brings along takes a second, and most answers do without

    return Tracer.of_model(shelf, artifact)


def _constraint(json_schema: Path | None, regex: str | None, choices: list[str] | None) -> "Constraint | None":
    from underlay.generate import Constraint

    if json_schema is None and regex is None and not choices:
        return None
    schema = None
    if json_schema is not None:
        try:
            schema = json_schema.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--json-schema: {json_schema} cannot be read: {error}") from error
    return Constraint(json_schema=schema, regex=regex, choices=tuple(choices) if choices else None)


def _several(engine: "Engine", request: "Request", count: int, text: str, model: str, as_json: bool) -> None:
    """Write several answers to one prompt, one after the other."""
    answers = engine.generate(request.choices(count))
    for answer in answers:
        _complain(answer)
    if as_json:
        told = [{"text": a.text, "finish": a.finish, "tokens": len(a.ids)} for a in answers]
        print_json({"model": model, "prompt": text, "prompt_tokens": answers[0].prompt_tokens, "answers": told})
        return
    for number, answer in enumerate(answers, 1):
        sys.stdout.write(f"--- {number}\n{text}{answer.text}\n")


def _complain(answer: "Answer") -> None:
    if answer.finish == "failed":
        raise UserError(f"the answer failed: {answer.error}")


def chat(
    model: ModelArgument,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    top_k: TopK = None,
    seed: Seed = 0,
    adapter: OneAdapterOption = None,
    precision: PrecisionOption = None,
    memory: MemoryOption = None,
    cache: CacheOption = None,
    guess: GuessOption = False,
    draft: DraftOption = None,
    library: LibraryOption = None,
) -> None:
    """Talk with a model that was adapted, or that brought a chat template.

    An empty line sends what you wrote; /new starts over; Ctrl-D leaves.
    """
    shelf = open_library(library)
    artifact = shelf.find(model, "model")
    from underlay.generate import Request, Sampling  # brings torch along: what is not there is said before
    from underlay.text import Message, render

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    longest = _DEFAULT_LENGTH if max_tokens is None else max_tokens
    asked = Request([0], longest, sampling, adapter=ADAPTER if adapter else None)
    engine = EngineChoice(1, precision, one_adapter(adapter), memory, cache, guess, draft).load(shelf, artifact)
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
        sampling = replace(asked.sampling, seed=seed + len(conversation))
        room = max(1, min(asked.max_tokens, engine.context - len(ids)))
        try:
            answer = _stream(engine, replace(asked, prompt=ids, max_tokens=room, sampling=sampling), show=True)
        except UserError as error:
            out.print(str(error), style="red", markup=False)
            conversation.pop()
            continue
        conversation.append(Message("assistant", answer.text))


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
    _complain(handle.answer())
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
