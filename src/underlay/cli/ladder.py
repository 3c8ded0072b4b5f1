"""`underlay ladder`: adapt models to one task in every way, and see which way pays."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from underlay.cli.common import JsonOption, LibraryOption, console, duration, open_library, print_json
from underlay.cli.examples import examples_named
from underlay.errors import UserError

if TYPE_CHECKING:
    from underlay.adapt.examples import ExamplesConfig
    from underlay.library import Artifact


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(ladder)


def ladder(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Models in the library, such as model:mine; one or several.")
    ],
    task: Annotated[str, typer.Option("--task", metavar="TASK", help="A YAML file, or a ready task.")],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="FILE", help="What to learn from, and to show; by default the task's examples."),
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option("--test", metavar="FILE", help="What to measure on; by default the task's test.")
    ] = None,
    rungs: Annotated[
        str | None,
        typer.Option(
            help="Ways to go, with commas: majority, tfidf, prompt, few_shot, chain_of_thought, self_consistency, "
            "head, lora, full, distilled; by default all."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often ways are gone in which chance plays a part.")] = 3,
    shots: Annotated[int, typer.Option(min=1, help="Demonstrations of a prompt.")] = 8,
    votes: Annotated[int, typer.Option(min=2, help="Answers that vote, for self-consistency.")] = 5,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure on so many texts, chosen by their hashes.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call it; by default after the task.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="RUNG.KEY=VALUE", help="Change how a way learns: full.train.passes=5."),
    ] = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Adapt models to one task in every way, and see which pays: quality with intervals, and what each costs.

    Each way answers the same test, which none learns from. Stopped, the same command goes on where it was.
    """
    from underlay.adapt.ladder import RUNGS
    from underlay.adapt.prompting import read_task
    from underlay.cli.display import Display
    from underlay.recipe.laddering import Ladder, climb
    from underlay.recipe.recipe import make_recipe
    from underlay.recipe.run import run_recipe

    wanted = [one.strip() for one in rungs.split(",")] if rungs else list(RUNGS)
    if unknown := [one for one in wanted if one not in RUNGS]:
        raise UserError(f"--rungs {unknown[0]}: there are {', '.join(RUNGS)}")
    shelf, asked = open_library(library), read_task(task)
    found = [shelf.find(one, "model") for one in models]
    labels = [one.manifest.name for one in found]
    if twice := sorted({one for one in labels if labels.count(one) > 1}):
        raise UserError(f"model:{twice[0]} is named twice; name each model once")
    called = name or f"{asked.name}-ladder"
    with Display(console(stderr=json_)) as display:

        def artifact(option: str, files: list[str] | None, of_task: "ExamplesConfig | None", called: str) -> "Artifact":
            if files:
                return examples_named(option, files, called, shelf, display)
            if of_task is None:
                raise UserError(f"{option}: the task {asked.name} names no files; give some")
            stage = of_task.model_dump(exclude_unset=True)
            read = make_recipe({"name": called, "stages": {"examples": stage}}, option)
            return run_recipe(read, shelf, display)["examples"]

        made = climb(
            Ladder(
                called,
                dict(zip(labels, found, strict=True)),
                asked,
                artifact("--data", data, asked.examples, f"{called}-data"),
                artifact("--test", test, asked.test, f"{called}-test"),
                [one for one in RUNGS if one in wanted],
                seeds,
                shots,
                votes,
                limit,
                set_ or (),
            ),
            shelf,
            display,
        )
    page = made.folder / "ladder.html"
    if json_:
        print_json({"made": made.reference, "page": str(page)} | made.manifest.metrics)
        return
    _show(made)
    console().print(f"Report: {page.resolve()}", markup=False)


def _show(made: "Artifact") -> None:
    metrics = made.manifest.metrics
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for heading in (metrics["measure"], "95 %", "learning", "a text", "alone"):
        table.add_column(heading, justify="right")
    for row in metrics["ways"]:
        style = "bold" if row["way"] == metrics["pays"] else "" if row["p"] >= 0.05 else "dim"
        learning = duration(row["learn_seconds"]) if row["learn_seconds"] else ""
        interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
        times = (f"{1000 * row[key]:.3g} ms" for key in ("serve_seconds", "serve_alone"))
        table.add_row(row["way"], f"{100 * row['quality']:.1f} %", interval, learning, *times, style=style)
    out = console()
    out.print(table)
    out.print(
        f"{metrics['pays']} pays: nothing sooner comes as near to the best, on {metrics['texts']:,} texts.",
        markup=False,
    )
