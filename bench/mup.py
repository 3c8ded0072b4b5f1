"""Do learning rates that were found on a small model stay good on a wide one?

Trains a narrow and a wide decoder at several rates of AdamW, once as usual and once under the maximal update
parametrisation (arXiv:2203.03466), on the Python of this machine. Draws `docs/images/mup.svg`, prints a table and one
line a target, and writes the same as JSON to `bench/results/mup.json`. Takes some twenty minutes on two cores.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from underlay.data import Corpus, Dataset, GatherConfig, PackConfig, Rows, gather, pack
from underlay.models import LlamaConfig
from underlay.text import train_tokenizer
from underlay.train import CausalLM, TrainConfig, train
from underlay.train.optimizer import OptimizerConfig

ROOT = Path(__file__).parents[1]
BASE, DEPTH, CONTEXT, VOCABULARY = 64, 3, 128, 2048
RATES = [2.0**power for power in range(-12, -3)]


def rows(folder: Path) -> Rows:
    """Rows of the standard library's source."""
    (folder / "raw").mkdir()
    (folder / "packed").mkdir()
    corpus = gather(GatherConfig(source=("python-stdlib",)), folder / "raw")
    assert isinstance(corpus, Corpus)
    tokenizer = train_tokenizer((document.text for document in corpus), VOCABULARY)
    pack(corpus, tokenizer, PackConfig(), folder / "packed")
    return Rows(Dataset(folder / "packed"), CONTEXT, seed=0)


def final_loss(source: Rows, width: int, rate: float, mup: bool, steps: int, seed: int) -> float:
    """Mean loss (nats a token) of the last tenth of a run; infinite where it diverged."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        depth=DEPTH,
        width=width,
        heads=width // 32,
        tied=False,
        vocabulary=VOCABULARY,
        context=CONTEXT,
        mup_width=BASE if mup else None,
    )
    settings = TrainConfig(
        steps=steps,
        context=CONTEXT,
        batch_rows=16,
        micro_rows=16,
        optimizer=OptimizerConfig(muon=False, adam_lr=rate),
        compile=False,
        checkpoint_seconds=1e9,
    )
    with tempfile.TemporaryDirectory() as scratch:
        outcome = train(config.build(), CausalLM(settings.dtype()), source, settings, Path(scratch))
    losses = [entry["loss"] for entry in outcome.progression.log]
    return statistics.fmean(losses[-max(1, steps // 10) :])


def best(losses: dict[float, float]) -> float:
    """The rate with the lowest loss."""
    return min(losses, key=lambda rate: losses[rate])


def draw(found: dict[str, dict[int, dict[float, float]]], path: Path) -> None:
    """Loss against rate: one panel a parametrisation, one line a width, the best rate marked."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mup", "font.size": 9, "font.family": "sans-serif"}):
        figure = Figure(figsize=(8.0, 3.2), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        colours = ["#8ccfc4", "#14907c", "#0a4d43"]
        for ax, (name, widths) in zip(axes, found.items(), strict=True):
            for colour, (width, losses) in zip(colours[-len(widths) :], widths.items(), strict=True):
                ax.plot(list(losses), list(losses.values()), "o-", color=colour, ms=3.5, lw=1.5, label=f"width {width}")
                ax.plot(best(losses), min(losses.values()), "o", color=colour, ms=9, mfc="none", mew=1.5)
            ax.set_xscale("log", base=2)
            ax.set_title(name, fontsize=10, loc="left")
            ax.set_xlabel("AdamW's learning rate")
            ax.grid(color="#8884", lw=0.5)
            ax.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel("loss, nats a token")
        lowest = min(loss for widths in found.values() for losses in widths.values() for loss in losses.values())
        axes[0].set_ylim(lowest - 0.1, lowest + 1.6)
        axes[0].legend(frameon=False)
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def sweep(source: Rows, widths: Iterable[int], steps: int, seed: int) -> dict[str, dict[int, dict[float, float]]]:
    """Losses by parametrisation, width and rate."""
    found: dict[str, dict[int, dict[float, float]]] = {}
    for name, mup in (("standard parametrisation", False), ("maximal update parametrisation", True)):
        for width in widths:
            losses = found.setdefault(name, {}).setdefault(width, {})
            for rate in RATES:
                if mup and width == BASE:  # at the base width the two are the same
                    losses[rate] = found["standard parametrisation"][width][rate]
                    continue
                losses[rate] = final_loss(source, width, rate, mup, steps, seed)
                print(f"{name:32s} width {width:4d}  rate {rate:.5f}  loss {losses[rate]:.3f}", flush=True)
    return found


def main() -> None:
    """Sweep, draw, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--widths", type=int, nargs=2, default=[BASE, 4 * BASE])
    arguments = parser.parse_args()
    narrow, wide = arguments.widths
    with tempfile.TemporaryDirectory() as folder:
        found = sweep(rows(Path(folder)), arguments.widths, arguments.steps, seed=0)
    draw(found, ROOT / "docs" / "images" / "mup.svg")
    regrets, moves = {}, {}
    for name, losses in found.items():
        carried = best(losses[narrow])
        regrets[name] = losses[wide][carried] - min(losses[wide].values())
        moves[name] = best(losses[wide]) / carried
        print(
            f"{name}: best rate {carried:.5f} narrow, {best(losses[wide]):.5f} wide, carrying costs {regrets[name]:.3f}"
        )
    standard, mup = regrets
    # A hundredth of a nat is what one seed can tell apart.
    ratio = (regrets[standard] + 0.01) / (regrets[mup] + 0.01)
    met = ratio >= 1.0
    print(f"cost of a rate carried over, standard / mup  {ratio:.2f}  1.0  {'met' if met else 'missed'}")
    result = {
        "steps": arguments.steps,
        "losses": found,
        "regrets": regrets,
        "moves": moves,
        "targets": [{"name": "cost of a rate carried over, standard / mup", "ratio": ratio, "target": 1.0, "met": met}],
    }
    path = ROOT / "bench" / "results" / "mup.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    sys.exit(not met)


if __name__ == "__main__":
    main()
