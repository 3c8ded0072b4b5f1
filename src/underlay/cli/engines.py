"""What the verbs that generate share: how precise a model is taken, and its adapters."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from underlay.errors import UserError

if TYPE_CHECKING:
    from underlay.generate import Engine

PrecisionOption = Annotated[
    Literal["float32", "bfloat16", "int8", "int4"] | None,
    typer.Option(
        "--precision", help="Of the weights; by default bfloat16, or what a quantised model has.", show_default=False
    ),
]
AdapterOption = Annotated[
    list[str] | None,
    typer.Option("--adapter", metavar="NAME=FOLDER", help="A LoRA adapter, as peft writes it; may be repeated."),
]


def load_engine(
    folder: Path, slots: int, precision: Literal["float32", "bfloat16", "int8", "int4"] | None, adapters: list[str]
) -> "Engine":
    """The engine of a model's folder, its adapters loaded. Raises UserError."""
    from underlay.generate import Engine
    from underlay.generate.adapters import load_adapter
    from underlay.models.storage import load_decoder

    engine = Engine.load(folder, slots, precision)
    if adapters:
        model = load_decoder(folder)
        for given in adapters:
            name, _, place = given.partition("=")
            if not name or not place:
                raise UserError(f"--adapter {given}: write a name, = and the adapter's folder")
            engine.add_adapter(name, load_adapter(Path(place), model))
    return engine
