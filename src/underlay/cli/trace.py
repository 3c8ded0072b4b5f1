"""`underlay trace`: from a text to the documents it stands in, from a step of training to those read in it."""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

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


class _TextByDefault(TyperGroup):
    """`underlay trace MODEL TEXT` is short for `underlay trace text MODEL TEXT`."""

    default = "text"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the command in, where another word stands."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_TextByDefault,
    help="Trace a text (`underlay trace MODEL TEXT`) or a step of training to documents.",
    no_args_is_help=True,
)


def register(parent: typer.Typer) -> None:
    """Add the verb."""
    parent.add_typer(app, name="trace")


@app.command()
def text(
    model: ModelArgument,
    words: Annotated[str, typer.Argument(metavar="TEXT", help="The text to trace; - reads it from standard input.")],
    min_tokens: Annotated[int, typer.Option(help="Shortest span worth showing, in tokens.")] = 8,
    matches: Annotated[int, typer.Option(help="Places listed for each span.")] = 3,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Show which parts of a text stand word for word in what a model learned from, with file, line and licence."""
    from underlay.trace.tracer import Tracer

    shelf = open_library(library)
    tracer = Tracer.of_model(shelf, shelf.find(model, "model"))
    found = tracer.trace(read_argument(words), min_tokens, matches).to_dict()
    if json_:
        print_json(found)
        return
    out = console()
    for line in (with_spans(found["text"], found["spans"]), *sources_of(found)):
        out.print(line)
    out.print(found["caveat"], style="dim", markup=False)


@app.command()
def batch(
    model: ModelArgument,
    step: Annotated[int, typer.Option(help="The step of training, counted from 1.")],
    limit: Annotated[int, typer.Option(help="Documents listed at most; 0: all.")] = 40,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """List the documents that a model read in one step of its training, and what the step came to."""
    from underlay.recipe.steps import read_in

    shelf = open_library(library)
    found = read_in(shelf, shelf.find(model, "model"), step)
    if json_:
        print_json(asdict(found))
        return
    out, log = console(), found.log
    left_out = "" if log.get("kept", 1) else ", left out"
    out.print(f"step {step:,}: loss {log['loss']:.3f}, gradient {log['norm']:.3g}, rate {log['rate']:.3g}{left_out}")
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("read", justify="right")
    table.add_column("document", overflow="fold")
    table.add_column("licence")
    shown = found.documents[: limit or None]
    if any(read.part for read in shown):
        table.add_column("part")
    for read in shown:
        place = f"{read.source}:{read.first_line}-{read.last_line}"
        table.add_row(f"{read.tokens:,}", place, read.licence, *([read.part] if read.part else []))
    out.print(table)
    if len(shown) < len(found.documents):
        out.print(f"and {len(found.documents) - len(shown):,} more; --limit 0 lists all", style="dim")
