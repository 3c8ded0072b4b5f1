"""A recipe: what to make, in order. YAML on disk, typed once read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from underlay.config import Config, override, parse, read_yaml
from underlay.errors import UserError
from underlay.models.families import DIALLED
from underlay.recipe.stages import AnyStage, Name


class Recipe(Config):
    """Named stages, each a verb with its inputs and its settings."""

    name: Name
    """Names the artifacts of stages that name none themselves."""
    seed: int = 0
    """Seeds the weights, the order of the data, and sampling."""
    stages: dict[str, AnyStage] = Field(min_length=1)
    """What to make, in order; a stage's verb is its own name unless it says otherwise."""


def read_recipe(
    path: Path,
    assignments: Sequence[str] = (),
    sources: Sequence[str] = (),
    depth: int | None = None,
    params: str | None = None,
) -> Recipe:
    """Read a recipe, replace what is gathered by `sources`, and apply `--set` assignments (`stage.key=value` will do).

    `depth` or `params` (such as `10M`) replaces the sizes of every model that is pretrained, by one dial.

    Raises UserError, in one line that names the key, for anything that is not a recipe.
    """
    values = read_yaml(path)
    stages = values.get("stages")
    if not isinstance(stages, dict):
        raise UserError(f"{path}: key 'stages' is missing or holds no stages")
    values = _with_verbs(values)
    if sources:
        gathering = [
            stage for stage in values["stages"].values() if isinstance(stage, dict) and stage["verb"] == "gather"
        ]
        if not gathering:
            raise UserError(f"{path}: --source is given, but no stage gathers")
        for stage in gathering:
            stage |= {"source": list(sources), "exclude": []}  # what was left out belonged to the other sources
    if depth or params:
        _turn(values["stages"], depth, params, path)
    return make_recipe(values, str(path), assignments)


def make_recipe(values: dict[str, Any], where: str, assignments: Sequence[str] = ()) -> Recipe:
    """A recipe of its keys and values, with `--set` assignments; `where` names their origin in errors.

    Raises UserError as `read_recipe` does.
    """
    values = _with_verbs(values)
    stages = values["stages"]
    values = override(values, [part for one in assignments for part in _full(one, stages, values)])
    return parse(Recipe, _with_verbs(values), where)


def _turn(stages: Mapping[str, Any], depth: int | None, params: str | None, path: Path) -> None:
    """Set one dial in the place of all sizes, in every stage that pretrains."""
    if depth and params:
        raise UserError("--depth, --params: either sets all sizes; give one of them")
    pretraining = [stage for stage in stages.values() if isinstance(stage, dict) and stage["verb"] == "pretrain"]
    if not pretraining:
        raise UserError(f"{path}: --depth or --params is given, but no stage pretrains")
    for stage in pretraining:
        model = stage.get("model") or {}
        if isinstance(model, dict):
            kept = {key: value for key, value in model.items() if key not in DIALLED}
            stage["model"] = {**kept, "depth": depth} if depth else kept
            stage["params"] = params


def _full(assignment: str, stages: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """An assignment from the top of the recipe; a length in steps, minutes or passes replaces any other."""
    key, equals, value = assignment.partition("=")
    *parents, last = key.strip().split(".")
    if parents and parents[0] in stages and parents[0] not in values:
        parents = ["stages", *parents]
    lengths = {"steps", "minutes", "passes"}
    replaced = sorted(lengths - {last}) if last in lengths and parents[-1:] == ["train"] else []
    cleared = [".".join([*parents, one]) + "=null" for one in replaced if value.strip() != "null"]
    return [*cleared, ".".join([*parents, last]) + equals + value]


def _with_verbs(values: dict[str, Any]) -> dict[str, Any]:
    stages = values.get("stages")
    if isinstance(stages, dict):
        values["stages"] = {
            name: {"verb": name, **stage} if isinstance(stage, dict) else {"verb": name} if stage is None else stage
            for name, stage in stages.items()
        }
    return values
