"""`underlay library`: what is there, where it came from, whether it is whole."""

from typing import Annotated

import typer
from rich.table import Table
from rich.tree import Tree

from underlay.cli.common import JsonOption, LibraryOption, amount, console, open_library, print_json
from underlay.library import Artifact, Library

app = typer.Typer(help="List, show, follow, check, remove artifacts; import and export models.", no_args_is_help=True)
ReferenceArgument = Annotated[str, typer.Argument(metavar="REFERENCE", help="kind:name or kind:name@version.")]


@app.command()
def ls(
    kind: Annotated[str | None, typer.Argument(metavar="KIND", help="Only this kind, such as model.")] = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """List artifacts, the newest version of each name last."""
    from underlay.errors import UserError
    from underlay.library.reference import KINDS

    known = next((one for one in KINDS if one == kind), None)
    if kind and not known:
        raise UserError(f"{kind!r} is no kind of artifact; kinds are {', '.join(KINDS)}")
    found = list(open_library(library).artifacts(known))
    if json_:
        print_json([_row(artifact) for artifact in found])
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("artifact", "made by", "size", "made at"):
        table.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
    for artifact in found:
        manifest = artifact.manifest
        made_at = manifest.created[:16].replace("T", " ")
        table.add_row(manifest.reference, manifest.verb, amount(_size(artifact), "B"), made_at)
    console().print(table if found else "The library is empty.")


def _row(artifact: Artifact) -> dict[str, str | int]:
    manifest = artifact.manifest
    names = {"reference": manifest.reference, "verb": manifest.verb, "created": manifest.created}
    return {**names, "bytes": _size(artifact)}


def _size(artifact: Artifact) -> int:
    return sum(file.size for file in artifact.manifest.files)


@app.command()
def show(reference: ReferenceArgument, library: LibraryOption = None, json_: JsonOption = False) -> None:
    """Show all that is known of an artifact."""
    artifact = open_library(library).find(reference)
    if json_:
        print_json({**artifact.manifest.model_dump(mode="json"), "folder": str(artifact.folder)})
        return
    manifest = artifact.manifest
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    rows = {
        "artifact": manifest.reference,
        "made by": f"{manifest.verb}, {manifest.created[:19].replace('T', ' ')} UTC, underlay {manifest.tool}",
        "from": "\n".join(f"{parent.role}: {parent.reference}" for parent in manifest.parents) or "nothing earlier",
        "settings": "\n".join(_lines(manifest.config)),
        "figures": "\n".join(_lines(manifest.metrics)),
        "licences": "\n".join(f"{name}: {amount(size, 'B')}" for name, size in manifest.licences.items()),
        "cost": "\n".join(_lines(manifest.cost.model_dump())),
        "files": "\n".join(f"{file.path}  {amount(file.size, 'B')}" for file in manifest.files),
        "folder": str(artifact.folder),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    console().print(table, markup=False)


def _lines(values: "dict[str, object]", prefix: str = "") -> list[str]:
    lines: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += _lines(value, f"{prefix}{key}.")
        elif value is not None:
            lines.append(f"{prefix}{key}: {value:.6g}" if isinstance(value, float) else f"{prefix}{key}: {value}")
    return lines


@app.command()
def lineage(reference: ReferenceArgument, library: LibraryOption = None, json_: JsonOption = False) -> None:
    """Follow an artifact both ways: what it was made from, and what was made from it."""
    shelf = open_library(library)
    artifact = shelf.find(reference)
    if json_:
        print_json(
            {
                "reference": artifact.reference,
                "ancestors": [other.reference for other in shelf.ancestors(artifact)],
                "descendants": [other.reference for other in shelf.descendants(artifact)],
            }
        )
        return
    made_from = Tree(f"[bold]{artifact.reference}[/] was made from")
    _grow(made_from, artifact, shelf, upwards=True)
    led_to = Tree(f"[bold]{artifact.reference}[/] led to")
    _grow(led_to, artifact, shelf, upwards=False)
    for tree in (made_from, led_to):
        if not tree.children:
            tree.add("[dim]nothing[/]")
        console().print(tree)


def _grow(tree: Tree, artifact: Artifact, shelf: Library, upwards: bool) -> None:
    if upwards:
        for parent in artifact.manifest.parents:
            found = shelf.parents(artifact)[parent.role]
            branch = tree.add(f"{parent.reference} [dim]{parent.role}{'' if found else ', removed since'}[/]")
            if found:
                _grow(branch, found, shelf, upwards)
    else:
        for child in shelf.children(artifact):
            _grow(tree.add(f"{child.reference} [dim]{child.manifest.verb}[/]"), child, shelf, upwards)


@app.command()
def verify(
    reference: Annotated[str | None, typer.Argument(metavar="REFERENCE", help="One artifact; by default all.")] = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Check every file against its size and SHA-256; exit code 1 where something is damaged."""
    results = list(open_library(library).verify(reference))
    damaged = [(name, problems) for name, problems in results if problems]
    if json_:
        print_json([{"artifact": name, "problems": problems} for name, problems in results])
    else:
        for name, problems in results:
            console().print(f"{name}: {'; '.join(problems) or 'whole'}", markup=False, style="red" if problems else "")
        console().print(f"{len(results) - len(damaged)} whole, {len(damaged)} damaged")
    if damaged:
        raise typer.Exit(1)


@app.command()
def rm(
    reference: ReferenceArgument,
    force: Annotated[bool, typer.Option("--force", help="Also where others were made from it.")] = False,
    library: LibraryOption = None,
) -> None:
    """Remove one artifact."""
    removed = open_library(library).remove(reference, force)
    console().print(f"removed {removed.reference}", markup=False)


@app.command()
def gc(
    superseded: Annotated[
        bool, typer.Option("--superseded", help="Also versions that no newest version needs.")
    ] = False,
    library: LibraryOption = None,
) -> None:
    """Remove what interrupted runs left behind, checkpoints to go on from included."""
    console().print(f"freed {amount(open_library(library).collect(superseded), 'B')}")
