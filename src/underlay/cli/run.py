"""`underlay run`: make everything in a recipe that is not there yet."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from underlay.cli.common import (
    AddressOption,
    EngineName,
    EngineOption,
    JsonOption,
    LibraryOption,
    console,
    make_engine,
    open_library,
    print_json,
)
from underlay.cli.spans import sources_of, with_spans
from underlay.library import Artifact


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(run)


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file, such as recipes/quickstart.yaml.")],
    source: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="PATH", help="Gather this file or folder instead; may be repeated."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as pretrain.train.steps=200."),
    ] = None,
    depth: Annotated[
        int | None, typer.Option(min=1, help="Size of the model to pretrain: its blocks; all else follows.")
    ] = None,
    params: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Size of the model to pretrain: its parameters, such as 10M.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")] = None,
    engine: EngineOption = EngineName.LOCAL,
    address: AddressOption = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Run a recipe: gather, curate, train, evaluate, trace.

    Every stage is an artifact in the library. What is already there, made from the same inputs with the same settings,
    is reused; what was interrupted goes on where it stopped. Started by torchrun, all processes train together.
    """
    from underlay.cli.display import Display
    from underlay.recipe import read_recipe, run_recipe
    from underlay.train.world import joined

    steps = read_recipe(recipe, set_ or (), source or (), depth, params)
    shelf = open_library(library)
    with joined() as world, Display(console(stderr=json_) if world.leads else Console(quiet=True)) as display:
        made = run_recipe(steps, shelf, display, until, world, make_engine(engine, address))
    if not world.leads:
        return
    if json_:
        print_json({stage: artifact.reference for stage, artifact in made.items()})
        return
    for artifact in made.values():
        if artifact.manifest.verb == "report":
            _summarize(console(), artifact)


def _summarize(out: Console, report: Artifact) -> None:
    from underlay.recipe.report import COMPLETIONS, PAGE, next_commands
    from underlay.trace.spans import CAVEAT

    metrics = report.manifest.metrics
    completions = json.loads((report.folder / COMPLETIONS).read_text("utf-8"))
    for completion in completions:
        out.print()
        out.print(with_spans(completion["trace"]["text"], completion["trace"]["spans"]))
        for line in sources_of(completion["trace"], len(completion["prompt"].encode())):
            out.print(line)
    out.print(CAVEAT, style="dim", markup=False)
    out.print()
    out.print(_verdict(metrics))
    out.print(f"Report: {(report.folder / PAGE).resolve()}\n", markup=False)
    out.print("Next:", style="bold")
    for command in next_commands(report.manifest.name):
        out.print(f"  {command}", markup=False)


def _verdict(metrics: dict[str, Any]) -> Text:
    model, xz = metrics["heldout_bits_per_byte"], metrics["xz_bits_per_byte"]
    text = Text.assemble(
        (f"{model:.3f} bits per byte", "bold"),
        f" on {metrics['heldout_files']} files it never read; xz -9e needs {xz:.3f} (one archive of all: ",
        f"{metrics['xz_solid_bits_per_byte']:.3f}).",
    )
    share = metrics["valid_function_share"]
    if share:
        steps = ", ".join(f"{one:.0%} {name}" for name, one in share.items() if name != "base")
        text.append(f" Python accepts {share['base']:.0%} of the functions that it wrote at first, {steps}.")
    return text
