"""`underlay embed`: texts as vectors."""

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from underlay.cli.common import (
    JsonOption,
    LibraryOption,
    ModelArgument,
    console,
    open_library,
    read_argument,
)
from underlay.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_COLUMNS = 10
"""Texts whose similarities are shown as a square; of more, each text's nearest."""
_NUMBERS = 6
"""Numbers shown of a single vector."""
_LONGEST = 70
"""Characters shown of a text."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(embed)


def embed(
    model: ModelArgument,
    texts: Annotated[
        list[str], typer.Argument(metavar="TEXT...", help="The texts; a single - reads one from each line of input.")
    ],
    pooling: Annotated[
        Literal["mean", "cls", "last"] | None,
        typer.Option(help="From states to a vector: mean of all, cls (the first), last; by default as the model says."),
    ] = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Turn texts into vectors, and compare them: 1 means the same direction, 0 nothing in common."""
    from underlay.cli.display import bar
    from underlay.generate.embed import embed as embed_texts
    from underlay.generate.embed import pooling_of
    from underlay.models.storage import load_model
    from underlay.text import Tokenizer

    artifact = open_library(library).find(model, "model")
    given = _lines(read_argument("-")) if texts == ["-"] else [read_argument(text) for text in texts]
    if not given:
        raise UserError("there is no text in the input; give at least one line")
    loaded, tokenizer = load_model(artifact.folder), Tokenizer.load(artifact.folder)
    notes: list[str] = []
    with bar("embedding", console(stderr=True)) as progress:
        vectors = embed_texts(loaded, tokenizer, given, pooling, progress=progress, log=notes.append)
    for note in notes:
        console(stderr=True).print(f"note: {note}", markup=False, style="yellow")
    how = pooling or pooling_of(loaded)
    if json_:
        rows = [{"text": text, "vector": vector} for text, vector in zip(given, vectors.tolist(), strict=True)]
        found = {"model": artifact.reference, "pooling": how, "width": vectors.shape[1], "embeddings": rows}
        typer.echo(json.dumps(found, ensure_ascii=False))  # a line for each number would help nobody
        return
    out = console()
    out.print(f"{artifact.reference}: {vectors.shape[1]} numbers a text, by {how}", markup=False, style="dim")
    if len(given) == 1:
        first = ", ".join(f"{number:.4f}" for number in vectors[0, :_NUMBERS].tolist())
        more = vectors.shape[1] - _NUMBERS
        out.print(f"[{first}{f', ... {more} more; --json prints all' if more > 0 else ''}]", markup=False)
        return
    out.print(_similarities(given, vectors), markup=False)


def _similarities(texts: list[str], vectors: "Tensor") -> Table:
    """Cosines between the texts: of a few all, of many each one's nearest."""
    from torch.nn.functional import normalize

    unit = normalize(vectors, dim=-1)
    cosines = unit @ unit.T
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    if len(texts) <= _COLUMNS:
        for name in ("", *map(str, range(1, len(texts) + 1))):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("text")
        for number, (text, row) in enumerate(zip(texts, cosines.tolist(), strict=True), 1):
            table.add_row(str(number), *(f"{cosine:.3f}" for cosine in row), _short(text))
        return table
    for name in ("", "nearest", "cosine"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("text")
    best = cosines.fill_diagonal_(-2).max(-1)
    for number, (text, near, cosine) in enumerate(
        zip(texts, best.indices.tolist(), best.values.tolist(), strict=True), 1
    ):
        table.add_row(str(number), str(near + 1), f"{cosine:.3f}", _short(text))
    return table


def _short(text: str) -> str:
    """A text on one line, its end left out where it is long."""
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 3]}..."


def _lines(text: str) -> list[str]:
    """One text a line; only a newline ends one, for form feeds and the like may stand in a text."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
