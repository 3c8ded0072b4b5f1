"""`underlay doctor`: what this machine has, and how fast it is."""

from dataclasses import asdict

import typer
from rich.table import Table

from underlay.cli.common import JsonOption, LibraryOption, amount, console, open_library, print_json


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(doctor)


def doctor(library: LibraryOption = None, json_: JsonOption = False) -> None:
    """Show cores, memory, matrix units, compiler, and the measured speed of matrix products and memory."""
    from underlay import __version__
    from underlay.plan.machine import examine, measure

    shelf = open_library(library)
    machine, rates = examine(shelf.root), measure()
    if json_:
        print_json({"underlay": __version__, "machine": asdict(machine), "rates": asdict(rates)})
        return
    rows = {
        "processor": machine.processor,
        "cores": str(machine.cores),
        "memory": amount(machine.memory_bytes, "B"),
        "free disk": f"{amount(machine.free_disk_bytes, 'B')} (library {shelf.root})",
        "GPU": machine.gpu or "none",
        "bfloat16 unit": machine.bf16,
        "C++ compiler": machine.compiler or "none: models are not compiled, which makes training slower",
        "float32 products": amount(rates.float32_flops, "FLOP/s"),
        "bfloat16 products": amount(rates.bf16_flops, "FLOP/s"),
        "memory reads": amount(rates.bandwidth, "B/s"),
        "versions": f"underlay {__version__}, torch {machine.torch}, Python {machine.python}",
    }
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, value)
    console().print(table)
