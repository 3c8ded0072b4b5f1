"""Training against nanoGPT, LitGPT and the Trainer of `transformers`: tokens a second, memory, time to a loss.

The data are the Python standard library, the shape is 14 M parameters (width 384, 6 layers, vocabulary 8,192), rows of
256 tokens, 4,096 tokens at once, 16,384 a step. Each side runs in a process of its own, one after the other, in rounds,
so that noise of the machine hits all:

    ours       the trainer as recipes use it: compiled, Muon and AdamW
    nanogpt    its own train.py, compiled (bfloat16 forced on where the processor has a unit for it)
    litgpt     its own pretraining, which compiles; mixed with bfloat16 where there is a unit, AdamW fused
    trainer    transformers.Trainer on a Llama of the same shape as it comes; `trainer-best` compiled and fused

A side's speed is the median over the steps after the first `WARM`. Then nanoGPT's recipe runs for `--steps` steps of
4,096 tokens, ours for some 40 % of the time that took, and both models are measured on the same held-out text: the
target "twice as fast to a loss" is met where ours is no worse. Neither side's first step counts, in which it compiles.

nanoGPT is not a package: clone https://github.com/karpathy/nanoGPT (or a mirror of it) and name the folder with
`--nanogpt`. The other sides need `make bench-env`. Prints a table, one line a target, and writes
`bench/results/train.json`. Exits non-zero where a target is missed. Run nothing else meanwhile.
"""

import argparse
import itertools
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OTHERS = ROOT / ".venv-bench" / "bin" / "python"
"""Where `make bench-env` installs other tools."""
LITGPT = ROOT / ".venv-litgpt" / "bin" / "python"
"""And LitGPT, which wants other versions of what they need."""
VOCABULARY, WIDTH, DEPTH, HEADS, HIDDEN, CONTEXT, ROWS = 8192, 384, 6, 6, 1024, 256, 16
TOKENS = ROWS * CONTEXT
"""At once."""
AT_ONCE = 4
"""How often before a step, where speed is measured."""
WARM = 2
"""Steps that are not timed: they compile."""
WINDOWS = 256
"""Held-out rows that a loss is measured on."""
SIDES = ("ours", "nanogpt", "litgpt", "trainer", "trainer-best")
TARGETS = {
    "tokens per second, ours / best rival": 1.5,
    "tokens per second, ours / Trainer as it comes": 4.0,
    "peak memory, leanest rival / ours": 1.0,
}


# The data, once. --------------------------------------------------------------------------------------------------

RECIPE = f"""
name: bench-train
stages:
  gather: {{name: raw, source: [python-stdlib]}}
  tag: {{corpus: gather}}
  curate: {{corpus: gather, attributes: tag}}
  tokenizer: {{corpus: curate, vocabulary: {VOCABULARY}}}
  pack: {{corpus: curate, tokenizer: tokenizer, heldout: 0.025}}
"""


def build(scratch: Path) -> Path:
    """The dataset's folder: `train/tokens.bin` and `heldout/tokens.bin`, 16 bits a token."""
    (scratch / "recipe.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "underlay", "run", str(scratch / "recipe.yaml"), "--library", str(scratch / "lib")]
    subprocess.run(command, check=True, stdout=sys.stderr)
    show = [*command[:3], "library", "show", "dataset:bench-train", "--json", "--library", str(scratch / "lib")]
    return Path(json.loads(subprocess.run(show, check=True, stdout=subprocess.PIPE, text=True).stdout)["folder"])


def tokens_of(data: Path, split: str) -> Any:
    """All tokens of a split, memory-mapped."""
    import numpy as np

    return np.memmap(data / split / "tokens.bin", np.uint16, mode="r")


def heldout_loss(data: Path, logits: Any) -> float:
    """Mean loss in nats a token on the held-out rows; `logits` maps (rows, CONTEXT) tokens to logits."""
    import numpy as np
    import torch

    stream = np.asarray(tokens_of(data, "heldout")[: WINDOWS * CONTEXT + 1]).astype(np.int64)
    tokens, targets = (torch.from_numpy(stream[at : at + WINDOWS * CONTEXT]).view(-1, CONTEXT) for at in (0, 1))
    total = 0.0
    with torch.no_grad():
        for rows, wanted in zip(tokens.split(ROWS), targets.split(ROWS), strict=True):
            found = logits(rows).float().flatten(0, 1)
            total += float(torch.nn.functional.cross_entropy(found, wanted.flatten(), reduction="sum"))
    return total / tokens.numel()


# The sides, each in a process of its own. -------------------------------------------------------------------------


def peak_mib() -> float:
    """The most memory this process had at once."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def told(times: list[float], tokens: int, **facts: float) -> None:
    """Print what a side measured: the moments at which its steps were done."""
    steps = [after - before for before, after in itertools.pairwise(times)]
    timed = steps[WARM - 1 :]
    print(json.dumps({"seconds": steps, "rate": tokens / statistics.median(timed), "peak_mib": peak_mib(), **facts}))


def has_unit() -> bool:
    """Whether this processor multiplies bfloat16 matrices; for sides that do not know Underlay."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def ours(data: Path, scratch: Path, steps: int, minutes: float) -> None:
    """Our trainer, as the quickstart uses it."""
    import torch

    from underlay.data import Dataset, Rows
    from underlay.models import LlamaConfig
    from underlay.models.spectral import spectral_embedding
    from underlay.train import CausalLM, TrainConfig, train
    from underlay.train.optimizer import OptimizerConfig
    from underlay.train.schedule import ScheduleConfig

    torch.manual_seed(0)
    dataset = Dataset(data)
    config = LlamaConfig(vocabulary=VOCABULARY, context=CONTEXT, width=WIDTH, depth=DEPTH, heads=HEADS, hidden=HIDDEN)
    model = config.build()
    model.start_from(spectral_embedding(dataset.tokens, VOCABULARY, WIDTH, 0))
    short: Any = [[0.25, 4], [0.55, 2]] if minutes else []
    settings = TrainConfig(
        **({"minutes": minutes} if minutes else {"steps": steps}),
        context=CONTEXT,
        batch_rows=ROWS if minutes else ROWS * AT_ONCE,
        micro_rows=ROWS,
        short_rows=short,
        optimizer=OptimizerConfig(lr=0.02, adam_lr=0.004),
        schedule=ScheduleConfig(warmup_steps=10, decay=0.6),
        compile=None if minutes else True,
        checkpoint_seconds=1e9,
    )
    times = [time.perf_counter()]
    train(
        model,
        CausalLM(settings.dtype(), settings.compiles()),
        Rows(dataset, CONTEXT, 0),
        settings,
        scratch / f"ours-{os.getpid()}",
        lambda *_, **__: times.append(time.perf_counter()),
    )
    tokens = TOKENS if minutes else TOKENS * AT_ONCE
    peak = peak_mib()  # before held-out rows are measured, which the other sides do not do here
    told(times, tokens, loss=heldout_loss(data, model), steps=len(times) - 1, peak_mib=peak)


def trainer(data: Path, scratch: Path, steps: int, best: bool) -> None:
    """transformers.Trainer on a Llama of the same shape."""
    import numpy as np
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
    )
    stream = tokens_of(data, "train")
    rows = [
        np.asarray(stream[at : at + CONTEXT]).astype(np.int64) for at in range(0, steps * AT_ONCE * TOKENS, CONTEXT)
    ]
    fast = {"torch_compile": True, "optim": "adamw_torch_fused", "bf16": has_unit()} if best else {}
    arguments = transformers.TrainingArguments(
        output_dir=str(scratch / "trainer"),
        max_steps=steps,
        per_device_train_batch_size=ROWS,
        gradient_accumulation_steps=AT_ONCE,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **fast,
    )
    times = [time.perf_counter()]

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    transformers.Trainer(
        transformers.LlamaForCausalLM(config),
        arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        callbacks=[Watch()],
    ).train()
    told(times, TOKENS * AT_ONCE, steps=len(times) - 1)


def fused_adamw(parameters: Any, **settings: Any) -> Any:
    """LitGPT asks for a fused AdamW on GPUs alone, unless it is given one by name that has no such setting."""
    import torch

    return torch.optim.AdamW(parameters, fused=True, **settings)


def litgpt(data: Path, scratch: Path, steps: int) -> None:
    """Its own pretraining, on a Llama of the same shape."""
    import numpy as np
    import torch
    from litgpt import Config, pretrain
    from litgpt.args import EvalArgs, TrainArgs
    from litgpt.data import DataModule

    times: list[float] = []

    class Stream(torch.utils.data.IterableDataset[Any]):
        """Rows and what follows them; whoever asks for the first row of a step is done with the step before."""

        def __init__(self, split: str) -> None:
            self.split = split

        def __iter__(self) -> Any:
            stream = tokens_of(data, self.split)
            for row in itertools.count():
                if self.split == "train" and row % (ROWS * AT_ONCE) == 0:
                    times.append(time.perf_counter())
                at = row * CONTEXT % (len(stream) - CONTEXT)
                yield torch.from_numpy(np.asarray(stream[at : at + CONTEXT + 1]).astype(np.int64))

    class Module(DataModule):
        """What its loop reads."""

        def connect(self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: Any = None, **_: Any) -> None:
            assert (tokenizer, batch_size, max_seq_length) == (None, ROWS, CONTEXT)

        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(Stream("train"), batch_size=ROWS)

        def val_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(Stream("heldout"), batch_size=ROWS)

    pretrain.save_checkpoint = lambda *_: None  # nobody asks for the weights, and it would pickle the data with them
    adamw = {"class_path": "__main__.fused_adamw", "init_args": {"lr": 1e-3, "betas": (0.9, 0.95)}}
    pretrain.setup(
        "bench",
        Config(
            name="bench",
            block_size=CONTEXT,
            vocab_size=VOCABULARY,
            padded_vocab_size=VOCABULARY,
            n_layer=DEPTH,
            n_head=HEADS,
            n_embd=WIDTH,
            intermediate_size=HIDDEN,
            norm_class_name="RMSNorm",
            mlp_class_name="LLaMAMLP",
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
        ),
        out_dir=scratch / "litgpt",
        precision="bf16-mixed" if has_unit() else "32-true",
        data=Module(),
        train=TrainArgs(
            global_batch_size=ROWS * AT_ONCE,
            micro_batch_size=ROWS,
            max_tokens=steps * AT_ONCE * TOKENS,
            save_interval=None,
            lr_warmup_steps=steps // 10,
            max_norm=1.0,
            tie_embeddings=True,
        ),
        eval=EvalArgs(interval=steps + 1, final_validation=False),
        optimizer=adamw,
        devices=1,
        logger_name="csv",
    )
    told(times, TOKENS * AT_ONCE, steps=len(times) - 1)


def nanogpt(data: Path, scratch: Path, steps: int, source: Path, unit: bool, at_once: int) -> dict[str, Any]:
    """Its own train.py, in a copy of its folder; the recipe is the one it ships for small models."""
    folder = scratch / "nanogpt"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("train.py", "model.py", "configurator.py"):
        text = (source / name).read_text()
        if name == "train.py" and unit:
            plain = "ctx = nullcontext() if device_type == 'cpu' else"
            assert plain in text
            text = text.replace(plain, "ctx =")
        (folder / name).write_text(text)
    (folder / "data" / "bench").mkdir(parents=True)
    for theirs, split in ("train", "train"), ("val", "heldout"):
        shutil.copyfile(data / split / "tokens.bin", folder / "data" / "bench" / f"{theirs}.bin")
    (folder / "data" / "bench" / "meta.pkl").write_bytes(_pickled_vocabulary())
    settings = {
        "dataset": "'bench'",
        "device": "'cpu'",
        "dtype": "'bfloat16'" if unit else "'float32'",
        "compile": True,
        "n_layer": DEPTH,
        "n_head": HEADS,
        "n_embd": WIDTH,
        "block_size": CONTEXT,
        "batch_size": ROWS,
        "gradient_accumulation_steps": at_once,
        "max_iters": steps,
        "lr_decay_iters": steps,
        "eval_interval": steps,
        "eval_iters": 1,
        "always_save_checkpoint": True,
        "learning_rate": 1e-3,
        "min_lr": 1e-4,
        "beta2": 0.99,
        "warmup_iters": min(100, steps // 10),
    }
    (folder / "bench.py").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
    watcher = (
        "import resource, runpy, sys, time\n"
        "import builtins\n"
        "plain = print\n"
        "def stamped(*a, **k):\n"
        "    plain(f'{time.perf_counter():.4f}', *a, **k)\n"
        "builtins.print = stamped\n"
        "sys.argv = ['train.py', 'bench.py']\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
        "plain('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
    )
    command = [sys.executable, "-c", watcher]
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(scratch / "cache-nanogpt")}
    output = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    times = [float(line.split()[0]) for line in output.splitlines() if re.search(r"iter \d+: loss", line)]
    seconds = [after - before for before, after in itertools.pairwise(times)]
    # The last step follows an evaluation.
    timed = seconds[WARM - 1 : -1]
    peak = float(output.rpartition("peak ")[2])
    return {
        "seconds": seconds[:-1],
        "rate": TOKENS * at_once / statistics.median(timed),
        "peak_mib": peak,
        "steps": steps,
    }


def _pickled_vocabulary() -> bytes:
    import pickle

    return pickle.dumps({"vocab_size": VOCABULARY})


def nanogpt_loss(data: Path, scratch: Path) -> float:
    """The held-out loss of what nanoGPT has saved."""
    import torch

    sys.path.insert(0, str(scratch / "nanogpt"))
    import model as theirs

    saved = torch.load(scratch / "nanogpt" / "out" / "ckpt.pt", weights_only=True)
    model = theirs.GPT(theirs.GPTConfig(**saved["model_args"]))
    model.load_state_dict({name.removeprefix("_orig_mod."): value for name, value in saved["model"].items()})
    model.eval()

    def logits(rows: Any) -> Any:
        return model(rows, rows)[0]  # without targets it gives the last position alone

    return heldout_loss(data, logits)


# The comparison. --------------------------------------------------------------------------------------------------


def run_side(
    side: str, data: Path, scratch: Path, steps: int, source: Path, unit: bool, minutes: float = 0, race: bool = False
) -> Any:
    """Measure one side once: its speed, or in a race what becomes of it."""
    if side == "nanogpt":
        return nanogpt(data, scratch, steps, source, unit, 1 if race else AT_ONCE)
    python = {"ours": Path(sys.executable), "litgpt": LITGPT}.get(side, OTHERS)
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(scratch / f"cache-{side}"), "HF_HUB_OFFLINE": "1"}
    command = [str(python), __file__, "--serve", side, str(data), str(scratch), str(steps), str(minutes)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, help="folder of a clone of nanoGPT")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side that are timed")
    parser.add_argument("--timed", type=int, default=5, help="steps of each that count")
    parser.add_argument("--steps", type=int, default=300, help="length of nanoGPT's run to a loss; 0 leaves it out")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--scratch", type=Path, help="keep data and compile caches here")
    parser.add_argument("--serve", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        side, data, scratch, steps, minutes = arguments.serve
        if side == "ours":
            ours(Path(data), Path(scratch), int(steps), float(minutes))
        elif side == "litgpt":
            litgpt(Path(data), Path(scratch), int(steps))
        else:
            trainer(Path(data), Path(scratch), int(steps), side == "trainer-best")
        return
    there = {"ours": True, "nanogpt": arguments.nanogpt, "litgpt": LITGPT.exists()}
    there |= dict.fromkeys(("trainer", "trainer-best"), OTHERS.exists())
    sides = [side for side in arguments.sides.split(",") if there[side]]
    for side in sorted(set(SIDES) - set(sides)):
        print(f"left out: {side} (see --help for what it needs)")

    from underlay.models import LlamaConfig
    from underlay.plan.flops import training_flops
    from underlay.plan.machine import bf16_unit, measure

    scratch = arguments.scratch or Path(tempfile.mkdtemp())
    scratch.mkdir(exist_ok=True)
    data, unit, rates = build(scratch), bf16_unit() != "none", measure()
    peak = rates.bf16_flops if unit else rates.float32_flops
    shape = LlamaConfig(vocabulary=VOCABULARY, context=CONTEXT, width=WIDTH, depth=DEPTH, heads=HEADS, hidden=HIDDEN)
    work = training_flops(shape, 1, CONTEXT)
    found: dict[str, list[Any]] = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for side in sides:
            found[side].append(run_side(side, data, scratch, WARM + arguments.timed, arguments.nanogpt, unit))
    rate = {side: statistics.median(run["rate"] for run in runs) for side, runs in found.items()}
    print(f"{os.cpu_count()} cores, bfloat16 unit: {bf16_unit()}, measured products {peak / 1e12:.2f} TFLOP/s")
    print(f"{'':14s} {'tokens/s':>9s} {'of products':>12s} {'peak MiB':>9s}")
    memory = {side: max(run["peak_mib"] for run in runs) for side, runs in found.items()}
    for side in sides:
        print(f"{side:14s} {rate[side]:9,.0f} {rate[side] * work / peak:12.0%} {memory[side]:9,.0f}")
    report: dict[str, Any] = {"bf16": bf16_unit(), "products": peak, "rates": rate, "runs": found}
    rivals = [side for side in sides if side != "ours"]
    ratios = {}
    if rivals:
        ratios["tokens per second, ours / best rival"] = rate["ours"] / max(rate[side] for side in rivals)
    if "trainer" in sides:
        ratios["tokens per second, ours / Trainer as it comes"] = rate["ours"] / rate["trainer"]
    if rivals:
        ratios["peak memory, leanest rival / ours"] = min(memory[side] for side in rivals) / memory["ours"]
    met = [ratio >= TARGETS[name] for name, ratio in ratios.items()]
    lines = [f"{name:55s} {ratio:6.2f}  {TARGETS[name]:.1f}" for name, ratio in ratios.items()]
    if "nanogpt" in sides and arguments.steps:
        race = run_side("nanogpt", data, scratch, arguments.steps, arguments.nanogpt, unit, race=True)
        theirs, seconds = nanogpt_loss(data, scratch), sum(race["seconds"])
        mine = run_side("ours", data, scratch, 0, arguments.nanogpt, unit, seconds / 2.5 / 60)
        spent = sum(mine["seconds"][1:])  # the first of nanoGPT's is not in its log either
        bits = 1 / math.log(2) * _tokens_per_byte(data)
        report["race"] = {"nanogpt": race | {"loss": theirs}, "ours": mine, "bits_per_nat": bits}
        print(f"\nnanoGPT: {seconds:.0f} s, {race['steps']} steps, {theirs * bits:.4f} bits per byte")
        print(f"ours:    {spent:.0f} s, {mine['steps']} steps, {mine['loss'] * bits:.4f} bits per byte")
        lines.append(f"{'time to a loss, nanoGPT / ours (if no worse)':55s} {seconds / spent:6.2f}  2.0")
        met.append(mine["loss"] <= theirs and seconds / spent >= 2.0)
    print()
    for line, good in zip(lines, met, strict=True):
        print(f"{line}  {'met' if good else 'missed'}")
    if set(sides) == set(SIDES) and arguments.steps:  # else it is no whole run
        (ROOT / "bench" / "results" / "train.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    sys.exit(not all(met))


def _tokens_per_byte(data: Path) -> float:
    info = json.loads((data / "dataset.json").read_text())
    return info["tokens"]["heldout"] / info["bytes"]["heldout"]


if __name__ == "__main__":
    main()
