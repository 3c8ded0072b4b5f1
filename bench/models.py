"""Forward, and forward and backward of the training loss, against `transformers` on the same weights.

The models are random, of the shapes of SmolLM-135M, GPT-2 small and BERT-base; each side has them in bfloat16, in a
process of its own with as many threads as there are cores, and its own compile cache. The sides take turns, so that
noise of the machine hits both; a row's ratio is the median over turns of theirs by ours. Both sides' results are
compared first. Prints a table, then one line a target (compiled 1.3 times as fast, eager not slower), and writes the
same as JSON to `bench/results/models.json`. Exits non-zero where a target is missed. Run nothing else meanwhile.

A processor without a unit for bfloat16 is slow at it, and Underlay computes in float32 there, while `transformers` does
as it is told. Its best setting is float32 then, so all rows are measured in float32 as well, under the same targets.

`transformers` runs with attn_implementation="sdpa", its fastest on a CPU; compiled is torch.compile of the whole model.
Ours compiled is what our trainer does: each block by itself. Both processes keep the memory they free, as our trainer
sets it (`underlay.train.memory`); `transformers` leaves that to its caller, and is faster with it too.
For masked language modelling 15 % of positions are targets, for which `transformers` takes labels of -100 elsewhere.
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
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
FAMILIES = {
    "llama": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}
"""What differs from the defaults of their configs, which are GPT-2 small and BERT-base; dropout is off."""
NAMES = {"llama": "SmolLM-135M (Llama)", "gpt2": "GPT-2 small", "bert": "BERT-base"}
ROWS, TIME = 2, 512
MASKED = 0.15
SIDES = ("ours", "theirs")
DTYPE = os.environ.get("BENCH_DTYPE", "bfloat16")
"""Of this process; each side is told its own."""
TARGETS = {"eager": 1.0, "compiled": 1.3}
AGREE = 0.05
"""Largest difference, of the norm, between what the sides compute in bfloat16."""
Run = Callable[[], Any]


# The two sides, each in a process of its own. ---------------------------------------------------------------------


def _theirs(family: str, folder: Path) -> Any:
    import transformers

    kind = transformers.AutoModelForMaskedLM if family == "bert" else transformers.AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=DTYPE, attn_implementation="sdpa")


def _ours(folder: Path) -> Any:
    import torch

    from underlay.formats.hf import open_model
    from underlay.models.families import blank

    incoming = open_model(folder)
    model = blank(incoming.config)
    model.load_state_dict(dict(incoming.tensors()))
    return model.to(getattr(torch, DTYPE))


def _batch(family: str) -> tuple[Any, Any, Any]:
    """Tokens, targets, and the weight of each target: the next token, or 15 % of what was there."""
    import torch

    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 30_000, (ROWS, TIME), generator=random)
    if family == "bert":
        return tokens, tokens.flip(1), (torch.rand(ROWS, TIME, generator=random) < MASKED).float()
    weights = torch.ones(ROWS, TIME)
    weights[:, -1] = 0  # nothing follows the last
    return tokens, tokens.roll(-1, 1), weights


def _forward(side: str, family: str, model: Any, compiled: bool) -> Run:
    import torch

    tokens, _, _ = _batch(family)
    model.eval().requires_grad_(False)
    if side == "ours":
        from underlay.train.loop import compile_blocks

        if compiled:
            compile_blocks(model)

        def run() -> Any:
            with torch.no_grad():
                return model(tokens, dtype=getattr(torch, DTYPE))
    else:
        call = torch.compile(model) if compiled else model
        options = {} if family == "bert" else {"use_cache": False}

        def run() -> Any:
            with torch.no_grad():
                return call(input_ids=tokens, **options).logits

    return run


def _training(side: str, family: str, model: Any, compiled: bool) -> Run:
    import torch

    tokens, targets, weights = _batch(family)
    model.train()
    if side == "ours":
        from underlay.models import Batch
        from underlay.train import CausalLM
        from underlay.train.loop import compile_blocks

        if compiled:
            compile_blocks(model)
        objective = CausalLM(getattr(torch, DTYPE), compile=compiled)
        batch = Batch(tokens, targets, weights)

        def run() -> Any:
            model.zero_grad()
            found = objective(model, batch)
            loss = found.sum / found.count
            loss.backward()
            return loss
    else:
        call = torch.compile(model) if compiled else model
        # Their causal models shift the labels themselves.
        labels = targets.where(weights > 0, -100) if family == "bert" else tokens
        options = {} if family == "bert" else {"use_cache": False}

        def run() -> Any:
            model.zero_grad()
            loss = call(input_ids=tokens, labels=labels, **options).loss
            loss.backward()
            return loss

    return run


def serve(side: str, family: str, task: str, mode: str, folder: Path, sample: Path) -> None:
    """Be one side: run once for each line that comes in, and answer with the seconds it took.

    The first line out is how far this process has come up; the last, after an empty line in, is what it found.
    """
    import torch

    from underlay.train.memory import keep_freed_memory

    torch.set_num_threads(os.cpu_count() or 1)
    keep_freed_memory()  # what our trainer sets for its process helps either side
    model = _ours(folder) if side == "ours" else _theirs(family, folder)
    make = _forward if task == "forward" else _training
    run = make(side, family, model, mode == "compiled")
    began = time.perf_counter()
    run()
    first = time.perf_counter() - began
    run()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of loading and compiling
    print(json.dumps({"first": first}), flush=True)
    for line in sys.stdin:
        if not line.strip():
            break
        began = time.perf_counter()
        run()
        print(json.dumps(time.perf_counter() - began), flush=True)
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
    result = run().detach().float()
    torch.save(result[..., ::97] if task == "forward" else _gradients(side, model) | {"loss": result}, sample)
    print(json.dumps({"peak_mib": peak}), flush=True)


def _gradients(side: str, model: Any) -> dict[str, Any]:
    """Norms of gradients that both sides have under the one or the other name."""
    embedding = model.embedding if side == "ours" else model.get_input_embeddings()
    total = sum(float(p.grad.float().square().sum()) for p in model.parameters() if p.grad is not None)
    import torch

    return {"embedding": embedding.weight.grad.float()[:, ::7].clone(), "all": torch.tensor(total**0.5)}


# The comparison. --------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """What is measured."""

    dtype: str
    family: str
    task: str
    mode: str

    def __str__(self) -> str:
        return " ".join(self)


class Side:
    """A process that waits for its turns."""

    def __init__(self, side: str, row: Row, folder: Path, scratch: Path) -> None:
        self.sample = scratch / f"{side}-{row}.pt"
        command = [sys.executable, __file__, "--serve", side, *row[1:], str(folder), str(self.sample)]
        cache = scratch / f"cache-{side}"
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache), "HF_HUB_OFFLINE": "1"}
        environment["BENCH_DTYPE"] = row.dtype
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.first = self._read()["first"]
        self.seconds: list[float] = []
        self.peak = 0.0

    def _read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def turn(self) -> None:
        """Run once."""
        assert self.process.stdin is not None
        print(file=self.process.stdin, end="go\n", flush=True)
        self.seconds.append(self._read())

    def end(self) -> Any:
        """Stop; returns what was computed."""
        import torch

        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        self.peak = self._read()["peak_mib"]
        self.process.wait()
        return torch.load(self.sample)


def difference(found: Any, expected: Any) -> float:
    """Largest relative difference (Frobenius norm) of what the sides computed."""
    if isinstance(found, dict):
        return max(difference(found[name], expected[name]) for name in found)
    return float((found - expected).norm() / expected.norm())


def compare(row: Row, folder: Path, scratch: Path, turns: int) -> dict[str, Any]:
    """One row of the table."""
    ours, theirs = (Side(side, row, folder, scratch) for side in SIDES)
    for _ in range(turns):
        ours.turn()
        theirs.turn()
    gap = difference(ours.end(), theirs.end())
    assert gap < AGREE, f"{row}: the sides differ by {gap:.3f}"
    return {
        "model": NAMES[row.family],
        "dtype": row.dtype,
        "task": row.task,
        "mode": row.mode,
        "ratio": statistics.median(t / o for o, t in zip(ours.seconds, theirs.seconds, strict=True)),
        "difference": gap,
    } | {
        f"{name}_{what}": value
        for name, side in (("our", ours), ("their", theirs))
        for what, value in (
            ("seconds", statistics.median(side.seconds)),
            ("all_seconds", side.seconds),
            ("peak_mib", side.peak),
            ("first_seconds", side.first),
        )
    }


def build(family: str, folder: Path) -> Path:
    """A random model of the family, saved as `transformers` does."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **FAMILIES[family])
    kind = transformers.AutoModelForMaskedLM if family == "bert" else transformers.AutoModelForCausalLM
    kind.from_config(config).bfloat16().save_pretrained(folder / family)
    return folder / family


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9, help="runs of each side in each row")
    parser.add_argument("--only", default="", help="rows whose name contains this; writes no results")
    parser.add_argument("--scratch", type=Path, help="keep models and compile caches here")
    parser.add_argument("--serve", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        *what, folder, sample = arguments.serve
        serve(*what, Path(folder), Path(sample))
        return
    from underlay.plan.machine import bf16_unit

    scratch = arguments.scratch or Path(tempfile.mkdtemp())
    dtypes = ["bfloat16"] if bf16_unit() != "none" else ["bfloat16", "float32"]
    print(
        f"batch {ROWS} x {TIME}, {os.cpu_count()} threads, {arguments.turns} turns each; bfloat16 unit: {bf16_unit()}"
    )
    print(f"{'':36s} {'seconds':>17s} {'peak MiB':>15s} {'first run, s':>15s}")
    print(f"{'':36s} {'ours':>8s} {'theirs':>8s} {'ours':>7s} {'theirs':>7s} {'ours':>7s} {'theirs':>7s}  ratio")
    found = []
    for row in (Row(*parts) for parts in itertools.product(dtypes, FAMILIES, ("forward", "training"), TARGETS)):
        if arguments.only not in str(row):
            continue
        folder = scratch / row.family
        if not folder.exists():
            build(row.family, scratch)
        result = compare(row, folder, scratch, arguments.turns)
        found.append(result)
        print(
            f"{row!s:36s} {result['our_seconds']:8.3f} {result['their_seconds']:8.3f} "
            f"{result['our_peak_mib']:7.0f} {result['their_peak_mib']:7.0f} {result['our_first_seconds']:7.1f} "
            f"{result['their_first_seconds']:7.1f}  {result['ratio']:.3f}  (differ by {result['difference']:.4f})",
            flush=True,
        )
    print()
    for result in found:
        result["target"] = TARGETS[result["mode"]]
        result["met"] = result["ratio"] >= result["target"]
        name = f"{result['model']}, {result['dtype']}, {result['task']}, {result['mode']}"
        print(f"{name:50s} {result['ratio']:6.3f}  {result['target']:.1f}  {'met' if result['met'] else 'missed'}")
    if not arguments.only:
        import torch
        import transformers

        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        machine = {"cores": os.cpu_count(), "bf16": bf16_unit(), **versions}
        path = ROOT / "bench" / "results" / "models.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            json.dumps({"machine": machine, "shape": [ROWS, TIME], "rows": found}, indent=2) + "\n", "utf-8"
        )
    sys.exit(not all(result["met"] for result in found))


if __name__ == "__main__":
    main()
