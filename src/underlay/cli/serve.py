"""`underlay serve`: a model behind an OpenAI-compatible server, and a page to type into."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from underlay.cli.common import LibraryOption, ModelArgument, console, open_library
from underlay.cli.engines import (
    AdapterOption,
    CacheOption,
    DraftOption,
    EngineChoice,
    GuessOption,
    MemoryOption,
    PrecisionOption,
)
from underlay.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(serve)


def serve(
    model: ModelArgument,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than loopback need an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    api_key: Annotated[str | None, typer.Option(envvar="UNDERLAY_API_KEY", help="Ask clients for this key.")] = None,
    slots: Annotated[int, typer.Option(min=1, help="Requests answered at once.")] = 8,
    engine: Annotated[
        Literal["underlay", "vllm"], typer.Option(help="Who answers: our own engine, or vLLM where it is installed.")
    ] = "underlay",
    precision: PrecisionOption = None,
    adapter: AdapterOption = None,
    allow_adapters: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Let clients load adapters from beneath this folder, and unload them."),
    ] = None,
    memory: MemoryOption = None,
    cache: CacheOption = None,
    guess: GuessOption = False,
    draft: DraftOption = None,
    library: LibraryOption = None,
) -> None:
    """Serve a model: /v1/models, /v1/completions, /v1/chat/completions, and a page at /.

    Clients choose an adapter by its name in the place of the model's.
    """
    from underlay.serve import create_app
    from underlay.serve import serve as run_server
    from underlay.trace.tracer import Tracer

    choice = EngineChoice(slots, precision, adapter or [], memory, cache, guess, draft)
    shelf = open_library(library)
    artifact = shelf.find(model, "model")
    out = console()
    growing = allow_adapters is not None
    answers = (
        choice.load_vllm(shelf, artifact, growing) if engine == "vllm" else choice.load(shelf, artifact, shared=True)
    )
    try:
        tracer = Tracer.of_model(shelf, artifact)
    except UserError as error:
        out.print(f"No tracing: {error}", style="yellow", markup=False)
        tracer = None
    trace = (lambda text: tracer.trace(text).to_dict()) if tracer else None
    # A model of our own converses once it was adapted; a brought one, where it says how.
    chats = artifact.manifest.verb == "adapt" or (artifact.manifest.verb == "import" and answers.tokenizer.converses)
    name = f"{artifact.manifest.kind}:{artifact.manifest.name}"
    server = create_app(answers, name, trace=trace, api_key=api_key, chat=chats, adapters_from=allow_adapters)
    run_server(
        server, host, port, lambda url: out.print(f"{artifact.reference} at {url}  (Ctrl-C stops)", markup=False)
    )
