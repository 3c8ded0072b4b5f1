"""Generation on a CPU against transformers, llama.cpp and OpenVINO GenAI: tokens a second, first token, memory, loss.

Llamas of 14 and 110 million parameters, with the same weights for all (`bench/generation/world.py` says which), read
128 tokens and go on for 128, greedily, whatever they say, alone and 16 at once, on as many threads as there are cores:

    ours          the engine in bfloat16, float32, int8 and int4
    huggingface   transformers' `generate` in bfloat16 and float32, with a dynamic cache, and with a static one compiled
    llamacpp      llama.cpp through llama-cpp-python on the same weights in BF16, F16, Q8_0 and Q4_0
    openvino      openvino-genai's continuous batching with weights in float32, int8 and int4

Each side runs in a process of its own, with every setting and batch, and is warm; sides take turns, on prompts that are
new every time, so that noise of the machine hits all and nothing is remembered. A turn answers once with one token,
which gives the time to the first token and how fast prompts are read, then with all: from the moment at which all
answers have begun, that gives how fast tokens come. A side that needs longer than `SLOW` seconds for an answer is cut
short there and takes one turn only. What a side loses by its precision is the perplexity of the same held-out text; it
also shows that all have the same model. A processor without a unit for bfloat16 is slow at it, and transformers does as
it is told: its best setting is what counts, for all rivals, and its bfloat16 is printed beside.

Rivals come from `make bench-env`. Prints tables, one line a target, and writes `bench/results/generate.json` where all
was measured. Exits non-zero where a target is missed or a side fails. The models are built on the first run, which
takes some minutes more, and kept under `build/`. Run nothing else meanwhile.

All of it takes an hour, or several on a slow machine. So each part (one size with one batch, or the cold starts) that
was measured whole is kept under `build/`, too, and not measured again by the same code on the same machine: what was
interrupted goes on, and `--again` begins anew.
"""

import argparse
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from generation import genai, huggingface, llamacpp, ours
from generation.report import asides, checks, cores, machine, strangers, table
from generation.turns import ROOT, BenchmarkError, Turns, What, serve
from generation.world import OPENVINO_PYTHON, ROWS, SIZES, World, build, heldout

SIDES = {"ours": ours, "huggingface": huggingface, "llamacpp": llamacpp, "openvino": genai}
PYTHONS = {
    "ours": Path(sys.executable),
    "huggingface": ROOT / ".venv-bench" / "bin" / "python",
    "llamacpp": ROOT / ".venv-bench" / "bin" / "python",
    "openvino": OPENVINO_PYTHON,
}
BATCHES = (1, 16)
PROMPT = COUNT = 128
"""Tokens in and out."""
WARM = 4
"""Tokens of the first answer, which compiles and is not timed; another turn that is not timed follows it."""
ROUNDS = {"14M": 7, "110M": 3}
PAUSE = 0.2
"""Seconds before a turn: threads of the side before it may still wait for work by spinning."""
SLOW = 20.0
"""Seconds after which an answer is cut short."""
COLD_SIZE, COLD_ROUNDS = "14M", 3
COLD = {"huggingface": "float32 dynamic", "llamacpp": "BF16", "openvino": "float32"}
"""How rivals start."""
SCORED = 16
"""Held-out rows of `world.ROWS` tokens that perplexity is measured on."""


def prompts(world: World, turn: int, batch: int) -> list[list[int]]:
    """Held-out text that no earlier turn had, one prompt after the other."""
    tokens = heldout(world.dataset)
    first = turn * max(BATCHES) * PROMPT % (len(tokens) - max(BATCHES) * PROMPT)
    return tokens[first : first + batch * PROMPT].reshape(batch, PROMPT).tolist()


def take_turn(side: Turns, world: World, turn: int, batch: int) -> dict[str, Any]:
    """One token of each answer, then all of other answers."""
    time.sleep(PAUSE)
    first = side.ask(prompts=prompts(world, 2 * turn, batch), count=1, seconds=SLOW)
    return {**side.ask(prompts=prompts(world, 2 * turn + 1, batch), count=COUNT, seconds=SLOW), "first": first["first"]}


def measure(name: str, world: World, batch: int, sides: list[str], rounds: int, scratch: Path) -> list[dict[str, Any]]:
    """All settings of all sides with one model and one batch; returns a row for each."""
    rows: list[dict[str, Any]] = []
    turns: dict[int, Turns] = {}
    tokens = heldout(world.dataset)[: SCORED * ROWS].reshape(SCORED, ROWS).tolist()
    for side in sides:
        for setting in SIDES[side].SETTINGS:
            what = What(side, setting, str(world.exports), str(world.model), batch, PROMPT + COUNT, cores())
            row: dict[str, Any] = {"size": name, "batch": batch, "side": side, "setting": setting, "turns": []}
            rows.append(row)
            opened = Turns(PYTHONS[side], Path(__file__), what, scratch)
            try:
                warm = opened.ask(prompts=prompts(world, 0, batch), count=WARM, seconds=1e9)
                row["facts"] = opened.ask(facts=True)
                row["slow"] = warm["first"] > SLOW / 2 or not take_turn(opened, world, 0, batch)["whole"]
                opened.ask(forget=True)
            except BenchmarkError as error:
                row["failed"] = str(error)
                opened.close()
                continue
            turns[id(row)] = opened
    for turn in range(1, rounds + 1):
        for row in rows:
            if id(row) in turns and not (row["slow"] and turn > 1):
                row["turns"].append(take_turn(turns[id(row)], world, turn, batch))
    for row in rows:
        if id(row) not in turns:
            continue
        side = turns.pop(id(row))
        row["peak_mib"] = side.ask(peak=True)["mib"]
        if batch == min(BATCHES) and not row["slow"]:
            row["nats"] = side.ask(score=tokens)["nats"]
        side.close()
    return rows


def first_output(world: World, name: str) -> float:
    """Seconds from the start of `underlay generate` until it shows a token."""
    prompt = "def "
    command = [sys.executable, "-m", "underlay", "generate", f"model:bench-{name}", prompt, "--temperature", "0"]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--library", str(world.library)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    shown = b""
    while len(shown) <= len(prompt):
        piece = os.read(process.stdout.fileno(), 4096)
        if not piece:
            raise BenchmarkError("`underlay generate` ended without a word")
        shown += piece
    seconds = time.perf_counter() - began
    process.kill()
    process.wait()
    process.stdout.close()
    return seconds


def cold(name: str, world: World, sides: list[str], scratch: Path) -> dict[str, list[float]]:
    """Seconds from starting a process to its first token; ours through the command line, rivals as they are here."""
    found: dict[str, list[float]] = {}
    for _ in range(1 + COLD_ROUNDS):
        for side in sides:
            if side == "ours":
                seconds = first_output(world, name)
            else:
                what = What(side, COLD[side], str(world.exports), str(world.model), 1, PROMPT + COUNT, cores())
                opened = Turns(PYTHONS[side], Path(__file__), what, scratch)
                try:
                    opened.ask(prompts=prompts(world, 0, 1), count=1, seconds=SLOW)
                    seconds = time.perf_counter() - opened.started
                except BenchmarkError as error:
                    print(f"{side} from a cold process: {error}", file=sys.stderr)
                    continue
                finally:
                    opened.close()
            found.setdefault(side, []).append(seconds)
    return {side: times[1:] for side, times in found.items()}  # the first fills the caches on disk


class Kept:
    """The parts that were measured before, in a file."""

    def __init__(self, path: Path, stamp: dict[str, Any]) -> None:
        """Those of another stamp are forgotten."""
        self.path, self.stamp = path, stamp
        known = json.loads(path.read_text("utf-8")) if path.exists() else {}
        self.parts: dict[str, dict[str, Any]] = known.pop("parts", {}) if known.items() >= stamp.items() else {}

    def part(self, name: str, again: bool, take: Callable[[], dict[str, Any]], whole: Callable[[Any], bool]) -> Any:
        """The part that is kept, or else taken; kept then, whatever happens to those after it, if it is whole."""
        if again or name not in self.parts:
            part = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", **take()}
            if not whole(part):
                return part
            self.parts[name] = part
            self.path.write_text(json.dumps(self.stamp | {"parts": self.parts}), "utf-8")
        return self.parts[name]


def identity() -> str:
    """Of the code that is measured and that measures."""
    folders = (
        ROOT / "src" / "underlay" / "generate",
        ROOT / "src" / "underlay" / "models",
        ROOT / "bench" / "generation",
    )
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".h", ".cpp")]
    files.append(Path(__file__).resolve())
    parts = [f"{path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in sorted(files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """What did not run."""
    return [f"{row['side']} {row['setting']}, {row['size']}: {row['failed']}" for row in rows if "failed" in row]


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help=f"turns of each side and setting; by default {ROUNDS}")
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--again", action="store_true", help="measure also what is kept of the same code and machine")
    parser.add_argument("--output", type=Path, help="write what was measured here, whole run or not")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build" / "bench-generate", help="where models are kept")
    arguments = parser.parse_args()
    sizes, sides = arguments.sizes.split(","), arguments.sides.split(",")
    batches = [int(batch) for batch in arguments.batches.split(",")]
    for option, given, known in (("sizes", sizes, SIZES), ("sides", sides, SIDES), ("batches", batches, BATCHES)):
        if unknown := [each for each in given if each not in known]:
            parser.error(f"--{option}: no {unknown[0]}; there are {', '.join(map(str, known))}")
    missing = [side for side in sides if not PYTHONS[side].exists()]
    for side in missing:
        print(f"left out: {side}, whose environment `make bench-env` makes")
    sides = [side for side in sides if side not in missing]
    scratch = arguments.scratch.absolute()
    worlds = {name: build(name, scratch) for name in sizes}

    kept = Kept(scratch / "measured.json", {"machine": machine(), "code": identity()})
    print(", ".join(f"{key} {value}" for key, value in kept.stamp["machine"].items()))
    everyone = set(sides) == set(SIDES)
    again = arguments.again or not everyone
    parts: dict[str, Any] = {}
    if COLD_SIZE in worlds:
        parts["cold"] = part = kept.part(
            "cold",
            again,
            lambda: {"seconds": cold(COLD_SIZE, worlds[COLD_SIZE], sides, scratch)},
            lambda part: set(part["seconds"]) == set(SIDES),
        )
        for side, seconds in part["seconds"].items():
            print(f"{COLD_SIZE}, cold process to first token, {side:12s} {statistics.median(seconds):6.2f} s")
    for (name, world), batch in itertools.product(worlds.items(), batches):
        turns = arguments.rounds or ROUNDS[name]
        parts[f"{name}, batch {batch}"] = part = kept.part(
            f"{name}, batch {batch}",
            again or turns > ROUNDS[name],
            lambda: {"rounds": turns, "rows": measure(name, world, batch, sides, turns, scratch)},  # noqa: B023
            lambda part: everyone and turns >= ROUNDS[name] and not failures(part["rows"]),  # noqa: B023
        )
        print(table(part["rows"]), flush=True)
    rows = [row for part in parts.values() for row in part.get("rows", [])]
    held = checks(rows, parts.get("cold", {}).get("seconds", {}).get("ours", []))
    print("\n".join(["", *asides(rows), ""]))
    for check in held:
        print(check)
    failed = failures(rows) + strangers(rows)
    for line in failed:
        print(f"failed: {line}")
    report = {**kept.stamp, "targets": [check.told() for check in held], "parts": parts}
    wanted = {"cold", *(f"{name}, batch {batch}" for name in SIZES for batch in BATCHES)}
    whole = not failed and set(parts) == wanted and kept.parts == parts
    outputs = [arguments.output] if arguments.output else []
    for path in [*outputs, *([ROOT / "bench" / "results" / "generate.json"] if whole else [])]:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return int(bool(missing or failed or not held) or any(not check.met for check in held))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        asked = What(**json.loads(sys.argv[2]))
        serve(asked, SIDES[asked.side].open_side)
    elif sys.argv[1:2] == ["--convert"]:
        genai.convert(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        sys.exit(main())
