"""`underlay data`: the story of one document, and what it takes to forget it. `examples.py` has more of it."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from underlay.cli.common import JsonOption, LibraryOption, amount, console, open_library, print_json

if TYPE_CHECKING:
    from underlay.recipe.story import Forgotten, Story

_FEW = 3
"""Documents that are named of those that were dropped in its favour; `--json` has all."""

app = typer.Typer(
    help="Follow one document through everything, or forget it; read examples, and check them.",
    no_args_is_help=True,
)
IdArgument = Annotated[
    str,
    typer.Argument(metavar="DOC_ID", help="Any id it ever had, or its first digits, as cards and ledgers show them."),
]


def register(parent: typer.Typer) -> None:
    """Add the verb."""
    parent.add_typer(app, name="data")


@app.command()
def why(id_: IdArgument, library: LibraryOption = None, json_: JsonOption = False) -> None:
    """Tell a document's whole story: from the byte at which it was read to the models that learned from it."""
    from underlay.recipe.story import tell

    story = tell(open_library(library), id_)
    if json_:
        print_json(story.to_dict())
    else:
        _show(console(), story)


@app.command()
def forget(
    ids: Annotated[
        list[str], typer.Argument(metavar="DOC_ID...", help="Any ids they ever had, or their first digits.")
    ],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for whoever asks later.")] = "",
    alike: Annotated[bool, typer.Option("--alike", help="Also what was found to be nearly the same.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Exclude nothing, only say what it would take.")] = False,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Exclude documents from the library for good, and list every artifact that has to be made again without them.

    Later runs leave them out, from whatever source they come, and make anew what holds them or was learned from them.
    """
    from underlay.recipe.story import forget as forget_documents

    today = datetime.now(UTC).date().isoformat()
    found = forget_documents(open_library(library), ids, reason, today, alike, not dry_run)
    if json_:
        print_json(
            {
                "excluded": [one.model_dump(mode="json") for one in found.exclusions],
                "already": list(found.already),
                "written": bool(found.exclusions) and not dry_run,
                "rebuild": [{"artifact": one.artifact.reference, "why": one.why} for one in found.touched],
                "alike": found.alike,
            }
        )
    else:
        _show_forgotten(console(), found, dry_run)


def _show(out: Console, story: "Story") -> None:
    from underlay.evaluate.page import visible

    def line(text: str, style: str = "") -> None:
        out.print(visible(text), markup=False, style=style)

    line(f"document {story.id}", "bold")
    if len(story.forms) > 1:
        line(f"  its ids, from first to last: {', '.join(one[:12] for one in story.forms)}")
    if story.exclusion:
        one = story.exclusion
        line(f"  excluded on {one.date}{f': {one.reason}' if one.reason else ''}", "bold red")
    if story.standings:
        first = story.standings[0]
        lines = (
            f"lines {first.first_line} to {first.last_line}"
            if first.last_line > first.first_line
            else f"line {first.first_line}"
        )
        line(f"  read from {first.source}, {lines}, byte {first.offset:,}")
        dated = f", {first.date}" if first.date else ", no date"
        line(f"  {first.kind}, {amount(first.bytes, 'B')}, licence {first.licence}{dated}")
        line(first.beginning, "dim")
    for title, rows in _parts(story).items():
        if rows:
            line(f"\n{title}", "bold")
            for row in rows:
                line(f"  {row}")


def _parts(story: "Story") -> dict[str, list[str]]:
    """What is printed below the head, by title."""
    decisions, others = list[str](), dict[tuple[str, str], list[str]]()
    for one in story.decisions:
        if not one.about:
            others.setdefault((one.corpus, one.reason), []).append(f"{one.source} ({one.id[:12]})")
            continue
        other = f", now {one.other[:12]}" if one.decision == "change" else ""
        instead = f", in favour of {one.other[:12]}" if one.other and one.decision == "drop" else ""
        verb = {"drop": "dropped", "change": "changed"}.get(one.decision, "planted")
        decisions.append(f"{one.corpus}: {verb} by {one.stage}, {one.reason}: {one.detail}{other}{instead}")
    for (corpus, reason), gone in others.items():
        more = f" and {len(gone) - _FEW:,} more" if len(gone) > _FEW else ""
        decisions.append(f"{corpus}: stays instead of {', '.join(gone[:_FEW])}{more}, {reason}")
    figures = []
    for found in story.figures:
        figures.append(f"{found.attributes} of {found.corpus}:")
        figures += [f"  {name} = {_shown(value)}" for name, value in found.figures.items()]
    models = []
    for model in story.models:
        what = "examples made of it" if model.verb == "adapt" else "rows with it"
        count = f"{model.times:,.0f}" if model.exact else f"about {model.times:,g}"
        steps = f", in steps {_listed(model.steps)}" if model.steps else ""
        models.append(f"{model.model}: {count} {what}{steps}")
    return {
        "Stands in": [f"{one.corpus} as {one.id[:12]}, {amount(one.bytes, 'B')}" for one in story.standings],
        "Decisions": decisions,
        "Attributes": figures,
        "Datasets": [
            f"{one.dataset}: {one.split}, tokens {one.start:,} to {one.end:,}{f' of {one.part}' if one.part else ''}"
            for one in story.datasets
        ],
        "Models that read it": models,
        "Everything that holds it or was made of it": [f"{reference}: {why}" for reference, why in story.made_of_it],
    }


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _listed(numbers: tuple[int, ...], most: int = 12) -> str:
    more = f" and {len(numbers) - most:,} more" if len(numbers) > most else ""
    return ", ".join(f"{number:,}" for number in numbers[:most]) + more


def _show_forgotten(out: Console, found: "Forgotten", dry_run: bool) -> None:
    for one in found.exclusions:
        done = "would be excluded" if dry_run else "excluded"
        forms = (
            f", also as {', '.join(form[:12] for form in one.forms if form != one.id)}" if len(one.forms) > 1 else ""
        )
        out.print(f"{done}: {one.id[:12]} {one.source}{forms}", markup=False)
    for id_ in found.already:
        out.print(f"excluded before: {id_[:12]}", markup=False)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("to be made again", overflow="fold")
    table.add_column("because it")
    for touched in found.touched:
        table.add_row(touched.artifact.reference, touched.why)
    out.print(table if found.touched else "Nothing in the library holds or has learned it.")
    if found.alike:
        out.print(
            f"\n{len(found.alike)} other documents are nearly the same; one of them may take its place. "
            "Forget them too with --alike:"
        )
        for id_, where in list(found.alike.items())[:12]:
            out.print(f"  {id_[:12]} {where}", markup=False)
    if not dry_run and found.touched:
        out.print("\nRun your recipes again: what holds it is made anew. Then remove the old versions:")
        out.print("  underlay library gc --superseded", markup=False)
