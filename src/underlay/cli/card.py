"""`underlay card`: one data card of several corpora, of a dataset, or of what a model has read."""

from pathlib import Path
from typing import Annotated

import typer

from underlay.cli.common import JsonOption, LibraryOption, console, open_library, print_json
from underlay.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(card)


def card(
    references: Annotated[
        list[str], typer.Argument(metavar="REFERENCE...", help="Corpora; or a dataset, or a model pretrained on one.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where card.html and card.md go.")
    ] = Path("card"),
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Write one data card of several parts: how much of each there is and is read, and what stands in it."""
    from underlay.recipe.carding import card_of

    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; name a folder with --output")
    page, text = card_of(open_library(library), references, output)
    if json_:
        print_json({"html": str(page), "markdown": str(text)})
        return
    console().print(f"Data card: {page}", markup=False)
