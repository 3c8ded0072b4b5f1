"""How training grows: tokens a second, share of measured products, and peak memory by width, depth, context, processes.

One axis is varied at a time from a Llama of width 256 and depth 4 that reads rows of 256 tokens, with a vocabulary of
8,192. A step is 4,096 tokens, which go through the model at once; two processes share them, and the cores. Tokens are
random. Each cell trains in a process of its own (two by `torchrun`), eager unless `--compiled` says otherwise, for each
cell would have to compile for longer than it trains. A cell's speed is the median over the steps after the first
`WARM`; its memory the most that it had at once, summed over processes, which counts twice what two share. The products
are measured with all cores before each cell; the share is of the fastest of these, for noise only ever slows a machine.

Prints a Markdown table and writes `bench/results/growth.json`. There is nothing to compare with, so there are no
targets; exits non-zero where a cell fails. Run nothing else meanwhile.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
VOCABULARY, TOKENS = 8192, 4096
STEPS = 14
"""Of each cell, in a whole run."""
WARM = 3
"""Steps that are not timed."""


class Cell(NamedTuple):
    """What is trained, and by how many processes."""

    width: int = 256
    depth: int = 4
    context: int = 256
    processes: int = 1


AXES = {"width": (128, 256, 384, 512), "depth": (2, 4, 8), "context": (128, 256, 512, 1024), "processes": (1, 2)}


def shape(cell: Cell) -> Any:
    """The model's config."""
    from underlay.models import LlamaConfig

    return LlamaConfig(vocabulary=VOCABULARY, context=cell.context, width=cell.width, depth=cell.depth)


# A cell, in each of its processes. --------------------------------------------------------------------------------


class Noise:
    """Rows of random tokens, each a function of its number."""

    def __init__(self, context: int) -> None:
        self.context = context

    def batch(self, first: int, count: int) -> Any:
        """`count` rows from the `first` on."""
        import torch

        from underlay.models import Batch

        chance = torch.Generator()
        rows = [
            torch.randint(VOCABULARY, (self.context + 1,), generator=chance.manual_seed(row))
            for row in range(first, first + count)
        ]
        stream = torch.stack(rows)
        return Batch(stream[:, :-1].contiguous(), stream[:, 1:].contiguous())


def peak_mib() -> float:
    """The most memory this process had at once."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def serve(cell: Cell, scratch: Path, steps: int, compiled: bool) -> None:
    """Train; write to a file what this process saw."""
    import torch

    from underlay.train import CausalLM, TrainConfig, train
    from underlay.train.world import joined

    torch.manual_seed(0)
    rows = TOKENS // cell.context
    settings = TrainConfig(
        steps=steps, context=cell.context, batch_rows=rows, micro_rows=rows, compile=compiled, checkpoint_seconds=1e9
    )
    times: list[float] = []
    with joined() as world:
        with world.weights():
            model = shape(cell).build()
        train(
            model,
            CausalLM(settings.dtype(), settings.compiles()),
            Noise(cell.context),
            settings,
            scratch / "run",
            lambda *_, **__: times.append(time.perf_counter()),
            world=world,
        )
        seconds = [after - before for before, after in itertools.pairwise(times)]
        said = {"seconds": seconds, "peak_mib": peak_mib(), "mode": settings.mode()}
        (scratch / f"{world.rank}.json").write_text(json.dumps(said))


# The table. -------------------------------------------------------------------------------------------------------


def run(cell: Cell, steps: int, compiled: bool, cores: int) -> dict[str, Any] | None:
    """Measure a cell; None where it failed."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable]
        if cell.processes > 1:
            command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(cell.processes)]
        command += [__file__, "--serve", *map(str, cell), scratch, str(steps), str(int(compiled))]
        environment = os.environ | {"OMP_NUM_THREADS": str(max(1, cores // cell.processes))}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        if done.returncode:
            print(f"{cell} failed:\n{done.stderr[-3000:]}", file=sys.stderr)
            return None
        said = [json.loads((Path(scratch) / f"{rank}.json").read_text()) for rank in range(cell.processes)]
    # All processes end a step together.
    timed = said[0]["seconds"][WARM - 1 :]
    return {
        **cell._asdict(),
        "mode": said[0]["mode"],
        "seconds": said[0]["seconds"],
        "rate": TOKENS / statistics.median(timed),
        "peak_mib": sum(each["peak_mib"] for each in said),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each cell; fewer than {STEPS} write no results")
    parser.add_argument("--only", choices=AXES, help="one axis alone; writes no results")
    parser.add_argument("--compiled", action="store_true", help="compile each cell, which takes minutes")
    parser.add_argument("--serve", nargs=7, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        *sizes, scratch, steps, compiled = arguments.serve
        serve(Cell(*map(int, sizes)), Path(scratch), int(steps), bool(int(compiled)))
        return
    if arguments.steps <= WARM:
        parser.error(f"--steps: {WARM} are not timed, so there must be more")

    import torch

    from underlay.models import count
    from underlay.plan.flops import training_flops
    from underlay.plan.machine import bf16_unit
    from underlay.train import TrainConfig
    from underlay.train.watch import products

    cores = len(os.sched_getaffinity(0))
    how = "compiled" if arguments.compiled else "eager"
    axes = [arguments.only] if arguments.only else list(AXES)
    cells = dict.fromkeys(Cell()._replace(**{axis: size}) for axis in axes for size in AXES[axis])
    found, measured = [], []
    for cell in cells:
        measured.append(products(TrainConfig(steps=1).dtype()))
        result = run(cell, arguments.steps, arguments.compiled, cores)
        if result is not None:
            print(f"{cell}: {result['rate']:,.0f} tokens/s", file=sys.stderr)
            found.append(result)
    fastest = max(measured)
    print(f"{cores} cores, bfloat16 unit: {bf16_unit()}, measured products {fastest / 1e12:.2f} TFLOP/s, {how}\n")
    print("| width | depth | context | processes | parameters | tokens/s | of the measured products | peak MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for result in found:
        cell = Cell(*(result[axis] for axis in Cell._fields))
        config = shape(cell)
        result["parameters"] = count(config)
        result["of_products"] = result["rate"] * training_flops(config, 1, cell.context) / fastest
        print(
            f"| {cell.width} | {cell.depth} | {cell.context} | {cell.processes} | {result['parameters'] / 1e6:.1f} M "
            f"| {result['rate']:,.0f} | {result['of_products']:.0%} | {result['peak_mib']:,.0f} |"
        )
    whole = len(found) == len(cells)
    if whole and not arguments.only and arguments.steps >= STEPS:
        machine = {"cores": cores, "bf16": bf16_unit(), "products": measured, "torch": torch.__version__}
        path = ROOT / "bench" / "results" / "growth.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"machine": machine, "mode": how, "cells": found}, indent=2) + "\n", "utf-8")
    sys.exit(not whole)


if __name__ == "__main__":
    main()
