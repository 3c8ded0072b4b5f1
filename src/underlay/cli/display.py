"""One display for a whole run: a line a stage, with its rate, its figures and the time left.

On a terminal the lines move; in a log each stage prints when it begins and ends, and now and then how far it is.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from underlay.cli.common import amount, duration
from underlay.library import Artifact
from underlay.progress import Progress as Report
from underlay.progress import silent

_LOG_EVERY = 30.0


class Display:
    """Listens to a run and shows it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<10}"),
            _Bar(bar_width=24),
            _TimeLeft(),
            TextColumn("[dim]{task.fields[facts]}"),
            console=console,
            refresh_per_second=4,
            disable=not console.is_terminal,
        )
        self._began = self._shown = time.monotonic()
        self._stage = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def started(self, stage: str, number: int, of: int) -> None:
        """A stage begins."""
        self._began = self._shown = time.monotonic()
        self._stage = stage
        self._task = self._progress.add_task(stage, total=None, facts="")
        if not self._console.is_terminal:
            self._console.print(f"[{number}/{of}] {stage}", markup=False)

    def moved(self, done: float, total: float | None, **facts: float | str) -> None:
        """The current stage has come this far."""
        shown = "  ".join(str(value) if key == "rate" else f"{key} {value}" for key, value in facts.items())
        self._progress.update(self._task, completed=done, total=total, facts=shown)
        if not self._console.is_terminal and time.monotonic() - self._shown > _LOG_EVERY:
            self._shown = time.monotonic()
            share = f"{done / total:4.0%}  " if total else ""
            self._console.print(f"      {share}{shown}", markup=False)

    def said(self, line: str) -> None:
        """The current stage has something to say."""
        self._progress.console.print(f"  {self._stage}: {line}", markup=False, style="dim")

    def ended(self, artifact: Artifact, reused: bool) -> None:
        """A stage is done."""
        seconds = time.monotonic() - self._began
        how = "reused" if reused else duration(seconds)
        facts = f"{how:<12} {artifact.reference}  {headline(artifact)}".rstrip()
        self._progress.update(self._task, completed=1, total=1, facts=facts, finished=True)
        if not self._console.is_terminal:
            self._console.print(f"      {facts}", markup=False)


@contextmanager
def bar(what: str, console: Console) -> Iterator[Report]:
    """A bar for one piece of work, which goes when the work is done; nothing at all where there is no terminal."""
    if not console.is_terminal:
        yield silent
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(what, total=None)

        def report(done: float, total: float | None, **_: float | str) -> None:
            shown.update(task, completed=done, total=total)

        yield report


class _Bar(BarColumn):
    """A bar while a stage runs; nothing once it is done."""

    def render(self, task: Task) -> object:  # type: ignore[override]
        return Text("") if task.fields.get("finished") else super().render(task)


class _TimeLeft(ProgressColumn):
    """Time left while a stage runs."""

    def __init__(self) -> None:
        self._inner = TimeRemainingColumn(compact=True)
        super().__init__()

    def render(self, task: Task) -> Text:
        return Text("") if task.fields.get("finished") else self._inner.render(task)


def headline(artifact: Artifact) -> str:
    """The one or two figures that say what came out of a stage."""
    metrics = artifact.manifest.metrics
    parts = []
    if "documents" in metrics and "bytes" in metrics and artifact.manifest.kind == "corpus":
        parts.append(f"{metrics['documents']:,} documents, {amount(metrics['bytes'], 'B')}")
    if "tokens" in metrics and isinstance(metrics["tokens"], dict):
        parts.append(f"{amount(metrics['tokens']['train'], 'tokens')}, {metrics['bytes_per_token']:.2f} bytes each")
    if "examples" in metrics and artifact.manifest.kind == "examples":
        gone = sum(metrics.get("left_out", {}).values())
        parts.append(f"{metrics['examples']:,} of the form {metrics['form']}, {gone:,} left out")
    if "vocabulary" in metrics:
        parts.append(f"{metrics['vocabulary']:,} tokens")
    if "loss" in metrics:
        heldout = f", held out {metrics['heldout_loss']:.3f}" if "heldout_loss" in metrics else ""
        parts.append(f"loss {metrics['loss']:.3f}{heldout}, {metrics['tokens_per_second']:,.0f} tokens/s")
    if "heldout_bits_per_byte" in metrics and artifact.manifest.verb == "evaluate":
        parts.append(f"{metrics['heldout_bits_per_byte']:.3f} bits per byte (xz {metrics['xz_bits_per_byte']:.3f})")
    if "perplexity_lost" in metrics:
        parts.append(f"{amount(metrics['after']['bytes'], 'B')}, perplexity {metrics['perplexity_lost']:+.2%}")
    return ", ".join(parts)
