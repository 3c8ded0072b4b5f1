"""Adaptation against `trl` and `peft`: conversations a second and peak memory, all weights and LoRA.

A Llama of 14 M parameters (width 384, 6 layers, vocabulary 8,192) learns to write the bodies of functions of Python's
standard library: conversations of all lengths up to 512 tokens, of which only the answer is learned. Every side gets
the same token ids and weights, bfloat16 where the processor has a unit for it, and the same number of tokens a step.
Each runs in a process of its own, one after the other, in rounds, so that noise of the machine hits all:

    ours              `underlay adapt`: packed rows, documents apart
    ours-unpacked     the same, a row a conversation
    trl               trl's SFTTrainer, rows padded to the longest of a batch; compute in mixed precision
    trl-pure          the same with all weights in bfloat16
    trl-packed        the same with its packing (`bfd`; on a CPU it does not keep documents apart)

each with all weights (`full`), with LoRA of rank 16 on all matrices (`lora`), and, but for packing, by preferences of
eight pairs a step (`dpo`: a function's body against that of the next one; what the starting model says is computed
before on all sides), and by rewards (`grpo`: a step is eight answers of up to 64 tokens to each of eight prompts of up
to 128, worth their length, and one update; an untrained model hardly ever stops, so all sides write as much). The rate
is the median over steps but the first few, in which things are compiled; of `dpo` and `grpo` it is the mean. Needs
`make bench-env`. Prints a table, one line a target, and writes `bench/results/adapt.json`. Exits non-zero where a
target is missed. Run nothing else meanwhile.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OTHERS = ROOT / ".venv-bench" / "bin" / "python"
"""Where `make bench-env` installs other tools."""
CONTEXT, TOKENS = 512, 4096
"""Longest conversation; tokens of a step, padding included."""
WAYS = ("ours", "ours-unpacked", "trl", "trl-pure", "trl-packed")
METHODS = ("full", "lora", "dpo", "grpo")
APART = ("ours-unpacked", "trl-packed")
"""Sides that only differ from others in packing, which pairs and problems have none of."""
UNPACKED = ("dpo", "grpo")
PAIRS = 640
ROLLOUTS = {"prompts": 8, "group": 8, "prompt_tokens": 128, "answer_tokens": 64}
"""Of a step of `grpo`."""

RECIPE = """
name: bench-adapt
stages:
  gather: {name: raw, source: [python-stdlib]}
  tag: {corpus: gather}
  curate: {corpus: gather, attributes: tag}
  tokenizer: {corpus: curate, vocabulary: 8192}
  pack: {corpus: curate, tokenizer: tokenizer, heldout: 0.025}
  pretrain:
    dataset: pack
    model: {width: 384, depth: 6, heads: 6, hidden: 1024, context: 512}
    train: {steps: 2, context: 512, batch_rows: 2, micro_rows: 2, compile: false}
  examples: {corpus: curate, pairs: functions}
"""


def build(scratch: Path) -> dict[str, str]:
    """The model, as we and as `transformers` read it, and the conversations as ids and weights, one a line."""
    from underlay.adapt.examples import Conversation, Examples
    from underlay.library import Library
    from underlay.text import Tokenizer, render

    library = scratch / "library"
    (scratch / "recipe.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "underlay"]
    at = ["--library", str(library)]
    subprocess.run([*command, "run", str(scratch / "recipe.yaml"), *at], check=True, stdout=sys.stderr)
    exported = scratch / "exported"
    if not exported.exists():
        exporting = [*command, "library", "export", "model:bench-adapt", str(exported), "--format", "hf", *at]
        subprocess.run(exporting, check=True, stdout=sys.stderr)
    shelf = Library(library)
    model, examples = shelf.find("model:bench-adapt").folder, shelf.find("examples:bench-adapt").folder
    tokenizer = Tokenizer.load(model)
    rows = scratch / "rows.jsonl"
    with rows.open("w") as file:
        for example in Examples(examples):
            assert isinstance(example.body, Conversation)
            ids, weights = render(tokenizer, example.body.messages)
            if len(ids) <= CONTEXT + 1:
                file.write(json.dumps([ids, weights]) + "\n")
    pairs = scratch / "pairs.jsonl"
    bodies = [example.body for example in Examples(examples)][: PAIRS + 1]
    with pairs.open("w") as file:
        for one, other in itertools.pairwise(bodies):
            assert isinstance(one, Conversation)
            assert isinstance(other, Conversation)
            asked, chosen, rejected = (m.content for m in (*one.messages, other.messages[1]))
            if len(tokenizer.encode(asked)) + max(len(tokenizer.encode(x)) for x in (chosen, rejected)) < CONTEXT - 8:
                file.write(json.dumps({"prompt": asked, "chosen": chosen, "rejected": rejected}) + "\n")
    prompts = scratch / "prompts.jsonl"
    with prompts.open("w") as file:
        for line in pairs.read_text().splitlines():
            asked = json.loads(line)["prompt"]
            if len(tokenizer.encode(asked)) <= ROLLOUTS["prompt_tokens"] - 4:  # beside the marks of a turn
                file.write(json.dumps({"prompt": asked}) + "\n")
    places = {"model": model, "examples": examples, "exported": exported}
    places |= {"rows": rows, "pairs": pairs, "prompts": prompts}
    return {name: str(place) for name, place in places.items()}


def run_side(way: str, method: str, given: dict[str, str], scratch: Path, steps: int) -> dict[str, Any]:
    """Measure one side once."""
    ours = way.startswith("ours")
    python = Path(sys.executable) if ours else OTHERS
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(scratch / f"cache-{way}-{method}"), "HF_HUB_OFFLINE": "1"}
    module = "ours" if ours else "rival"
    what = {"way": way, "method": method, "steps": steps, "context": CONTEXT, "tokens": TOKENS, **given}
    what["rollouts"] = ROLLOUTS
    what["scratch"] = tempfile.mkdtemp(dir=scratch)
    command = [str(python), "-m", f"adaptation.{module}", json.dumps(what)]
    output = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | cache, cwd=ROOT / "bench"
    ).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def targets_of(rows: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """What is asked, and what came of it."""

    def best(method: str, key: str) -> tuple[str, float]:
        names = [f"{way}, {method}" for way in WAYS if way.startswith("trl")]
        rivals = {name: rows[name][key] for name in names if name in rows}
        name = max(rivals, key=rivals.__getitem__) if key == "rate" else min(rivals, key=rivals.__getitem__)
        return name, rivals[name]

    found: list[tuple[str, float, float]] = []
    for method in METHODS:
        ours = rows[f"ours, {method}"]
        name, rate = best(method, "rate")
        found.append((f"{method}: examples a second, ours / {name}", ours["rate"] / rate, 2.0))
        name, peak = best(method, "peak_mib")
        found.append((f"{method}: peak memory, {name} / ours", peak / ours["peak_mib"], 1.0))
        if method not in UNPACKED:
            unpacked = rows[f"ours-unpacked, {method}"]["rate"]
            found.append((f"{method}: examples a second, packed / unpacked", ours["rate"] / unpacked, 3.0))
    return [{"name": n, "value": value, "target": least, "met": value >= least} for n, value, least in found]


def main() -> None:
    """Measure, print, write down."""
    parser = argparse.ArgumentParser(description="Adaptation against trl and peft.")
    parser.add_argument("--steps", type=int, default=16, help="steps of each side and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help="sides to measure")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, help="what they do")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build" / "bench-adapt")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    given = build(options.scratch)
    measured: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.rounds):
        for method in options.methods:
            for way in options.ways:
                if method in UNPACKED and way in APART:
                    continue
                steps = options.steps * (3 if method == "dpo" else 1)
                one = run_side(way, method, given, options.scratch, steps)
                measured.setdefault(f"{way}, {method}", []).append(one)
                print(f"{way:14s} {method:5s} {one['rate']:8.1f} examples/s, {one['peak_mib']:6.0f} MiB", flush=True)
    rows = {
        name: {key: statistics.median(one[key] for one in all_) for key in ("rate", "peak_mib", "tokens_per_second")}
        for name, all_ in measured.items()
    }
    print()
    for name, row in rows.items():
        print(
            f"{name:22s} {row['rate']:8.1f} examples/s {row['tokens_per_second']:9.0f} learned tokens/s "
            f"{row['peak_mib']:6.0f} MiB"
        )
    if set(options.ways) < set(WAYS) or set(options.methods) < set(METHODS):
        return
    targets = targets_of(rows)
    print()
    for one in targets:
        print(f"{one['name']:64s} {one['value']:6.2f}  {one['target']:.1f}  {'met' if one['met'] else 'missed'}")
    result = {"machine": measured["ours, full"][0]["machine"], "rows": rows, "turns": measured, "targets": targets}
    (ROOT / "bench" / "results" / "adapt.json").write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(not all(one["met"] for one in targets))


if __name__ == "__main__":
    main()
