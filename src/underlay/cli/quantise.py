"""`underlay quantise`: a model in fewer bits, and what it lost."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from underlay.cli.common import JsonOption, LibraryOption, ModelArgument, amount, console, open_library, print_json
from underlay.errors import UserError

if TYPE_CHECKING:
    from underlay.library import Artifact


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(quantise)


def quantise(
    model: ModelArgument,
    bits: Annotated[int, typer.Option(metavar="8|4", help="Bits of a weight.")] = 8,
    method: Annotated[
        Literal["gptq", "nearest"],
        typer.Option(help="gptq: the rounding that changes least on real text; nearest: each weight by itself."),
    ] = "gptq",
    dataset: Annotated[
        str | None, typer.Option(help="What to calibrate and measure on; by default what the model was trained on.")
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="The same, for models that come from elsewhere.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call it; by default the model's name and -int8.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as quantise.rows=64.")
    ] = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Make a smaller model of one that writes on: its matrices, the output head too, in whole numbers of 8 or 4 bits.

    It takes a quarter or an eighth of the room of float32. What it loses is measured on held-out text.
    """
    from underlay.cli.display import Display
    from underlay.recipe.quantising import quantise_recipe
    from underlay.recipe.run import run_recipe

    if dataset and corpus:
        raise UserError("--dataset, --corpus: give one of them")
    shelf = open_library(library)
    given = {"dataset": dataset, "corpus": corpus}
    settings: dict[str, Any] = {"bits": bits, "method": method} | {key: text for key, text in given.items() if text}
    recipe = quantise_recipe(shelf, shelf.find(model, "model"), settings, name, set_ or ())
    with Display(console(stderr=json_)) as display:
        made = run_recipe(recipe, shelf, display)["quantise"]
    if json_:
        kept = ("text", "before", "after", "perplexity_lost", "divergence")
        print_json({"model": made.reference} | {key: made.manifest.metrics[key] for key in kept})
        return
    _show(made)


def _show(made: "Artifact") -> None:
    metrics, out = made.manifest.metrics, console()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="left" if not heading else "right")
    sides = metrics["before"], metrics["after"]
    table.add_row("weights", *(amount(side["bytes"], "B") for side in sides))
    table.add_row("nats per token", *(f"{side['nats_per_token']:.4f}" for side in sides))
    table.add_row("bits per byte", *(f"{side['bits_per_byte']:.4f}" for side in sides))
    table.add_row("perplexity", *(f"{side['perplexity']:.3f}" for side in sides))
    table.add_row("divergence, nats per token", "", f"{metrics['divergence']:.2g}")
    out.print(table)
    lost = f"{metrics['perplexity_lost']:+.2%}"
    out.print(f"Perplexity changed by {lost} on held-out text of {metrics['text']}.", markup=False)
