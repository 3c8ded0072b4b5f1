"""`underlay data examples` and `underlay data doctor`: what a model is to learn from, and what it would learn of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from underlay.cli.common import JsonOption, LibraryOption, ModelArgument, console, open_library, print_json
from underlay.errors import UserError

if TYPE_CHECKING:
    from underlay.adapt.doctor import Diagnosis
    from underlay.adapt.examples import Example
    from underlay.cli.display import Display
    from underlay.library import Artifact, Library
    from underlay.train.world import World

FormOption = Annotated[
    Literal["conversation", "preference", "judgement", "problem", "label", "tags", "question", "similar"] | None,
    typer.Option(help="What the examples are; by default what their columns tell."),
]
LayoutOption = Annotated[
    Literal["json", "jsonl", "csv", "tsv", "parquet", "conll"] | None,
    typer.Option(help="How the files are laid out; by default as their endings say."),
]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="NAME=COLUMN", help="What the files call a column: text=review; repeatable."),
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="COLUMN=VALUE", help="Only records with this value: split=train; repeatable."),
]
WorkedOption = Annotated[
    bool, typer.Option("--worked", help="Conversations of questions whose answers end in #### 42, with the way there.")
]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(examples)
    app.command()(doctor)


def examples(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files, folders, patterns of paths or URLs.")],
    name: Annotated[str, typer.Option(metavar="NAME", help="What the artifact is called.")],
    form: FormOption = None,
    layout: LayoutOption = None,
    column: ColumnOption = None,
    where: WhereOption = None,
    worked: WorkedOption = False,
    licence: Annotated[str | None, typer.Option(metavar="SPDX", help="What all of them are under.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Read at most so many, the first.")] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Conversations in which this task is done: a YAML file, or a ready task."),
    ] = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Read examples to adapt a model by into the library, as the stage `examples` of a recipe does."""
    from underlay.cli.display import Display
    from underlay.recipe.recipe import make_recipe
    from underlay.recipe.run import run_recipe

    stage = given_files(files, form, layout, column, where, worked) | {"licence": licence, "limit": limit, "task": task}
    recipe = make_recipe({"name": name, "stages": {"examples": stage}}, "data examples")
    with Display(console(stderr=json_)) as display:
        made = run_recipe(recipe, open_library(library), display)["examples"]
    metrics = made.manifest.metrics
    if json_:
        print_json({"reference": made.reference, "licences": made.manifest.licences, **metrics})
        return
    out = console()
    for format_, count in metrics["formats"].items():
        out.print(f"{count:,} {format_}", markup=False)
    for reason, count in metrics["left_out"].items():
        first = metrics["left_out_first"][reason]
        out.print(f"{count:,} left out: {reason}, first at {first}", markup=False, style="yellow")
    if metrics["columns_not_read"]:
        out.print(f"columns that were not read: {', '.join(metrics['columns_not_read'])}", markup=False, style="dim")


def doctor(
    model: ModelArgument,
    source: Annotated[str, typer.Argument(metavar="FILE|examples:NAME", help="A file of examples, or an artifact.")],
    context: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Tokens in a row of training; by default the model's.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, metavar="K", help="Conversations shown token by token.")] = 3,
    template: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="With this template: alpaca, chatml, llama3, or a file in Jinja."),
    ] = None,
    form: FormOption = None,
    layout: LayoutOption = None,
    column: ColumnOption = None,
    where: WhereOption = None,
    worked: WorkedOption = False,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Show what a model would learn of conversations, token by token; exit code 2 where that is not what people mean.

    Found are weights that are all 0 or all 1, two beginnings, turns that end in padding or never, prompts that change
    once they are answered, special tokens out of words, and turns that a template leaves out.
    """
    from underlay.adapt.doctor import examine
    from underlay.cli.display import bar
    from underlay.cli.tokens import show_diagnosis
    from underlay.models.storage import load_config
    from underlay.text import Tokenizer
    from underlay.text.templates import with_template

    shelf = open_library(library)
    artifact = shelf.find(model, "model")
    tokenizer = Tokenizer.load(artifact.folder)
    if template:
        tokenizer = with_template(tokenizer, template)
    given = given_files([source], form, layout, column, where, worked)
    read, longest = _read(shelf, source, given), context or load_config(artifact.folder).context
    with bar("rendering", console(stderr=True)) as progress:
        found = examine(tokenizer, read, longest, show, progress)
    if json_:
        print_json({"model": artifact.reference, **_as_mapping(found)})
    else:
        show_diagnosis(console(), found)
    found.require_sound()


def examples_named(
    option: str,
    given: list[str],
    called: str,
    shelf: "Library",
    display: "Display",
    world: "World | None" = None,
) -> "Artifact":
    """Examples of the library where one is named, else those that are read from files. Raises UserError where both."""
    from underlay.recipe.recipe import make_recipe
    from underlay.recipe.run import run_recipe

    if any(one.startswith("examples:") for one in given):
        if len(given) > 1:
            raise UserError(f"{option} {given[0]}: name either files, or examples of the library, one of them")
        return shelf.find(given[0], "examples")
    read = make_recipe({"name": called, "stages": {"examples": {"source": given}}}, option)
    return run_recipe(read, shelf, display, world=world)["examples"]


def given_files(
    files: list[str],
    form: str | None,
    layout: str | None,
    column: list[str] | None,
    where: list[str] | None,
    worked: bool,
) -> dict[str, Any]:
    """What was typed, as settings of examples."""
    pairs = {"columns": _pairs("--column", column), "where": _pairs("--where", where)}
    return {"source": tuple(files), "form": form, "layout": layout, "worked": worked, **pairs}


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    found = [one.partition("=") for one in given or ()]
    if bad := next((one for one in found if not all(one)), None):
        raise UserError(f"{option} {''.join(bad)}: write NAME=VALUE")
    return {name: value for name, _, value in found}


def _read(shelf: "Library", source: str, given: dict[str, Any]) -> "list[Example]":
    from underlay.adapt.examples import Examples, ExamplesConfig, read_examples
    from underlay.config import parse

    if not source.startswith("examples:") or Path(source).exists():
        reading = read_examples(parse(ExamplesConfig, given, "data doctor"))
        for line in reading.left_out.lines():
            console(stderr=True).print(f"note: {line}", markup=False, style="yellow")
        return reading.examples
    if stray := [key for key, value in given.items() if value and key != "source"]:
        raise UserError(f"{source} was read already, so --{stray[0].rstrip('s')} has no meaning beside it")
    return list(Examples(shelf.find(source, "examples").folder))


def _as_mapping(found: "Diagnosis") -> dict[str, Any]:
    totals = ("context", "examples", "conversations", "tokens", "learned", "longest", "longer")
    return {
        **{name: getattr(found, name) for name in totals},
        "problems": [vars(problem) for problem in found.problems.values()],
        "shown": [
            [
                {"id": index, "token": one.tokenizer.name(index), "weight": weight}
                for index, weight in zip(one.ids, one.weights, strict=True)
            ]
            for one in found.shown
        ],
    }
