"""`underlay gather` and `underlay curate`: a corpus from sources, a better one, and what other rules would do."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from underlay.cli.common import JsonOption, LibraryOption, amount, console, open_library, print_json

if TYPE_CHECKING:
    from underlay.data.curate.whatif import Amount
    from underlay.library import Artifact, Library
    from underlay.recipe.curation import Answer

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting of a stage, such as curate.near_duplicates=false."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(gather)
    app.command()(curate)


def gather(
    source: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Files, folders, or python-stdlib.")],
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the corpus, such as notes-raw.")],
    set_: SetOption = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Read sources into a corpus, as the stage `gather` of a recipe does."""
    from underlay.cli.display import Display
    from underlay.recipe.curation import gather_recipe
    from underlay.recipe.run import run_recipe

    recipe = gather_recipe(source, name, set_ or ())
    with Display(console(stderr=json_)) as display:
        made = run_recipe(recipe, open_library(library), display)["gather"]
    if json_:
        print_json({"gather": made.reference})
        return
    console().print(f"Next: underlay curate {made.reference}", markup=False)


def curate(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="A corpus in the library, such as corpus:notes-raw.")],
    preset: Annotated[
        list[str] | None, typer.Option(metavar="PRESET", help="Rules by name: basic, gopher, c4, fineweb; repeatable.")
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=CONDITION", help="A rule of your own; NAME=null takes one away; repeatable."),
    ] = None,
    what_if: Annotated[
        list[str] | None,
        typer.Option(metavar="CONDITION", help="Make nothing: say what this rule would keep; repeatable."),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Documents shown of each fate, with --what-if.")] = 3,
    canaries: Annotated[
        int,
        typer.Option(min=0, max=10_000, metavar="N", help="Plant N random sequences, to measure memorisation later."),
    ] = 0,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the curated corpus.")] = None,
    set_: SetOption = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Curate a corpus, as the stages `tag` and `curate` of a recipe do; or ask what other rules would keep.

    With --what-if the rules of now are those of the newest corpus that was curated from this one, or those given.
    """
    from underlay.cli.display import Display
    from underlay.errors import UserError
    from underlay.recipe.curation import as_mapping, ask, check_presets, curate_recipe
    from underlay.recipe.run import run_recipe

    check_presets(preset or ())
    shelf = open_library(library)
    raw = shelf.find(corpus, "corpus")
    if what_if:
        for option, given in (("--name", name), ("--set", set_), ("--canaries", canaries)):
            if given:
                raise UserError(f"--what-if makes nothing, so {option} has no meaning beside it")
        with Display(console(stderr=True)) as display:
            answer = ask(shelf, raw, what_if, display, preset or (), rule or (), examples)
        if json_:
            print_json(as_mapping(answer))
        else:
            _show_answer(console(), answer)
        return
    recipe = curate_recipe(shelf, raw, name, preset or (), rule or (), set_ or (), canaries)
    with Display(console(stderr=json_)) as display:
        made = run_recipe(recipe, shelf, display)
    if json_:
        print_json({stage: artifact.reference for stage, artifact in made.items()} | {"card": _card(made["curate"])})
        return
    _show_funnel(console(), shelf, made["curate"])


def _card(curated: "Artifact") -> str:
    from underlay.evaluate.card import PAGE

    return str((curated.folder / PAGE).resolve())


def _show_funnel(out: Console, shelf: "Library", curated: "Artifact") -> None:
    from underlay.data import Corpus
    from underlay.data.curate import funnel

    raw = shelf.parents(curated)["corpus"]
    assert raw
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("", "documents", "size"):
        table.add_column(column, justify="right" if column else "left")
    for reason, documents, size in funnel(Corpus(raw.folder), Corpus(curated.folder)):
        style = "bold" if reason in ("found", "kept") else ""
        table.add_row(reason, f"{documents:,}", amount(size, "B"), style=style)
    out.print(table)
    if planted := curated.manifest.metrics.get("canaries"):
        counts = f"{planted['different']:,} canaries as {planted['documents']:,} documents"
        out.print(f"Planted: {counts}, listed in canaries.json beside the data card", markup=False)
    out.print(f"Data card: {_card(curated)}", markup=False)


def _show_answer(out: Console, answer: "Answer") -> None:
    from underlay.evaluate.page import visible

    found = answer.found
    now = answer.base.reference if answer.base else "the rules given" if found.now != found.found else "no rules"
    out.print(f"{answer.corpus.reference}, beside the rules of {now}", markup=False, style="dim")
    for rule in found.asked:
        before = found.replaced[rule.name]
        instead = f" instead of {before}" if before else ", one rule more"
        out.print(f"{rule.name}: {rule.text}{instead}", markup=False)
    for name in found.removed:
        out.print(f"without the rule {name}", markup=False)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("", "documents", "size", "tokens"):
        table.add_column(column, justify="right" if column else "left")
    for label, part in (
        ("now kept", found.now),
        ("then kept", found.then),
        ("would go", found.goes),
        ("would come back", found.comes_back),
    ):
        table.add_row(label, *_figures(part, answer))
    out.print(table)
    for reason, part in found.reasons.items():
        if reason not in {rule.name for rule in found.asked}:
            out.print(f"  of those that go, as {reason}: {part.documents:,}", markup=False, style="dim")
    out.print(_about_tokens(answer), markup=False, style="dim")
    for name, thresholds in found.thresholds.items():
        others = Table(title=f"Other thresholds of {name}", box=None, header_style="bold", padding=(0, 2, 0, 0))
        others.title_justify = "left"
        for column in ("", "documents", "size", "tokens"):
            others.add_column(column, justify="right" if column else "left")
        for one in thresholds:
            others.add_row(one.rule, *_figures(one.kept, answer), style="bold" if one.asked else "")
        out.print(others)
    for example in found.examples:
        place = f"{example.source}:{example.line}"
        seen = f", {example.figures}" if example.figures else ""
        out.print(f"\n{example.fate}: {place}, {example.id[:12]}{seen}", markup=False, style="bold")
        out.print(visible(example.text), markup=False, style="dim")


def _figures(part: "Amount", answer: "Answer") -> tuple[str, str, str]:
    about = "" if answer.dataset else "about "
    tokens = amount(part.bytes / answer.bytes_per_token, "tokens").removesuffix(" tokens")
    return f"{part.documents:,}", amount(part.bytes, "B"), f"{about}{tokens}"


def _about_tokens(answer: "Answer") -> str:
    per = f"{answer.bytes_per_token:.2f} bytes a token"
    return f"Tokens: {per}, as in {answer.dataset.reference}." if answer.dataset else f"Tokens are an estimate: {per}."
