"""What all sides generate with: two models, trained a little, and the same weights as every rival wants to have them.

Speed does not depend on what weights are, but what quantisation loses does, so the models are trained on the Python
standard library: the small one on 98,000 tokens, the large one on 25,000, by then it knows little more than which
words are frequent; more would take hours on two cores. What quantisation costs a model that has learned longer may be
more. All is built once and kept.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generation.turns import ROOT

CONTEXT, ROWS = 512, 256
"""Of the models, and of the rows that they are trained and scored on."""
GGUF = ("BF16", "F16", "Q8_0", "Q4_0")
OPENVINO = ("float32", "int8", "int4")
OPENVINO_PYTHON = ROOT / ".venv-openvino" / "bin" / "python"


@dataclass(frozen=True)
class Size:
    """A shape, and how long it is trained."""

    vocabulary: int
    width: int
    depth: int
    heads: int
    train: str
    """The part of the recipe that says how long it is trained, and how fast."""

    def recipe(self, name: str) -> str:
        """From the standard library to a model `bench-NAME`."""
        return f"""
name: bench-{name}
stages:
  gather: {{name: bench, source: [python-stdlib]}}
  tag: {{name: bench, corpus: gather}}
  curate: {{name: bench-curated, corpus: gather, attributes: tag}}
  tokenizer: {{corpus: curate, vocabulary: {self.vocabulary}}}
  pack: {{corpus: curate, tokenizer: tokenizer, heldout: 0.025}}
  pretrain:
    dataset: pack
    model: {{width: {self.width}, depth: {self.depth}, heads: {self.heads}, context: {CONTEXT}}}
    train: {{context: {ROWS}, {self.train}}}
"""


SIZES = {
    "14M": Size(
        *(8192, 384, 6, 6),
        train="steps: 48, batch_rows: 8, micro_rows: 8, optimizer: {lr: 0.02, adam_lr: 0.004}, "
        "schedule: {warmup_steps: 4, decay: 0.6}",
    ),
    # Muon would spend most of the time on its own products here.
    "110M": Size(
        *(32_000, 768, 12, 12),
        train="steps: 24, batch_rows: 4, micro_rows: 4, optimizer: {muon: false, adam_lr: 0.001}, "
        "schedule: {warmup_steps: 4, decay: 0.5}",
    ),
}


@dataclass(frozen=True)
class World:
    """Where a size's files are."""

    library: Path
    model: Path
    """Ours."""
    dataset: Path
    exports: Path
    """`hf/`, `BF16.gguf` and so on, `openvino-int8/` and so on."""


def build(name: str, scratch: Path) -> World:
    """Train and export what is not there yet."""
    size, library, exports = SIZES[name], scratch / "library", scratch / name
    exports.mkdir(parents=True, exist_ok=True)
    recipe = exports / "recipe.yaml"
    fresh = not recipe.exists() or recipe.read_text() != size.recipe(name)
    recipe.write_text(size.recipe(name))
    _underlay(library, "run", str(recipe))
    reference = f"model:bench-{name}"
    world = World(library, _folder(library, reference), _folder(library, f"dataset:bench-{name}"), exports)
    if fresh:
        for path in exports.iterdir():
            if path != recipe:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not (exports / "hf").exists():
        _underlay(library, "library", "export", reference, str(exports / "hf"), "--format", "hf")
    for kind in GGUF:
        path = exports / f"{kind}.gguf"
        if not path.exists():
            _underlay(library, "library", "export", reference, str(path), "--format", "gguf", "--type", kind)
    for precision in OPENVINO:
        target = exports / f"openvino-{precision}"
        if not target.exists() and OPENVINO_PYTHON.exists():
            command = [str(OPENVINO_PYTHON), str(ROOT / "bench" / "generate.py"), "--convert", precision]
            subprocess.run([*command, str(exports / "hf"), str(target)], check=True, stdout=sys.stderr)
    return world


def heldout(dataset: Path) -> Any:
    """All held-out tokens, memory-mapped."""
    import numpy as np

    kind = json.loads((dataset / "dataset.json").read_text())["dtype"]
    return np.memmap(dataset / "heldout" / "tokens.bin", kind, mode="r")


def _underlay(library: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "underlay", *arguments, "--library", str(library)]
    subprocess.run(command, check=True, stdout=sys.stderr)


def _folder(library: Path, reference: str) -> Path:
    command = [sys.executable, "-m", "underlay", "library", "show", reference, "--json", "--library", str(library)]
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Path(json.loads(shown.stdout)["folder"])
