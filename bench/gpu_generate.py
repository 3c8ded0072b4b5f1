"""Generation on one GPU of the H100 class: tokens a second, time to the first token, peak memory.

A Llama-type decoder of a billion random parameters, with a vocabulary of 32,768 and a context of 512, reads 128 random
tokens and goes on for 128, greedily, whatever they say; 1, 32 and 256 at once; in bfloat16. Each side runs in a process
of its own for every batch, one after the other, on the same weights:

    ours          the engine, which decodes by CUDA graphs
    eager         the same without graphs; no rival
    huggingface   transformers' `generate` with a static cache, compiled as it does by itself on a GPU
    vllm          its engine with CUDA graphs and without remembered prompts; where it can be imported

Every side answers `WARM` times first, which compile and capture, then `--rounds` times with one token and with all, on
prompts that are new every time. The first give the time to the first token, and how fast prompts are read; the
difference of the two gives how fast tokens come after it.

Prints a table, then one line a target, and writes `bench/results/gpu_generate.json` where all batches were measured
with a rival; `--output` writes whatever was measured to another file. Exits non-zero where a target is missed or a side
fails. Needs what `bench/gpu_train.py` needs, and transformers, vllm for rivals; where Underlay is not installed,
`PYTHONPATH=src python bench/gpu_generate.py` does. `--try` runs a tiny shape in float32 on the CPU, to see that the
script works, and writes nothing. Run nothing else meanwhile.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
SIDES = ("ours", "eager", "huggingface", "vllm")
BATCHES = (1, 32, 256)
ROUNDS, WARM = 5, 2
TARGETS = {"huggingface": 2.0, "vllm": 1.0}
"""Our tokens a second by theirs, at least."""
Generate = Callable[[list[list[int]], int], int]
"""Continue prompts by so many tokens; returns how many came in all."""


class Shape(NamedTuple):
    """What all sides generate with."""

    parameters: int = 1_000_000_000
    vocabulary: int = 32_768
    context: int = 512
    prompt: int = 128
    count: int = 128
    device: str = "cuda"

    @property
    def dtype(self) -> str:
        """Of weights."""
        return "bfloat16" if self.device == "cuda" else "float32"

    def config(self) -> Any:
        """Ours."""
        from underlay.models import LlamaConfig, sized

        return sized(LlamaConfig(vocabulary=self.vocabulary, context=self.context), self.parameters)


TINY = Shape(100_000, vocabulary=512, context=64, prompt=16, count=8, device="cpu")
"""For `--try`."""


def build(shape: Shape, folder: Path) -> None:
    """Random weights, as a model of ours with a tokenizer, and as a folder of transformers."""
    import torch

    from underlay.formats.hf import outgoing
    from underlay.formats.keymap import written_out
    from underlay.models.storage import WEIGHTS, save_model, write_tensors
    from underlay.text.training import train_tokenizer

    torch.manual_seed(0)
    with torch.device(shape.device):
        model = shape.config().build()
    dtype = getattr(torch, shape.dtype)
    for parameter in model.parameters():
        parameter.data = parameter.data.to("cpu", dtype)
    ours, theirs = folder / "ours", folder / "hf"
    for part in (ours, theirs):
        part.mkdir()
    save_model(model, ours)
    texts = (path.read_text("utf-8", "replace") for path in sorted(ROOT.glob("src/**/*.py")))
    train_tokenizer(texts, 512).save(ours)
    values, rows = outgoing(model.config, None)
    (theirs / "config.json").write_text(json.dumps(values | {"dtype": shape.dtype}))
    weights = model.state_dict()
    write_tensors(dict(written_out(rows, lambda name: weights[name])), theirs / WEIGHTS, {"format": "pt"})


# The sides, each in a process of its own. -------------------------------------------------------------------------


def ours(shape: Shape, folder: Path, batch: int, eager: bool = False) -> Generate:
    """Our engine, as the server uses it."""
    from underlay.generate import Engine, Request, Sampling
    from underlay.generate.plain import PlainRunner
    from underlay.models.storage import load_decoder
    from underlay.text import Tokenizer

    model = load_decoder(folder / "ours").to(shape.device)
    runner = PlainRunner(model, shape.dtype, exact=False) if eager else None
    engine: Any = Engine(model, Tokenizer.load(folder / "ours"), slots=batch, precision=shape.dtype, runner=runner)

    def generate(prompts: list[list[int]], count: int) -> int:
        requests = [Request(prompt, count, Sampling(0.0), stop_ids=frozenset()) for prompt in prompts]
        return sum(len(answer.ids) for answer in engine.generate(requests))

    return generate


def huggingface(shape: Shape, folder: Path, batch: int) -> Generate:  # noqa: ARG001 - it takes any batch
    """`generate` of transformers."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "hf", dtype=shape.dtype, attn_implementation="sdpa"
    )
    model = model.to(shape.device).eval()

    class Enough(transformers.StoppingCriteria):  # type: ignore[misc]
        """Ends an answer of one token, which is asked for as a long one lest its smaller cache is compiled for."""

        def __init__(self, length: int) -> None:
            self.length = length

        def __call__(self, ids: Any, *_: Any, **__: Any) -> Any:
            return torch.full((len(ids),), ids.shape[1] >= self.length, device=ids.device)

    def generate(prompts: list[list[int]], count: int) -> int:
        tokens = torch.tensor(prompts, device=shape.device)
        with torch.inference_mode():
            found = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                max_new_tokens=shape.count,
                stopping_criteria=[Enough(shape.prompt + count)],
                eos_token_id=-1,  # none: answers have a set length
                cache_implementation="static",
            )
        return int(found[:, tokens.shape[1] :].numel())

    return generate


def vllm(shape: Shape, folder: Path, batch: int) -> Generate:
    """vLLM without its HTTP server."""
    import vllm as theirs

    engine = theirs.LLM(
        str(folder / "hf"),
        skip_tokenizer_init=True,
        dtype=shape.dtype,
        max_model_len=shape.context,
        max_num_seqs=batch,
        enable_prefix_caching=False,
        gpu_memory_utilization=0.8,
    )

    def generate(prompts: list[list[int]], count: int) -> int:
        settings = theirs.SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True, detokenize=False)
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        return sum(len(answer.outputs[0].token_ids) for answer in engine.generate(asked, settings, use_tqdm=False))

    return generate


def serve(side: str, shape: Shape, folder: Path, batch: int, rounds: int) -> dict[str, Any]:
    """Run one side with one batch."""
    import torch

    on_gpu = shape.device == "cuda"
    began = time.perf_counter()
    sides = {"ours": ours, "eager": partial(ours, eager=True), "huggingface": huggingface, "vllm": vllm}
    generate = sides[side](shape, folder, batch)
    chance = torch.Generator().manual_seed(0)

    def timed(count: int) -> float:
        prompts = torch.randint(shape.vocabulary, (batch, shape.prompt), generator=chance).tolist()
        start = time.perf_counter()
        came = generate(prompts, count)
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        assert came == batch * count, f"{side} gave {came} tokens, not {batch * count}"
        return seconds

    for _ in range(WARM):
        timed(1)
        timed(shape.count)
    ready = time.perf_counter() - began
    firsts, wholes = zip(*((timed(1), timed(shape.count)) for _ in range(rounds)), strict=True)
    free, total = torch.cuda.mem_get_info() if on_gpu else (0, 0)
    return {"ready_seconds": ready, "first_seconds": firsts, "all_seconds": wholes, "used_bytes": total - free}


# The comparison. --------------------------------------------------------------------------------------------------


def called(scratch: Path, side: str, *what: object) -> Any:
    """What a process of this script printed last as JSON; None where it failed."""
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(scratch / f"cache-{side}"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--serve", side, *map(str, what)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=environment)
    return None if done.returncode else json.loads(done.stdout.splitlines()[-1])


def machine() -> dict[str, Any]:
    """What this is measured on."""
    import torch

    found: dict[str, Any] = {"python": sys.version.split()[0], "torch": torch.__version__}
    for package in ("transformers", "vllm"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        found |= {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return found


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"answers that are timed, after {WARM} that are not")
    parser.add_argument("--output", type=Path, help="write what was measured here, whole run or not")
    parser.add_argument("--scratch", type=Path, help="keep weights and compile caches here")
    parser.add_argument("--try", action="store_true", dest="tiny", help="a tiny shape on the CPU; measures nothing")
    parser.add_argument("--serve", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        side, shape, folder, batch, rounds = arguments.serve
        print(json.dumps(serve(side, Shape(*json.loads(shape)), Path(folder), int(batch), int(rounds))))
        return 0

    import torch

    if not (arguments.tiny or torch.cuda.is_available()):
        print("no CUDA GPU is here; --try runs a tiny shape on the CPU")
        return 2
    shape = TINY if arguments.tiny else Shape()
    there = {"ours": True, "eager": True, "huggingface": find_spec("transformers")}
    there["vllm"] = find_spec("vllm") and not arguments.tiny
    sides = [side for side in arguments.sides.split(",") if there[side]]
    for side in sorted(set(SIDES) - set(sides)):
        print(f"left out: {side} (see --help for what it needs)")
    batches = [1, 4] if arguments.tiny else [int(batch) for batch in arguments.batches.split(",")]
    scratch = arguments.scratch or Path(tempfile.mkdtemp())
    folder = scratch / f"{shape.parameters}"
    if not folder.exists():
        folder.mkdir(parents=True)
        build(shape, folder)
    what = machine()
    print(", ".join(f"{key} {value}" for key, value in what.items()))
    print(f"\n{'':26s} {'decode, tokens/s':>17s} {'prefill, tokens/s':>18s} {'first, ms':>10s}", end=" ")
    print(f"{'used GiB':>9s} {'ready, s':>9s}")
    report: dict[str, Any] = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "machine": what, "rows": []}
    report["shape"] = {**shape._asdict(), "config": shape.config().model_dump()}
    lines: list[tuple[str, float, float]] = []
    failed = False
    for batch in batches:
        rates: dict[str, float] = {}
        for side in sides:
            name = f"batch {batch}, {side}"
            row = called(scratch, side, json.dumps(shape), folder, batch, arguments.rounds)
            if row is None:
                failed = True
                print(f"{name:26s} failed", flush=True)
                continue
            first = statistics.median(row["first_seconds"])
            rest = statistics.median(row["all_seconds"]) - first
            row |= {"side": side, "batch": batch, "decode_rate": batch * (shape.count - 1) / rest}
            row["prefill_rate"] = batch * shape.prompt / first
            rates[side] = row["decode_rate"]
            report["rows"].append(row)
            print(
                f"{name:26s} {row['decode_rate']:17,.0f} {row['prefill_rate']:18,.0f} {1000 * first:10.1f} "
                f"{row['used_bytes'] / 2**30:9.1f} {row['ready_seconds']:9.1f}",
                flush=True,
            )
        if "ours" in rates:
            lines += [
                (f"batch {batch}, tokens per second, ours / {side}", rates["ours"] / rates[side], target)
                for side, target in TARGETS.items()
                if side in rates
            ]
    report["targets"] = [
        {"name": name, "ratio": ratio, "target": target, "met": ratio >= target} for name, ratio, target in lines
    ]
    print()
    for name, ratio, target in lines:
        print(f"{name:55s} {ratio:6.3f}  {target:.1f}  {'met' if ratio >= target else 'missed'}")
    if arguments.tiny:
        return int(failed)
    whole = bool(lines) and not failed and set(batches) == set(BATCHES) and arguments.rounds >= ROUNDS
    for path in [
        *([arguments.output] if arguments.output else []),
        *([ROOT / "bench" / "results" / "gpu_generate.json"] if whole else []),
    ]:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return int(failed or not lines or any(ratio < target for _, ratio, target in lines))


if __name__ == "__main__":
    sys.exit(main())
