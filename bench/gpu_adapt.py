"""Adapting on one GPU of the H100 class: speed and peak memory beside `transformers`, `peft` and `trl`.

A Llama-type decoder of a billion parameters, with random weights and a vocabulary of 32,768, learns in bfloat16 by each
of these `METHODS`:

    full    all weights, rows of 1,024 random tokens, 32 a step: tokens a second
    lora    low-rank changes of rank 16 of all matrices, the same rows
    qlora   the same over matrices that are kept in four bits (nf4)
    dpo     16 pairs a step, prompts and answers of about 128 tokens each: pairs a second
    grpo    8 answers of 128 tokens to each of 8 prompts of about 128 tokens, rewarded by their length, and one update:
            answers a second

Each side runs in a process of its own, one after the other:

    ours    what `underlay adapt` does, without the library around it
    rival   the Trainer of `transformers`, with `peft` for low-rank changes and `bitsandbytes` for four bits; the
            DPOTrainer and GRPOTrainer of `trl` (generation by `transformers`); each where it can be imported

Of `full`, `lora` and `qlora` each side takes as many rows at once as the largest of `ROWS` that fits. A step ends when
the GPU is done with it; a rate is of the median over the steps after the first `WARM`, which compile. Prints a table,
then one line a target, and writes `bench/results/gpu_adapt.json` where all was measured; `--output` writes whatever was
measured to another file. Exits non-zero where a side failed or a target is missed. Needs Underlay with all that it
needs; `--try` runs tiny shapes in float32 on the CPU, to see that the script works, and writes nothing. Run nothing
else meanwhile.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from gpu_train import Noise, Shape, Watch, machine

ROOT = Path(__file__).parents[1]
METHODS = {"full": "tokens/s", "lora": "tokens/s", "qlora": "tokens/s", "dpo": "pairs/s", "grpo": "answers/s"}
NEEDS = {
    "full": ("transformers",),
    "lora": ("transformers", "peft"),
    "qlora": ("transformers", "peft", "bitsandbytes"),
    "dpo": ("transformers", "trl"),
    "grpo": ("transformers", "trl"),
}
"""What the rival is made of."""
SIDES = ("ours", "rival")
ROWS = (32, 16, 8, 4)
STEPS, WARM = 12, 3
RANK, MODULES = 16, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SPEED, MEMORY = 1.0, 1.0
"""Least of what is asked: the rate of ours / the rival's, the peak memory of the rival / ours."""


class Size(NamedTuple):
    """How large everything is."""

    shape: Shape
    pairs: int
    prompts: int
    group: int
    words: int
    """Of a prompt, and of an answer of a pair; a word is a token or two."""
    answer_tokens: int


LARGE = Size(Shape(1_000_000_000, context=1024, batch_rows=32), 16, 8, 8, 80, 128)
TINY = Size(Shape(100_000, vocabulary=512, context=96, batch_rows=4, device="cpu"), 2, 2, 2, 6, 8)
"""For `--try`."""


def build(size: Size, folder: Path) -> None:
    """Random weights and a tokenizer, as we and as `transformers` read them, and prompts and pairs, one a line."""
    import torch

    from underlay.formats.hf import outgoing
    from underlay.formats.keymap import written_out
    from underlay.models.storage import WEIGHTS, save_model, write_tensors
    from underlay.text import train_tokenizer

    shape, chance = size.shape, random.Random(0)
    torch.manual_seed(0)
    model = shape.config().build()
    ours, theirs = folder / "ours", folder / "hf"
    for part in (ours, theirs):
        part.mkdir()
    save_model(model, ours)
    train_tokenizer((path.read_text("utf-8", "replace") for path in sorted(ROOT.glob("src/**/*.py"))), 512).save(ours)
    values, rows = outgoing(model.config, None)
    (theirs / "config.json").write_text(json.dumps(values | {"dtype": "float32"}))
    weights = model.state_dict()
    write_tensors(dict(written_out(rows, lambda name: weights[name])), theirs / WEIGHTS, {"format": "pt"})

    def said() -> str:
        return " ".join(chance.choice(("return", "self", "value", "None", "name", "model")) for _ in range(size.words))

    pairs = [{"prompt": said() + "\n", "chosen": said(), "rejected": said()} for _ in range(16 * size.pairs)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


def pairs_in(folder: Path) -> list[dict[str, str]]:
    """What `build` wrote."""
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]


# The sides, each in a process of its own. -------------------------------------------------------------------------


def ours(method: str, size: Size, folder: Path, micro_rows: int, steps: int) -> dict[str, Any]:
    """What `underlay adapt` does."""
    import torch

    from underlay.adapt import preference, reinforce
    from underlay.adapt.examples import Example, Preference, Problem
    from underlay.adapt.lora import LoraConfig, attach
    from underlay.models.storage import load_decoder
    from underlay.text import Message, Tokenizer
    from underlay.train import CausalLM, TrainConfig, train
    from underlay.train.config import OptimizerConfig

    shape = size.shape
    on_gpu = shape.device == "cuda"
    rows = {"dpo": size.pairs, "grpo": size.prompts * size.group}.get(method, shape.batch_rows)
    settings = TrainConfig(
        steps=steps,
        context=shape.context,
        batch_rows=rows,
        micro_rows=micro_rows,
        precision="bf16" if on_gpu else "float32",
        compile=on_gpu and method in ("full", "lora"),
        optimizer=OptimizerConfig(muon=False, adam_lr=1e-4),
        outliers=None,
        checkpoint_seconds=1e9,
    )
    model, tokenizer = load_decoder(folder / "ours").to(shape.device), Tokenizer.load(folder / "ours")
    if method in ("lora", "qlora"):
        attach(model, LoraConfig(rank=RANK, base="nf4" if method == "qlora" else "float"), 0, settings.dtype())
        model.to(shape.device)
    source: Any = Noise(shape)
    objective: Any = CausalLM(settings.dtype(), settings.compiles())
    with tempfile.TemporaryDirectory() as scratch:
        if method == "dpo":
            found = [
                Example(Preference((Message("user", p["prompt"]),), p["chosen"], p["rejected"]), "bench", 1, "")
                for p in pairs_in(folder)
            ]
            config = preference.PreferenceConfig()
            lesson = preference.lesson(
                model, tokenizer, found, config, shape.context, 0, settings.dtype(), Path(scratch)
            )
            source, objective = lesson.source, lesson.objective
        if method == "grpo":
            asked = [Example(Problem((Message("user", p["prompt"]),)), "bench", 1, "") for p in pairs_in(folder)]
            earns = reinforce.ReinforceConfig(
                reward="length", group=size.group, max_tokens=size.answer_tokens, keep=steps
            )
            lesson = reinforce.lesson(model, tokenizer, asked, earns, shape.context, 0, settings, Path(scratch))
            source, objective = lesson.source, lesson.objective
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        watch = Watch(shape)
        outcome = train(model, objective, source, settings, Path(scratch), watch)
    return watch.told(micro_rows=outcome.progression.micro_rows, mode=outcome.mode)


def rival(method: str, size: Size, folder: Path, micro_rows: int, steps: int) -> dict[str, Any]:
    """The trainers of `transformers` and `trl`."""
    import torch
    import transformers
    from datasets import Dataset

    transformers.logging.set_verbosity_error()
    shape = size.shape
    on_gpu = shape.device == "cuda"
    rows = {"dpo": size.pairs, "grpo": size.prompts * size.group}.get(method, shape.batch_rows)
    watch = Watch(shape)

    class Stepped(transformers.TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            watch.times[:] = watch.times[:0]
            watch()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch()

    with tempfile.TemporaryDirectory() as scratch:
        common: dict[str, Any] = {
            "output_dir": scratch,
            "max_steps": steps,
            "per_device_train_batch_size": micro_rows,
            "gradient_accumulation_steps": rows // micro_rows,
            "bf16": on_gpu,
            "use_cpu": not on_gpu,
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "optim": "adamw_torch_fused",
            "learning_rate": 1e-4,
            "gradient_checkpointing": False,
            "seed": 0,
        }
        given = {"callbacks": [Stepped()]}
        model = _theirs(method, folder, on_gpu)
        if method in ("full", "lora", "qlora"):
            tokens = Noise(shape).rows[:, :-1]
            data = Dataset.from_dict({"input_ids": tokens.tolist(), "labels": tokens.tolist()})
            arguments = transformers.TrainingArguments(torch_compile=on_gpu and method != "qlora", **common)
            trainer: Any = transformers.Trainer(
                model, arguments, train_dataset=data, data_collator=transformers.default_data_collator, **given
            )
        else:
            import trl

            tokenizer = transformers.PreTrainedTokenizerFast(
                tokenizer_file=str(folder / "ours" / "tokenizer.json"), eos_token="<|eos|>", pad_token="<|pad|>"
            )
            data = Dataset.from_list(pairs_in(folder))
            if method == "dpo":
                settings = trl.DPOConfig(max_length=shape.context, precompute_ref_log_probs=True, **common)
                trainer = trl.DPOTrainer(model, args=settings, train_dataset=data, processing_class=tokenizer, **given)
            else:
                length = size.answer_tokens
                settings = trl.GRPOConfig(num_generations=size.group, max_completion_length=length, **common)

                def earned(completions: list[str], **_: Any) -> list[float]:
                    return [float(len(one)) for one in completions]

                data = data.select_columns(["prompt"])
                trainer = trl.GRPOTrainer(
                    model, earned, args=settings, train_dataset=data, processing_class=tokenizer, **given
                )
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
    return watch.told(micro_rows=micro_rows, mode="compiled" if on_gpu and method in ("full", "lora") else "eager")


def _theirs(method: str, folder: Path, on_gpu: bool) -> Any:
    """Their model: float32 weights under autocast where all learn, bfloat16 below changes that do."""
    import torch
    import transformers

    frozen = method in ("lora", "qlora")
    more: dict[str, Any] = {"dtype": torch.bfloat16 if frozen and on_gpu else torch.float32}
    if method == "qlora":
        more["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "hf", attn_implementation="sdpa", **more)
    model.config.use_cache = method == "grpo"
    if not frozen:
        return model
    import peft

    if method == "qlora":
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    lora = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(MODULES), task_type="CAUSAL_LM")
    return peft.get_peft_model(model, lora)


def serve(side: str, method: str, size: Size, folder: Path, micro_rows: int, steps: int) -> dict[str, Any]:
    """Run one side; `full` in place of figures where memory ran out."""
    import torch

    from underlay.errors import MachineError, UserError

    try:
        return (ours if side == "ours" else rival)(method, size, folder, micro_rows, steps)
    except torch.OutOfMemoryError:
        return {"full": True}
    except (UserError, MachineError) as error:
        if "rows at once" not in str(error):
            raise
        return {"full": True}


# The comparison. --------------------------------------------------------------------------------------------------


def called(*what: object) -> Any:
    """What a process of this script printed last as JSON; None where it failed."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--serve", *map(str, what)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=environment)
    return None if done.returncode else json.loads(done.stdout.splitlines()[-1])


def fitted(side: str, method: str, size: Size, tiny: bool, folder: Path, steps: int) -> Any:
    """A side's figures with the most rows at once that fit; None where it failed or none do."""
    rows = {"dpo": size.pairs, "grpo": size.prompts * size.group}.get(method)
    for micro_rows in [rows] if rows else [rows for rows in ROWS if rows <= size.shape.batch_rows]:
        result = called(side, method, "tiny" if tiny else "large", folder, micro_rows, steps)
        if result is None or "full" not in result:
            return result
    print(f"{side}, {method}: out of memory", file=sys.stderr)
    return None


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each side; the first {WARM} are not timed")
    parser.add_argument("--output", type=Path, help="write what was measured here, whole run or not")
    parser.add_argument("--try", action="store_true", dest="tiny", help="tiny shapes on the CPU; measures nothing")
    parser.add_argument("--serve", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        side, method, which, folder, micro_rows, steps = options.serve
        size = TINY if which == "tiny" else LARGE
        print(json.dumps(serve(side, method, size, Path(folder), int(micro_rows), int(steps))))
        return
    if options.steps <= WARM:
        parser.error(f"--steps: {WARM} are not timed, so there must be more")

    import torch

    if not (options.tiny or torch.cuda.is_available()):
        print("no CUDA GPU is here; --try runs tiny shapes on the CPU")
        sys.exit(2)
    size = TINY if options.tiny else LARGE
    found: dict[str, dict[str, Any]] = {}
    lines: list[tuple[str, float, float]] = []
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        build(size, Path(scratch))
        print(f"{'':14s} {'rows':>5s} {'rate':>12s} {'':10s} {'peak GiB':>9s} {'first, s':>9s}")
        for method, unit in METHODS.items():
            if method not in options.methods:
                continue
            of_step = {"dpo": size.pairs, "grpo": size.prompts * size.group}.get(method, size.shape.tokens)
            for side in options.sides:
                if side == "rival" and not all(map(find_spec, NEEDS[method])):
                    print(f"{method + ', ' + side:14s} left out: it needs {', '.join(NEEDS[method])}", flush=True)
                    continue
                result = fitted(side, method, size, options.tiny, Path(scratch), options.steps)
                if result is None:
                    failed = True
                    print(f"{method + ', ' + side:14s} failed", flush=True)
                    continue
                result["rate"] = of_step / statistics.median(result["seconds"][WARM:])
                found.setdefault(method, {})[side] = result
                print(
                    f"{method + ', ' + side:14s} {result['micro_rows']:5d} {result['rate']:12,.1f} {unit:10s} "
                    f"{result['peak_bytes'] / 2**30:9.1f} {result['seconds'][0]:9.1f}",
                    flush=True,
                )
            both = found.get(method, {})
            if set(both) == set(SIDES):
                lines.append((f"{method}: rate, ours / rival", both["ours"]["rate"] / both["rival"]["rate"], SPEED))
                if both["ours"]["peak_bytes"]:
                    peak = both["rival"]["peak_bytes"] / both["ours"]["peak_bytes"]
                    lines.append((f"{method}: peak memory, rival / ours", peak, MEMORY))
    print()
    for name, ratio, target in lines:
        print(f"{name:40s} {ratio:6.3f}  {target:.1f}  {'met' if ratio >= target else 'missed'}")
    if options.tiny:
        sys.exit(failed)
    packages = {name: version(name) for name in ("transformers", "peft", "trl", "bitsandbytes") if find_spec(name)}
    report = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": machine() | packages,
        "methods": found,
        "targets": [{"name": n, "ratio": ratio, "target": least, "met": ratio >= least} for n, ratio, least in lines],
    }
    outputs = [options.output] if options.output else []
    if len(lines) == 2 * len(METHODS) and not failed and options.steps >= STEPS:
        outputs.append(ROOT / "bench" / "results" / "gpu_adapt.json")
    for path in outputs:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    sys.exit(failed or not lines or any(ratio < target for _, ratio, target in lines))


if __name__ == "__main__":
    main()
