"""`underlay transfer`: let a model go on to learn from text of another kind, without forgetting what it knows."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from underlay.cli.adapt import stem
from underlay.cli.common import JsonOption, LibraryOption, ModelArgument, console, open_library, print_json
from underlay.errors import UserError

if TYPE_CHECKING:
    from underlay.library import Artifact


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(transfer)


def transfer(
    model: ModelArgument,
    data: Annotated[
        list[str], typer.Option("--data", metavar="SOURCE", help="Files or folders of text, or corpus:x; repeatable.")
    ],
    replay: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Of rows that are read again of what it knows; by default 0.2, 0: none."),
    ] = None,
    replay_data: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="Text to read again; by default what the model was trained on here."),
    ] = None,
    passes: Annotated[
        float | None, typer.Option(min=0.001, help="How often the new text is read; by default once.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Length of the run instead.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call it; by default after the model and the text.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as pretrain.train.context=512."),
    ] = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Go on with pretraining on text of another kind, and read some of the old text again meanwhile.

    What it learns and what it forgets is measured on held-out text of both. Stopped, the same command goes on.
    """
    from rich.console import Console

    from underlay.cli.display import Display
    from underlay.recipe.run import run_recipe
    from underlay.recipe.transferring import data_recipe, replay_of, transfer_recipe
    from underlay.train.world import joined

    if passes is not None and steps is not None:
        raise UserError("--passes, --steps: give one of them")
    shelf = open_library(library)
    base = shelf.find(model, "model")
    again = replay_of(shelf, base, replay, replay_data or ())
    called = name or f"{base.manifest.name}-{stem(data[0])}"
    with joined() as world, Display(console(stderr=json_) if world.leads else Console(quiet=True)) as display:
        if world.leads and replay is None and not again.share:
            known = f"what {base.reference} was trained on is not known, so nothing is replayed (--replay-data)"
            console(stderr=True).print(f"note: {known}", markup=False, style="yellow")
        packed = run_recipe(data_recipe(shelf, base, data, again, called), shelf, display, world=world)["pack"]
        recipe = transfer_recipe(shelf, base, packed, again.share, called, passes or 1.0, steps, set_ or ())
        made = run_recipe(recipe, shelf, display, world=world)["pretrain"]
    if not world.leads:
        return
    if json_:
        metrics = made.manifest.metrics
        kept = {key: metrics.get(key) for key in ("steps", "loss", "tokens_per_second", "parts")}
        print_json({"made": made.reference, **metrics["transfer"], **kept})
        return
    _show(made)


def _show(made: "Artifact") -> None:
    found, out = made.manifest.metrics["transfer"], console()
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in (f"held out, {found['unit']}", "before", "after", "forgotten"):
        table.add_column(column, justify="left" if column.startswith("held") else "right")
    for kind, before in found["before"].items():
        lost = found["forgotten"][kind]
        table.add_row(kind, f"{before:.3f}", f"{found['after'][kind]:.3f}", f"{lost:.3f}" if lost else "nothing")
    out.print(table)
    out.print(f"Loss: {(made.folder / 'loss.png').resolve()}", markup=False)
