"""`underlay plan`: what training a model would take on GPUs."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from underlay.cli.common import JsonOption, amount, console, duration, print_json


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(plan)


def plan(
    params: Annotated[str, typer.Option(metavar="NUMBER", help="Parameters of a Llama-type decoder, such as 7G.")],
    gpus: Annotated[int, typer.Option(min=1, help="How many GPUs.")] = 1,
    gpu: Annotated[str, typer.Option(help="Which: a100, h100, h200 or b200.")] = "h200",
    context: Annotated[int, typer.Option(min=2, help="Tokens in a row.")] = 4096,
    batch_rows: Annotated[int, typer.Option(min=1, help="Rows in a step.")] = 256,
    micro_rows: Annotated[int, typer.Option(min=1, help="Rows at once in a GPU.")] = 1,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="GPUs that run each block together.")] = 1,
    recompute: Annotated[bool, typer.Option("--recompute", help="Run blocks again instead of keeping them.")] = False,
    vocabulary: Annotated[int, typer.Option(min=2, help="Token ids.")] = 65_536,
    tokens: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="What to learn from, such as 140G; by default 20 a parameter.")
    ] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Price of a GPU for an hour.")] = None,
    json_: JsonOption = False,
) -> None:
    """Say what training takes, by formula: memory in each GPU, time, and what it costs.

    Nothing is measured; docs/scale.md says what is assumed.
    """
    from underlay.config import quantity
    from underlay.errors import UserError
    from underlay.models import LlamaConfig, sized
    from underlay.plan.cluster import GPUS, Layout, estimate

    if gpu not in GPUS:
        raise UserError(f"--gpu {gpu}: known are {', '.join(GPUS)}")
    card = GPUS[gpu]
    config = sized(LlamaConfig(vocabulary=vocabulary, context=context, tied=False), round(quantity(params, "--params")))
    layout = Layout(gpus, batch_rows, context, micro_rows, tensor_parallel, recompute)
    found = estimate(config, layout, card, None if tokens is None else quantity(tokens, "--tokens"))
    hours = found.seconds / 3600 * gpus
    if json_:
        facts = {"bytes": found.bytes, "tokens_per_second": found.tokens_per_second, "seconds": found.seconds}
        print_json(
            {"model": config.model_dump(), "layout": asdict(layout), **asdict(found), **facts, "gpu_hours": hours}
        )
        return
    fits = "fits" if found.bytes < 0.9 * card.memory else "does not fit"
    bound = "traffic" if found.traffic_seconds > found.work_seconds else "arithmetic"
    rows = {
        "model": f"{amount(found.parameters, 'parameters')}: {config.depth} blocks of {config.width} channels",
        "memory in a GPU": f"{amount(found.bytes, 'B')} of {amount(card.memory, 'B')}: {fits}",
        "  weights, gradients, optimizer": amount(found.sliced_bytes, "B"),
        "  put together for a moment": amount(found.whole_bytes, "B"),
        "  kept for the backward pass": amount(found.row_bytes, "B"),
        "a step": f"{amount(found.step_tokens, 'tokens')}, {found.work_seconds:.2f} s of arithmetic, "
        f"{found.traffic_seconds:.2f} s of traffic at the same time",
        "speed": f"{amount(found.tokens_per_second, 'tokens')}/s, bound by {bound}",
        "the run": f"{amount(found.tokens, 'tokens')}, {_days(found.seconds)}, {hours:,.0f} GPU hours"
        + (f", {hours * price:,.0f} in price" if price is not None else ""),
    }
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, value)
    console().print(table)


def _days(seconds: float) -> str:
    return f"{seconds / 86400:.1f} days" if seconds > 86400 else duration(seconds)
