"""`underlay doctor`: what this machine has, how fast it is, and which way a model takes through it."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from underlay.cli.common import JsonOption, LibraryOption, amount, console, open_library, print_json
from underlay.cli.engines import PrecisionOption
from underlay.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(doctor)


def doctor(
    engine: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Show how this model is run here, why so, and how fast that is."),
    ] = None,
    precision: PrecisionOption = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Show cores, memory, matrix units, compiler, and the measured speed of matrix products and memory."""
    from underlay import __version__
    from underlay.plan.machine import examine, measure

    shelf = open_library(library)
    if precision is not None and engine is None:
        raise UserError(f"--precision {precision}: only with --engine, for it is that of a model")
    if engine is not None:
        facts = _examine(shelf.find(engine, "model").folder, precision)
        if json_:
            print_json(facts)
            return
        _print(
            {
                "path": facts["path"],
                "memory": f"{amount(facts['cache_bytes'], 'B')} for the keys and values of {facts['cache_tokens']:,} "
                f"tokens, {amount(facts['token_bytes'], 'B')} each",
                "ready after": f"{facts['load_seconds']:.2f} s",
                "reads": amount(facts["prompt_tokens_per_second"], "tokens/s"),
                "writes": f"{amount(facts['tokens_per_second'], 'tokens/s')} for one, "
                f"{amount(facts['batch_tokens_per_second'], 'tokens/s')} for {facts['batch']} together",
            }
        )
        return
    machine, rates = examine(shelf.root), measure()
    if json_:
        print_json({"underlay": __version__, "machine": asdict(machine), "rates": asdict(rates)})
        return
    _print(
        {
            "processor": machine.processor,
            "cores": str(machine.cores),
            "memory": amount(machine.memory_bytes, "B"),
            "free disk": f"{amount(machine.free_disk_bytes, 'B')} (library {shelf.root})",
            "GPU": machine.gpu or "none",
            "bfloat16 unit": machine.bf16,
            "C++ compiler": machine.compiler or "none: training and answers are slower without",
            "float32 products": amount(rates.float32_flops, "FLOP/s"),
            "bfloat16 products": amount(rates.bf16_flops, "FLOP/s"),
            "memory reads": amount(rates.bandwidth, "B/s"),
            "versions": f"underlay {__version__}, torch {machine.torch}, Python {machine.python}",
        }
    )


def _examine(folder: Path, precision: Any) -> dict[str, Any]:
    from underlay.generate import Engine
    from underlay.generate.measure import measure
    from underlay.generate.runner import BLOCK

    begun = time.perf_counter()
    engine = Engine.load(folder, precision=precision)
    loaded = time.perf_counter() - begun
    speed, bytes_, blocks = measure(engine), engine.runner.block_bytes, engine.scheduler.pool.count
    return {
        "path": engine.runner.describe(),
        "load_seconds": loaded,
        "cache_bytes": bytes_ * blocks,
        "cache_tokens": BLOCK * blocks,
        "token_bytes": bytes_ // BLOCK,
        "prompt_tokens_per_second": speed.reads,
        "tokens_per_second": speed.writes,
        "batch": engine.slots,
        "batch_tokens_per_second": speed.together,
    }


def _print(rows: dict[str, str]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, value)
    console().print(table)
