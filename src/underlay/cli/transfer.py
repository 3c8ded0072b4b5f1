"""`underlay library import` and `export`: models from other tools, and models for other tools."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from underlay.cli.common import JsonOption, LibraryOption, ModelArgument, amount, console, open_library, print_json
from underlay.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the verbs to `underlay library`."""
    app.command("import")(import_)
    app.command()(export)


def import_(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A folder of transformers: config.json, safetensors, tokenizer.")
    ],
    name: Annotated[str | None, typer.Option("--name", help="What to call it; by default as its folder.")] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="KEY", help="A key of config.json that may be unknown; may be repeated."),
    ] = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Bring a model of another tool into the library, with its tokenizer and chat template.

    Weights are copied as they are stored; no code of the folder is ever run.
    """
    from underlay.cli.display import bar
    from underlay.formats.transfer import import_model
    from underlay.models.storage import load_config
    from underlay.text import Tokenizer

    shelf = open_library(library)
    with bar("importing", console(stderr=True)) as progress:
        made = import_model(shelf, path, name or fitting_name(path), frozenset(ignore or ()), progress)
    artifact = made.artifact
    config, metrics = load_config(artifact.folder), artifact.manifest.metrics
    facts: dict[str, Any] = {
        "reference": artifact.reference,
        "family": config.family,
        "parameters": metrics["parameters"],
        "context": config.context,
        "dtype": metrics["dtype"],
        "licence": metrics["licence"],
        "left_out": metrics["left_out"],
        "reused": made.reused,
    }
    if json_:
        print_json(facts)
        return
    out = console()
    rows = {
        "model": f"{artifact.reference}{' (was there already)' if made.reused else ''}",
        "family": f"{config.family}, {amount(metrics['parameters'], 'parameters')} in {metrics['dtype']}",
        "context": f"{config.context:,} tokens",
        "licence": metrics["licence"],
        "left out": f"{', '.join(metrics['left_out'])}; nothing here uses it" if metrics["left_out"] else "",
    }
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in rows.items():
        if value:
            table.add_row(key, value)
    out.print(table, markup=False)
    out.print(
        f"Next: {_next(f'model:{artifact.manifest.name}', config, Tokenizer.load(artifact.folder))}", markup=False
    )


def fitting_name(path: Path) -> str:
    """A name for the model of a folder, made of what a reference may hold."""
    folder = path.expanduser().resolve()
    hub = next((parent.name for parent in folder.parents if parent.name.startswith("models--")), None)
    name = hub.rpartition("--")[2] if hub and folder.parent.name == "snapshots" else folder.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:100] or "model"


def _next(model: str, config: Any, tokenizer: Any) -> str:
    """One command to try."""
    from underlay.models import EncoderConfig
    from underlay.text import Special

    if not isinstance(config, EncoderConfig):
        return f"underlay chat {model}" if tokenizer.converses else f'underlay generate {model} "Once upon a time"'
    if config.masked_head and tokenizer.has(Special.MASK):
        return f'underlay fill {model} "Paris is the {tokenizer.name(tokenizer.special(Special.MASK))} of France."'
    return f'underlay embed {model} "a text" "another text"'


def export(
    model: ModelArgument,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The folder, for gguf the file, to write.")],
    format_: Annotated[
        Literal["hf", "gguf"],
        typer.Option("--format", help="hf: a folder for transformers; gguf: one file for llama.cpp."),
    ],
    type_: Annotated[
        str | None, typer.Option("--type", help="How gguf stores matrices: F32, F16 (the default), BF16, Q8_0, Q4_0.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a model that is there already.")] = False,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Write a model for other tools: a folder for transformers, or one file for llama.cpp."""
    from underlay.formats.transfer import export_model

    if type_ and format_ == "hf":
        raise UserError("--type is for --format gguf; a folder for transformers keeps the dtype of the weights")
    artifact = open_library(library).find(model, "model")
    with console(stderr=True).status("exporting"):
        written = export_model(artifact, target, format_, (type_ or "F16").upper(), force)
    if json_:
        print_json({"path": str(written.path), "bytes": written.size, "notes": list(written.notes)})
        return
    out = console()
    out.print(f"{artifact.reference} as {written.path}, {amount(written.size, 'B')}", markup=False)
    for note in written.notes:
        out.print(f"note: {note}", markup=False, style="yellow")
