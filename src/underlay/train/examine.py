"""Examinations: what a model comes to while it still learns, on what it does not learn from.

What is measured is the caller's business; when, and that the run does not feel it, is decided here. A run that is
examined ends with the same weights, bit for bit, as one that is not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from underlay.errors import UserError
from underlay.train.average import Average
from underlay.train.checkpoint import Progression
from underlay.train.config import TrainConfig
from underlay.train.journal import EVALUATIONS, SAMPLES, Journal
from underlay.train.spread import Spread

_LONGEST = 96
"""Characters of a sample's part that are told; all of it is in the file."""


@dataclass(frozen=True)
class Examination:
    """What was found."""

    figures: Mapping[str, float]
    """By name, such as `heldout_loss`; the first is shown while the run goes on."""
    samples: Sequence[Mapping[str, str]] = ()
    """What the model makes of what it is given, such as a `prompt` and its `text`."""


Examine = Callable[[], Examination]
"""Look at the model that is trained. It is in evaluation mode then, without gradients, and not compiled."""


class Examiner:
    """Examines a run every so many steps and after its last one, and keeps what was found in two files.

    Which examinations are due depends on the step alone, so a run that was stopped neither loses nor repeats one.
    """

    def __init__(
        self,
        examine: Examine | None,
        config: TrainConfig,
        spread: Spread,
        average: Average | None,
        scratch: Path,
        state: Progression,
        beforehand: bool = False,
    ) -> None:
        """Go on with the files in `scratch` after `state.step`. Where there is an average, it is what is examined.

        beforehand: whether the model is also examined before its first step. Raises UserError where
        examinations are asked for and nothing examines, or the other way round.
        """
        if (examine is None) != (config.examine_steps is None):
            raise UserError("examine_steps: set it where there is something that examines the run, and only there")
        self._examine, self._every, self._spread, self._average = examine, config.examine_steps, spread, average
        self._compiled, self._state = config.compiles(), state
        self.evaluations = Journal(scratch / EVALUATIONS, state.step)
        """One row an examination: step, tokens, and its figures."""
        self.samples = Journal(scratch / SAMPLES, state.step)
        """One row a sample: step, and its parts."""
        self.latest: dict[str, float] = next(iter(self.evaluations.tail(1)), {})
        """The last row of `evaluations`."""
        self._never = -1 if beforehand else 0

    def due(self) -> bool:
        """Whether the model is to be examined as it stands, and was not yet."""
        step = self._state.step
        wanted = self._every is not None and (step % self._every == 0 or step == self._state.steps)
        return wanted and step > self.latest.get("step", self._never)

    def look(self, log: Callable[[str], None]) -> dict[str, float]:
        """Examine the model, write down what was found, tell it in lines; returns the figures and their step."""
        assert self._examine is not None
        average = self._average.applied() if self._average else nullcontext()
        with average, undisturbed(self._spread.model, self._compiled):
            found = self._examine()
            self._spread.taken_apart()
        step = self._state.step
        self.latest = {"step": step, "tokens": self._state.tokens, **found.figures}
        for sample in found.samples:
            self.samples.add({"step": step, **sample})
        self.evaluations.add(self.latest)
        log(f"step {step:,}: " + ", ".join(f"{_words(name)} {value:.3f}" for name, value in found.figures.items()))
        for sample in found.samples:
            log("  ".join(_trimmed(part) for part in sample.values()))
        return {"step": step, **found.figures}

    def shown(self) -> dict[str, float]:
        """The first figure of the last examination, in words; empty before there is one."""
        figures = [(_words(name), value) for name, value in self.latest.items() if name not in ("step", "tokens")]
        return dict(figures[:1])

    def sync(self) -> None:
        """Have all rows on the disk; to be called before a checkpoint that counts on them."""
        self.samples.sync()
        self.evaluations.sync()

    def close(self) -> None:
        """Write what is left."""
        self.samples.close()
        self.evaluations.close()


@contextmanager
def undisturbed(model: nn.Module, compiled: bool) -> Iterator[None]:
    """Put the model into evaluation mode, and leave it, its gradients and torch's chance as they were.

    `compiled`: whether torch.compile was used on it. Its code is left alone then: what is read here has other shapes,
    and compiling for them would take minutes and might change the code that trains.
    """
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    with eager, torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


def _words(name: str) -> str:
    """A figure's name, and behind its dot what it is of."""
    return name.replace("_", " ").replace(".", " of ")


def _trimmed(part: str) -> str:
    """A text on one line that does nothing to a terminal."""
    shown = repr(part)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
