"""Training on one GPU of the H100 class: tokens a second, share of what it was measured to multiply, and peak memory.

Two Llama-type decoders, of 350 million and of a billion parameters, with a vocabulary of 32,768, read rows of 2,048
random tokens, 131,072 tokens a step, in bfloat16. Each side runs in a process of its own, one after the other:

    ours           the trainer as recipes use it: compiled, Muon and AdamW
    transformers   its LlamaForCausalLM of the same shape in a plain loop: compiled, autocast, scaled dot-product
                   attention, fused AdamW; where `transformers` can be imported
    nanogpt        its GPT of the same width, depth and vocabulary in the same loop, with its own optimizer; where
                   `--nanogpt` names the folder of a clone of https://github.com/karpathy/nanoGPT

Each side takes as many rows at once as the largest of `ROWS` that fits, unless `--micro-rows` says otherwise. A step
ends when the GPU is done with it; a side's speed is the median over the steps after the first `WARM`, which compile.
The share is of bfloat16 products as `underlay.plan.machine` measures them on this GPU, and takes the arithmetic of our
shape for all sides.

Prints a table, then one line a target, and writes `bench/results/gpu_train.json` where both sizes were measured, with a
rival, for at least as many steps as by default; `--output` writes whatever was measured to another file. Exits non-zero
where a target is missed. Needs torch, numpy, pydantic, pyyaml, psutil and safetensors; where Underlay is not installed,
`PYTHONPATH=src python bench/gpu_train.py` does. `--try` runs tiny shapes in float32 on the CPU, to see that the script
works, and writes nothing. Run nothing else meanwhile.
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
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
SIZES = {"350M": 350_000_000, "1B": 1_000_000_000}
SIDES = ("ours", "transformers", "nanogpt")
ROWS = (32, 16, 8, 4)
"""How many rows at once are tried."""
STEPS, WARM = 12, 3
"""Steps of a side, and how many of them are not timed."""
TARGETS = {"share of measured products": 0.5, "tokens per second, ours / best rival": 1.0}


class Shape(NamedTuple):
    """What all sides train, and how much a step is."""

    parameters: int
    vocabulary: int = 32_768
    context: int = 2048
    batch_rows: int = 64
    device: str = "cuda"

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.batch_rows * self.context

    def config(self) -> Any:
        """Ours."""
        from underlay.models import LlamaConfig, sized

        return sized(LlamaConfig(vocabulary=self.vocabulary, context=self.context), self.parameters)


TINY = {"tiny": Shape(60_000, vocabulary=256, context=32, batch_rows=8, device="cpu")}
"""For `--try`."""


class Noise:
    """Rows of random tokens, each a function of its number; a pass is as many rows as four steps read."""

    def __init__(self, shape: Shape) -> None:
        import torch

        size = (4 * shape.batch_rows, shape.context + 1)
        self.rows = torch.randint(shape.vocabulary, size, generator=torch.Generator().manual_seed(0))

    def batch(self, first: int, count: int) -> Any:
        """`count` rows from the `first` on."""
        import torch

        from underlay.models import Batch

        rows = self.rows[torch.arange(first, first + count) % len(self.rows)]
        return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())


# The sides, each in a process of its own. -------------------------------------------------------------------------


class Watch:
    """When steps were done, by the clock of the GPU's last product."""

    def __init__(self, shape: Shape) -> None:
        self.on_gpu = shape.device == "cuda"
        self.times = [time.perf_counter()]

    def __call__(self, *_: Any, **__: Any) -> None:
        """A step was ordered: wait until it is done."""
        import torch

        if self.on_gpu:
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    def told(self, **facts: Any) -> dict[str, Any]:
        """What was measured."""
        import torch

        peak = torch.cuda.max_memory_allocated() if self.on_gpu else 0
        seconds = [after - before for before, after in itertools.pairwise(self.times)]
        return {"seconds": seconds, "peak_bytes": peak, **facts}


def ours(shape: Shape, micro_rows: int, steps: int) -> dict[str, Any]:
    """Our trainer, as a recipe sets it."""
    import torch

    from underlay.train import CausalLM, TrainConfig, train

    torch.manual_seed(0)
    on_gpu = shape.device == "cuda"
    settings = TrainConfig(
        steps=steps,
        context=shape.context,
        batch_rows=shape.batch_rows,
        micro_rows=micro_rows,
        precision="bf16" if on_gpu else "float32",
        compile=on_gpu,
        checkpoint_seconds=1e9,
    )
    model = shape.config().build()
    objective = CausalLM(settings.dtype(), settings.compiles())
    with tempfile.TemporaryDirectory() as scratch:
        watch = Watch(shape)
        outcome = train(model, objective, Noise(shape), settings, Path(scratch), watch)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return watch.told(micro_rows=outcome.progression.micro_rows, parameters=parameters, mode=outcome.mode)


def loop(
    shape: Shape, micro_rows: int, steps: int, model: Any, optimizer: Any, loss: Callable[[Any, Any, Any], Any]
) -> dict[str, Any]:
    """The plain loop that rivals run in; `loss` maps the model, tokens and targets to the mean loss of a part."""
    import torch

    torch.set_float32_matmul_precision("high")
    on_gpu, source = shape.device == "cuda", Noise(shape)
    run = torch.compile(model) if on_gpu else model
    parts = shape.batch_rows // micro_rows
    watch = Watch(shape)
    for step in range(steps):
        for part in range(parts):
            batch = source.batch(step * shape.batch_rows + part * micro_rows, micro_rows)
            tokens, targets = batch.tokens, batch.targets
            if on_gpu:
                tokens, targets = (each.pin_memory().cuda(non_blocking=True) for each in (tokens, targets))
            with torch.autocast(shape.device, torch.bfloat16, enabled=on_gpu):
                mean = loss(run, tokens, targets)
            (mean / parts).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        watch()
    return watch.told(micro_rows=micro_rows, parameters=sum(parameter.numel() for parameter in model.parameters()))


def transformers(shape: Shape, micro_rows: int, steps: int) -> dict[str, Any]:
    """Its Llama of our shape."""
    import torch
    import transformers as theirs

    torch.manual_seed(0)
    config = shape.config()
    with torch.device(shape.device):
        model = theirs.LlamaForCausalLM(
            theirs.LlamaConfig(
                vocab_size=config.vocabulary,
                hidden_size=config.width,
                intermediate_size=config.hidden,
                num_hidden_layers=config.depth,
                num_attention_heads=config.heads,
                num_key_value_heads=config.kv_heads,
                max_position_embeddings=config.context,
                tie_word_embeddings=config.tied,
                use_cache=False,
                attn_implementation="sdpa",
            )
        )
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), fused=True)

    def loss(run: Any, tokens: Any, _: Any) -> Any:
        return run(input_ids=tokens, labels=tokens).loss  # it shifts them itself

    return loop(shape, micro_rows, steps, model, optimizer, loss)


def nanogpt(shape: Shape, micro_rows: int, steps: int, source: Path) -> dict[str, Any]:
    """Its GPT of our width, depth and vocabulary: blocks of both have 12 width^2 weights."""
    import torch

    sys.path.insert(0, str(source))
    import model as theirs

    torch.manual_seed(0)
    config = shape.config()
    sizes = {"n_layer": config.depth, "n_head": config.heads, "n_embd": config.width}
    model = theirs.GPT(
        theirs.GPTConfig(block_size=shape.context, vocab_size=shape.vocabulary, dropout=0.0, bias=False, **sizes)
    ).to(shape.device)
    optimizer = model.configure_optimizers(0.1, 3e-4, (0.9, 0.95), shape.device)
    return loop(shape, micro_rows, steps, model, optimizer, lambda run, tokens, targets: run(tokens, targets)[1])


def serve(side: str, shape: Shape, micro_rows: int, steps: int, source: Path) -> dict[str, Any]:
    """Run one side; `full` in place of figures where memory ran out."""
    import torch

    from underlay.errors import UserError

    try:
        if side == "ours":
            return ours(shape, micro_rows, steps)
        if side == "transformers":
            return transformers(shape, micro_rows, steps)
        return nanogpt(shape, micro_rows, steps, source)
    except torch.OutOfMemoryError:
        return {"full": True}
    except UserError as error:  # ours says before the first step that not even one row fits
        if "rows at once" not in str(error):
            raise
        return {"full": True}


# The comparison. --------------------------------------------------------------------------------------------------


def called(scratch: Path, name: str, *what: object) -> Any:
    """What a process of this script printed last as JSON; None where it failed."""
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(scratch / f"cache-{name}"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--serve", name, *map(str, what)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=environment)
    return None if done.returncode else json.loads(done.stdout.splitlines()[-1])


def machine() -> dict[str, Any]:
    """What this is measured on, and how fast it multiplies."""
    import torch

    from underlay.plan.machine import measure

    found = {"python": sys.version.split()[0], "torch": torch.__version__}
    if find_spec("transformers"):
        from importlib.metadata import version

        found["transformers"] = version("transformers")
    if not torch.cuda.is_available():
        return {**found, "device": "cpu", "products": measure(0.2).float32_flops}
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "unknown"
    rates = measure(2.0)
    return {
        **found,
        "device": torch.cuda.get_device_name(),
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory,
        "driver": driver,
        "cuda": torch.version.cuda,
        "products": rates.bf16_flops,
        "bandwidth": rates.bandwidth,
    }


def fitted(side: str, shape: Shape, rows: list[int], steps: int, source: Path, scratch: Path) -> Any:
    """A side's figures with the most rows at once that fit; None where it failed or none do."""
    for micro_rows in rows:
        result = called(scratch, side, json.dumps(shape), micro_rows, steps, source)
        if result is None or "full" not in result:
            return result
    print(f"{side}: not even {rows[-1]} rows at once fit", file=sys.stderr)
    return None


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="folder of a clone of nanoGPT")
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--micro-rows", type=int, help=f"rows at once; by default the most of {ROWS} that fit")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each side; the first {WARM} are not timed")
    parser.add_argument("--output", type=Path, help="write what was measured here, whole run or not")
    parser.add_argument("--scratch", type=Path, help="keep compile caches here")
    parser.add_argument("--try", action="store_true", dest="tiny", help="tiny shapes on the CPU; measures nothing")
    parser.add_argument("--serve", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        side, *what = arguments.serve
        if side == "machine":
            print(json.dumps(machine()))
            return
        shape, micro_rows, steps, source = what
        print(json.dumps(serve(side, Shape(*json.loads(shape)), int(micro_rows), int(steps), Path(source))))
        return
    if arguments.steps <= WARM:
        parser.error(f"--steps: {WARM} are not timed, so there must be more")

    import torch

    from underlay.plan.flops import training_flops

    if not (arguments.tiny or torch.cuda.is_available()):
        print("no CUDA GPU is here; --try runs tiny shapes on the CPU")
        sys.exit(2)
    shapes = TINY if arguments.tiny else {name: Shape(SIZES[name]) for name in arguments.sizes.split(",")}
    there = {"ours": True, "transformers": find_spec("transformers"), "nanogpt": arguments.nanogpt}
    sides = [side for side in arguments.sides.split(",") if there[side]]
    for side in sorted(set(SIDES) - set(sides)):
        print(f"left out: {side} (see --help for what it needs)")
    batch_rows = next(iter(shapes.values())).batch_rows
    rows = [arguments.micro_rows] if arguments.micro_rows else [rows for rows in ROWS if rows <= batch_rows]
    if batch_rows % rows[0]:
        parser.error(f"--micro-rows: a step of {batch_rows} rows is no multiple of {rows[0]}")

    scratch = arguments.scratch or Path(tempfile.mkdtemp())
    what = called(scratch, "machine")
    assert what is not None, "measuring the machine failed"
    products = what["products"]
    print(f"{what['device']}, torch {what['torch']}, measured products {products / 1e12:.2f} TFLOP/s\n")
    print(f"{'':20s} {'parameters':>12s} {'rows':>5s} {'tokens/s':>10s} {'of products':>12s}", end=" ")
    print(f"{'peak GiB':>9s} {'first, s':>9s}")
    report: dict[str, Any] = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "machine": what, "sizes": {}}
    lines: list[tuple[str, float, float]] = []
    failed = False
    for name, shape in shapes.items():
        work, found = training_flops(shape.config(), 1, shape.context), {}
        for side in sides:
            result = fitted(side, shape, rows, arguments.steps, arguments.nanogpt or Path(), scratch)
            if result is None:
                failed = True
                print(f"{name + ', ' + side:20s} failed", flush=True)
                continue
            result["rate"] = shape.tokens / statistics.median(result["seconds"][WARM:])
            result["of_products"] = result["rate"] * work / products
            found[side] = result
            print(
                f"{name + ', ' + side:20s} {result['parameters']:12,} {result['micro_rows']:5d} "
                f"{result['rate']:10,.0f} {result['of_products']:12.1%} {result['peak_bytes'] / 2**30:9.1f} "
                f"{result['seconds'][0]:9.1f}",
                flush=True,
            )
        report["sizes"][name] = {"shape": shape.config().model_dump(), "step_tokens": shape.tokens, "sides": found}
        if "ours" in found:
            rivals = [found[side]["rate"] for side in found if side != "ours"]
            measured = {"share of measured products": found["ours"]["of_products"]}
            if rivals:
                measured["tokens per second, ours / best rival"] = found["ours"]["rate"] / max(rivals)
            lines += [(f"{name}, {target}", ratio, TARGETS[target]) for target, ratio in measured.items()]
    report["targets"] = [
        {"name": name, "ratio": ratio, "target": target, "met": ratio >= target} for name, ratio, target in lines
    ]
    print()
    for name, ratio, target in lines:
        print(f"{name:50s} {ratio:6.3f}  {target:.1f}  {'met' if ratio >= target else 'missed'}")
    if arguments.tiny:
        sys.exit(failed)
    whole = len(lines) == len(TARGETS) * len(SIZES) and not failed and arguments.steps >= STEPS
    outputs = [arguments.output] if arguments.output else []
    if whole:
        outputs.append(ROOT / "bench" / "results" / "gpu_train.json")
    for path in outputs:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    sys.exit(failed or not lines or any(ratio < target for _, ratio, target in lines))


if __name__ == "__main__":
    main()
