"""Runs of another length: which model a run may go on from, and what it inherits.

A schedule that stays before it falls knows nothing of its end while it stays. So a model keeps the moment before the
fall (`train.stable`), and a run with the same settings and another length goes on from there. It ends with the weights,
bit for bit, of a run of that length made at once; what this module refuses would not.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from underlay.errors import UserError
from underlay.library import Artifact, Library, Order
from underlay.train import TrainConfig
from underlay.train.checkpoint import Progression
from underlay.train.stable import Kept, kept_in

ROLE = "extend"
"""The input that names the model to go on from."""
_MAY_DIFFER = {
    "train.steps",
    "train.minutes",
    "train.passes",
    "train.micro_rows",
    "train.compile",
    "train.checkpoint_seconds",
    "train.keep_stable",
    "train.examine_steps",  # looked at or not, what is learned is the same
    "train.examine_rows",
    "samples",
    "train.schedule.decay",
    "train.schedule.final",
    "train.short_rows",  # shares of the run: compared by what they come to
}


def check(
    settings: Any, config: Mapping[str, Any], seed: int, inputs: Mapping[str, Artifact], library: Library
) -> Kept:
    """What a run takes over from the model that it extends.

    `settings` are those of a stage that trains, `config` is what a manifest holds of them. Raises UserError, in one
    line that names the key, for whatever would make the result another than that of a run made at once.
    """
    parent, train = inputs[ROLE], settings.train
    manifest, where = parent.manifest, f"{settings.verb}.{ROLE}: {parent.reference}"
    if manifest.verb != settings.verb:
        raise UserError(f"{where} was made by {manifest.verb}; name a model that was made by {settings.verb}")
    before = _flat(manifest.config) | {"seed": manifest.seed} | {p.role: p.hash for p in manifest.parents}
    now = _flat(config) | {"seed": seed} | {role: artifact.manifest.hash for role, artifact in inputs.items()}
    for key in sorted((before.keys() | now.keys()) - _MAY_DIFFER - {ROLE}):
        if before.get(key) != now.get(key):
            raise UserError(f"{where} was trained with {key} {_shown(before, key)}, not {_shown(now, key)}")
    if manifest.metrics.get("stable") is None:
        raise UserError(f"{where} cannot be extended: {_why_not(manifest.config['train'])}")
    problems = [problem for _, found in library.verify(parent.reference) for problem in found]
    if problems:
        raise UserError(f"{where} is damaged: {problems[0]}")
    kept, state = Kept(**manifest.metrics["stable"]), kept_in(parent.folder)
    _check_length(f"{where} stands at step {kept.step:,}", kept, train)
    _check_rows(where, state, train)
    return kept


def inherited(inputs: Mapping[str, Artifact], state: Progression) -> Kept:
    """What of a run was made by the one that it extends; nothing where it extends none."""
    return Kept(**inputs[ROLE].manifest.metrics["stable"]) if state.taken_over else Kept(0, 0, 0.0, 0.0)


def asked_again(order: Order, library: Library) -> Order:
    """The order that made the model which is to be extended, where this is that order once more.

    An extended model often has the name of the one it extends, and is then the latest of that name. So whoever asks for
    the same again names the outcome as the beginning.
    """
    parent = order.parents.get(ROLE)
    first = library.parents(parent).get(ROLE) if parent else None
    if parent is None or first is None:
        return order
    earlier = replace(order, parents={**order.parents, ROLE: first})
    return earlier if earlier.key == parent.manifest.key else order


def _check_length(stands: str, kept: Kept, train: TrainConfig) -> None:
    least = train.schedule.shortest(kept.step)
    falls = train.schedule.stable(train.steps) if train.steps is not None else kept.step
    if least is None:
        raise UserError(f"{stands}, and with train.schedule.decay 1 the rate falls from the beginning")
    if falls < kept.step:
        raise UserError(
            f"{stands}; in a run of {train.steps:,} steps the rate falls from step {falls:,} on: ask for train.steps "
            f"{least} or more, or for less train.schedule.decay"
        )
    if train.minutes is not None and train.minutes * 60 <= kept.seconds:
        raise UserError(f"{stands} after {kept.seconds / 60:.3g} minutes; ask for more train.minutes, all in all")


def _check_rows(where: str, state: Progression, train: TrainConfig) -> None:
    """Raise UserError unless rows were cut as in a run of the new length."""
    if train.short_rows and train.steps is None:
        raise UserError(f"{where}: train.short_rows are shares of the run, so its length is needed: set train.steps")
    ends = [first for first, _ in state.cuts[1:]] + [state.step]
    stages = [(first, end, pieces) for (first, pieces), end in zip(state.cuts, ends, strict=True)]
    if all(train.pieces(step, train.steps) == pieces for first, end, pieces in stages for step in range(first, end)):
        return
    length = train.steps or state.step
    same = [[end / length, pieces] for _, end, pieces in stages if (end, pieces) != (state.step, 1)]
    raise UserError(
        f"{where}: its rows were cut otherwise up to step {state.step:,}; the same in a run of {length:,} steps is "
        f"train.short_rows={json.dumps(same)}"
    )


def _why_not(train: Mapping[str, Any]) -> str:
    schedule = train["schedule"]
    if schedule["kind"] != "wsd":
        return f"its rate fell from the warmup on (train.schedule.kind {schedule['kind']}), so all of it knows its end"
    if not train.get("keep_stable"):
        return "it was trained with train.keep_stable false"
    return f"its rate was never stable (train.schedule.decay {schedule['decay']:g})"


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their paths, such as `train.optimizer.lr`."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key])[:60] if key in settings else "left out"
