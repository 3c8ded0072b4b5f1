"""What is told of the measurements: a table of each model and batch, and figures held against targets."""

import math
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
CLASSES = {"bfloat16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}
"""Our precisions, and those of llama.cpp that they are held against."""


@dataclass(frozen=True)
class Check:
    """A figure held against its target."""

    name: str
    value: float
    target: float
    most: bool = False
    """Whether the target is the most that it may be."""

    @property
    def met(self) -> bool:
        """Whether it is what it should be."""
        return self.value < self.target if self.most else self.value >= self.target

    def told(self) -> Row:
        """For the file of results."""
        return {"name": self.name, "value": self.value, "target": self.target, "most": self.most, "met": self.met}

    def __str__(self) -> str:
        bound = f"{'<' if self.most else ' '}{self.target:.1f}"
        return f"{self.name:70s} {self.value:7.3f}  {bound}  {'met' if self.met else 'missed'}"


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def machine() -> Row:
    """What this is measured on."""
    import torch

    from underlay.plan.machine import bf16_unit, examine

    processor = examine(Path()).processor
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"processor": processor, "cores": cores(), "bfloat16 unit": bf16_unit(), **versions}


# Figures of a row, one for each of its turns. ---------------------------------------------------------------------


def decode_rates(row: Row) -> list[float]:
    """Tokens a second, once all answers have begun."""
    return [turn["decoded"] / turn["decode"] for turn in row["turns"]]


def prefill_rates(row: Row, prompt: int = 128) -> list[float]:
    """Tokens of prompts a second, until all have their first token."""
    return [prompt * row["batch"] / turn["first"] for turn in row["turns"]]


def first_seconds(row: Row) -> list[float]:
    """Seconds until all answers have begun."""
    return [turn["first"] for turn in row["turns"]]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, tenth and ninetieth percentile."""
    ordered = sorted(values)
    place = (len(ordered) - 1) / 10
    below, above = math.floor(place), math.ceil(place)
    part = place - below
    low = ordered[below] * (1 - part) + ordered[above] * part
    high = ordered[-1 - below] * (1 - part) + ordered[-1 - above] * part
    return statistics.median(ordered), low, high


def lost(row: Row, rows: Sequence[Row]) -> float | None:
    """Percent of perplexity that a setting is worse than its size's weights as they are."""
    exact = reference(rows, row["size"])
    return None if exact is None or "nats" not in row else 100 * math.expm1(row["nats"] - exact)


def reference(rows: Sequence[Row], size: str) -> float | None:
    """Nats of the weights as they are: ours in float32, else a rival's."""
    exact = ("float32", "float32 dynamic", "F16")
    found = [row for row in rows if row["size"] == size and row["setting"] in exact and "nats" in row]
    found.sort(key=lambda row: (row["side"] != "ours", exact.index(row["setting"])))
    return found[0]["nats"] if found else None


def table(rows: Sequence[Row]) -> str:
    """All settings of one size and batch."""
    lines = [
        f"\n{rows[0]['size']}, batch {rows[0]['batch']}",
        f"{'':30s} {'decode, tokens/s':>24s} {'prefill, tokens/s':>24s} {'first, ms':>10s} {'peak MiB':>9s}",
    ]
    lines[-1] += f" {'perplexity':>11s} {'lost, %':>8s}"
    for row in rows:
        name = f"{row['side']} {row['setting']}"
        if "failed" in row:
            lines.append(f"{name:30s} failed: {row['failed']}")
            continue
        decode, prefill = (
            f"{middle:8.1f} ({low:6.0f}..{high:6.0f})"
            for middle, low, high in (spread(decode_rates(row)), spread(prefill_rates(row)))
        )
        first = 1000 * statistics.median(first_seconds(row))
        worse = lost(row, rows)
        loss = f" {math.exp(row['nats']):11.3f}" if "nats" in row else ""
        loss += f" {worse:8.3f}" if worse is not None else ""
        cut = "  cut short" if row["slow"] else ""
        lines.append(f"{name:30s} {decode:>24s} {prefill:>24s} {first:10.1f} {row['peak_mib']:9.0f}{loss}{cut}")
    return "\n".join(lines)


def strangers(rows: Sequence[Row]) -> list[str]:
    """Sides that cannot have the same weights: a percent of perplexity is more than 16 bits cost."""
    same = ("float32", "float32 dynamic", "float32 static", "bfloat16", "BF16", "F16")
    return [
        f"{row['side']} {row['setting']}, {row['size']}: perplexity differs by {worse:.2f} %"
        for row in rows
        if row["setting"] in same and (worse := lost(row, rows)) is not None and abs(worse) > 1
    ]


def asides(rows: Sequence[Row]) -> list[str]:
    """Ratios that no target is set for: transformers in our own precision, and llama.cpp in its other 16 bits."""
    found = []
    for ours in rows:
        if (ours["side"], ours["setting"]) != ("ours", "bfloat16") or not ours["turns"]:
            continue
        for row in rows:
            name = f"{row['side']} {row['setting']}"
            told = name in ("huggingface bfloat16 dynamic", "huggingface bfloat16 static", "llamacpp F16")
            if told and row["turns"] and (row["size"], row["batch"]) == (ours["size"], ours["batch"]):
                ratio = statistics.median(decode_rates(ours)) / statistics.median(decode_rates(row))
                where = f"{row['size']}, batch {row['batch']}: ours bfloat16 / {name}"
                found.append(f"{where:70s} {ratio:7.3f}")
    return found


# Targets. ---------------------------------------------------------------------------------------------------------


def checks(rows: Sequence[Row], starts: Sequence[float]) -> list[Check]:
    """Every target of which both ends were measured."""
    measured = [row for row in rows if row["turns"]]
    found: list[Check] = []
    for size, batch in dict.fromkeys((row["size"], row["batch"]) for row in measured):
        cell = [row for row in measured if (row["size"], row["batch"]) == (size, batch)]
        found += _cell(cell, size, batch)
    for row in measured:
        if (row["side"], row["setting"], row["size"], row["batch"]) == ("ours", "int8", "110M", 1):
            worse = lost(row, measured)
            if worse is not None:
                found.append(Check("110M, int8: percent of perplexity lost", worse, 0.5, most=True))
    if starts:
        found.append(Check("14M: seconds from a cold process to the first token", statistics.median(starts), 3, True))
    return found


def _cell(cell: Sequence[Row], size: str, batch: int) -> list[Check]:
    where = f"{size}, batch {batch}: "
    ours, theirs = (
        {f"{row['side']} {row['setting']}": row for row in cell if (row["side"] == "ours") is mine}
        for mine in (True, False)
    )
    if not ours:
        return []

    def best(rate: Callable[[Row], list[float]], among: dict[str, Row], start: str = "") -> tuple[float, str]:
        return max(((statistics.median(rate(row)), name) for name, row in among.items() if name.startswith(start)),
                   default=(0.0, ""))  # fmt: skip

    found = []
    own = {name.removeprefix("ours "): statistics.median(decode_rates(row)) for name, row in ours.items()}
    for precision, kind in CLASSES.items():
        if precision in own and (rival := theirs.get(f"llamacpp {kind}")):
            ratio = own[precision] / statistics.median(decode_rates(rival))
            found.append(Check(f"{where}ours {precision} / llama.cpp {kind}", ratio, 1.0 if batch == 1 else 3.0))
    rate, name = best(decode_rates, theirs, "huggingface")
    if rate and "bfloat16" in own and (batch > 1 or size == "14M"):
        target = 4.0 if batch == 1 else 2.0
        found.append(Check(f"{where}ours bfloat16 / {name}", own["bfloat16"] / rate, target))
    if batch == 1 and size == "110M" and {"int8", "bfloat16"} <= set(own):
        found.append(Check(f"{where}ours int8 / ours bfloat16", own["int8"] / own["bfloat16"], 1.6))
    rate, name = best(prefill_rates, theirs)
    if rate:
        mine, setting = best(prefill_rates, ours)
        found.append(Check(f"{where}prefill, {setting} / {name}", mine / rate, 2.0))
    return found
