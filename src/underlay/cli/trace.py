"""`underlay trace`: from a text to the documents it stands in."""

from typing import Annotated

import typer

from underlay.cli.common import (
    JsonOption,
    LibraryOption,
    ModelArgument,
    console,
    open_library,
    print_json,
    read_argument,
)
from underlay.cli.spans import sources_of, with_spans


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(trace)


def trace(
    model: ModelArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text to trace; - reads it from standard input.")],
    min_tokens: Annotated[int, typer.Option(help="Shortest span worth showing, in tokens.")] = 8,
    matches: Annotated[int, typer.Option(help="Places listed for each span.")] = 3,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Show which parts of a text stand word for word in what a model learned from, with file, line and licence."""
    from underlay.trace.tracer import Tracer

    shelf = open_library(library)
    tracer = Tracer.of_model(shelf, shelf.find(model, "model"))
    found = tracer.trace(read_argument(text), min_tokens, matches).to_dict()
    if json_:
        print_json(found)
        return
    out = console()
    for line in (with_spans(found["text"], found["spans"]), *sources_of(found)):
        out.print(line)
    out.print(found["caveat"], style="dim", markup=False)
