"""A library with a small model and examples, and who listens while it is adapted."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from underlay.library import Library
from underlay.recipe import read_recipe, run_recipe
from underlay.recipe.recipe import make_recipe

SMALL = Path(__file__).parents[2] / "recipes" / "small.yaml"


class Silent:
    """Hears all, says nothing, and may stop a run."""

    def __init__(self, stops_at: int | None = None) -> None:
        self.stops_at = stops_at
        self.lines: list[str] = []

    def started(self, stage: str, number: int, of: int) -> None: ...
    def moved(self, done: float, total: float | None, **facts: float | str) -> None:
        if self.stops_at is not None and done >= self.stops_at:
            raise KeyboardInterrupt

    def said(self, line: str) -> None:
        self.lines.append(line)

    def ended(self, artifact: object, reused: bool) -> None: ...


def small_library(folder: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Library:
    """With `model:small-base`, and `examples:NAME` of the rows under each name."""
    shelf = Library(folder / "library")
    run_recipe(read_recipe(SMALL, ("pretrain.train.steps=3",)), shelf, Silent(), until="pretrain")
    for name, told in rows.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in told))
        run_recipe(make_recipe({"name": name, "stages": {"examples": {"source": [str(path)]}}}, "t"), shelf, Silent())
    return shelf
