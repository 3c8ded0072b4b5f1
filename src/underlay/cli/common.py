"""What several verbs share: options, the library, the console."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from underlay.errors import UserError
from underlay.library import Library, default_root

if TYPE_CHECKING:  # to print help is not to wait for torch
    from underlay.data.curate.engine import Engine

LibraryOption = Annotated[
    Path | None,
    typer.Option("--library", metavar="FOLDER", help="Where artifacts are kept; $UNDERLAY_LIBRARY, else ./library."),
]


class EngineName(StrEnum):
    """Where texts are looked at."""

    LOCAL = "local"
    RAY = "ray"


EngineOption = Annotated[
    EngineName, typer.Option("--engine", help="Where texts are looked at: processes of this machine, or Ray.")
]
AddressOption = Annotated[
    str | None, typer.Option("--address", help="Of a Ray cluster; by default one is started on this machine.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs to read.")]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model in the library, such as model:quickstart.")
]


def console(stderr: bool = False) -> Console:
    """The terminal; where the output is none, lines are as long as they need to be."""
    out = Console(highlight=False, soft_wrap=True, stderr=stderr, emoji=False)  # corpus:x: is no picture
    return out if out.is_terminal else Console(highlight=False, soft_wrap=True, stderr=stderr, emoji=False, width=240)


def open_library(folder: Path | None) -> Library:
    """The library the user means."""
    return Library(folder or default_root())


def print_json(value: Any) -> None:
    """Print a value as JSON, to be parsed as it stands."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def make_engine(name: EngineName, address: str | None) -> "Engine":
    """The engine the user means."""
    from underlay.data.curate.engine import Local, Ray

    if name is EngineName.RAY:
        return Ray(address)
    if address:
        raise UserError("--address: only with --engine ray")
    return Local()


def as_text(given: str) -> str:
    """What the user typed or piped, with bytes that are no UTF-8 replaced by U+FFFD."""
    return given.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def read_argument(given: str) -> str:
    """An argument's text, or standard input where it is `-`."""
    return as_text(sys.stdin.buffer.read().decode("utf-8", "surrogateescape") if given == "-" else given)


def amount(number: float, unit: str) -> str:
    """A figure with a decimal prefix: 31487566 B -> 31.5 MB, 8712345 tokens -> 8.7M tokens."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(number) < 1000 or prefix == "T":
            figure = f"{number:.1f}" if prefix else f"{number:.0f}"
            return f"{figure}{prefix} {unit}" if unit.isalpha() and len(unit) > 2 else f"{figure} {prefix}{unit}"
        number /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """Seconds as people say them: 4 min 12 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
