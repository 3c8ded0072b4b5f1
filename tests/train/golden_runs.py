"""The runs whose loss curves are kept in `golden/`, to be compared with.

    python tests/train/golden_runs.py --write      # after a change that is meant to change them

Each recipe there is run on text made by a formula, in a process that is bound to the arithmetic of every x86-64:
kernels without AVX, MKL's branch for all processors, glibc's functions without FMA, one thread. So a curve is the same
to the last bit on all of them, under the version of torch that it was written with. This was found so in emulations of
other processors. Square roots of whole float32 tensors are what still differs (MKL approximates them by an instruction
that each vendor rounds otherwise), so the recipes avoid them.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "golden"
PLAIN = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-FMA,-FMA4,-ERMS",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def measured(environment: dict[str, str] | None = None) -> dict[str, Any]:
    """All curves, from a process of its own."""
    variables = os.environ | (PLAIN if environment is None else environment)
    command = [sys.executable, __file__]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def kept() -> dict[str, Any]:
    """All curves as they were written."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(GOLDEN.glob("*.json"))}


def text(folder: Path) -> None:
    """Some hundred small functions, each described in words that say what it does."""
    folder.mkdir()
    verbs = ("add", "multiply", "subtract", "compare", "divide", "repeat")
    things = ("apples", "harbours", "letters", "mountains", "pages", "rivers", "stones", "windows")
    signs = {"add": "+", "multiply": "*", "subtract": "-", "compare": "==", "divide": "/", "repeat": "%"}
    for number in range(160):
        verb, thing, other = verbs[number % 6], things[number * 5 % 8], things[number * number % 7]
        lines = [
            f"def {verb}_{thing}_{number}({thing}, {other}_):",
            f'    """{verb.capitalize()} {thing} and {other}, the {number}th way of {1 + number % 9}."""',
            f"    result = {thing} {signs[verb]} {other}_",
            *(f"    result = result {signs[verbs[(number + n) % 6]]} {number * n % 97 + 1}" for n in range(number % 4)),
            "    return result",
        ]
        (folder / f"{number:03}.py").write_text("\n".join(lines) + "\n", "utf-8")


class Quiet:
    """Says nothing of how a run goes."""

    def started(self, stage: str, number: int, of: int) -> None: ...
    def moved(self, done: float, total: float | None, **facts: float | str) -> None: ...
    def said(self, line: str) -> None: ...
    def ended(self, artifact: object, reused: bool) -> None: ...


def _run(folder: Path) -> dict[str, Any]:
    import torch

    from underlay.library import Library
    from underlay.models import Batch
    from underlay.recipe import read_recipe, run_recipe, training
    from underlay.train import Outcome, watch

    orders: list[str] = []
    curves: list[list[dict[str, float]]] = []

    def train(*arguments: Any, **named: Any) -> Outcome:
        source, config = arguments[2], arguments[3]
        outcome = trained(*arguments, **named)
        order = hashlib.sha256()
        for step in range(outcome.progression.step):
            batch: Batch = source.batch(step * config.batch_rows, config.batch_rows)
            for tensor in (batch.tokens, batch.targets, batch.weights, batch.segments):
                order.update(b"-" if tensor is None else tensor.double().numpy().tobytes())
        orders.append(order.hexdigest())
        curves.append(list(outcome.journal))
        return outcome

    trained, training.train = training.train, train  # type: ignore[attr-defined]
    watch.products = lambda dtype: 1e11  # how fast the machine is does not matter here
    text(folder / "text")
    found: dict[str, Any] = {}
    for path in sorted(GOLDEN.glob("*.yaml")):
        recipe = read_recipe(path, sources=[str(folder / "text")])
        made = run_recipe(recipe, Library(folder / "library"), Quiet())
        found[path.stem] = {
            "torch": torch.__version__.partition("+")[0],
            "machine": platform.machine(),
            "data": list(orders),
            "weights": [
                file.sha256
                for artifact in made.values()
                for file in artifact.manifest.files
                if file.path == "model.safetensors"
            ],
            "curves": [
                {key: [row[key] for row in curve] for key in ("tokens", "rate", "kept", "loss", "norm")}
                for curve in curves
            ],
        }
        orders.clear()
        curves.clear()
    return found


if __name__ == "__main__":
    if "--write" in sys.argv:
        for name, found in measured().items():
            (GOLDEN / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    else:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            json.dump(_run(Path(folder)), sys.stdout)
