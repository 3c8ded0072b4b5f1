"""The quickstart against its promises: time on this machine, bits per byte against xz, reuse on the second run.

Runs `recipes/quickstart.yaml` twice in a fresh library, prints a table, then one line a target, and writes the same as
JSON to `bench/results/quickstart.json`. Exits non-zero where a target is missed. Run nothing else meanwhile.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIMIT_SECONDS = 480
REUSE_SECONDS = 20


def underlay(library: Path, *arguments: str) -> str:
    """Run a verb in a library; returns what it prints."""
    command = [sys.executable, "-m", "underlay", *arguments, "--library", str(library)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout


def timed_run(library: Path) -> float:
    """Wall seconds of one run of the recipe."""
    start = time.monotonic()
    underlay(library, "run", "recipes/quickstart.yaml", "--json")
    return time.monotonic() - start


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", type=Path, help="keep the library here instead of throwing it away")
    folder = parser.parse_args().library or Path(tempfile.mkdtemp())
    first, second = timed_run(folder), timed_run(folder)
    shown = json.loads(underlay(folder, "library", "show", "report:quickstart", "--json"))
    base = json.loads(underlay(folder, "library", "show", "model:quickstart-base", "--json"))
    doctor = json.loads(underlay(folder, "doctor", "--json"))
    metrics: dict[str, Any] = shown["metrics"]

    print(f"machine       {doctor['machine']['processor']}, {doctor['machine']['cores']} cores")
    print(f"mode          {base['metrics']['mode']}, torch {base['environment']['torch']}")
    print(f"model         {base['metrics']['parameters']:,} parameters, {base['metrics']['steps']:,} steps")
    print(f"training      {base['metrics']['tokens_per_second']:,.0f} tokens/s")
    for stage, seconds in metrics["seconds"].items():
        print(f"{stage:13s} {seconds:7.1f} s")
    share = metrics["valid_function_share"]
    doing = metrics["doing_function_share"]
    for name, valid in share.items():
        print(f"functions     {valid:4.0%} valid, {doing[name]:4.0%} do something: {name}")
    print()

    model = metrics["heldout_bits_per_byte"]
    targets = [
        ("xz -9e a file / model", metrics["xz_bits_per_byte"] / model, 1.0),
        ("xz -9e solid / model", metrics["xz_solid_bits_per_byte"] / model, 1.0),
        ("480 s / first run", LIMIT_SECONDS / first, 1.0),
        ("20 s / second run", REUSE_SECONDS / second, 1.0),
    ]
    for name, ratio, target in targets:
        print(f"{name:24s} {ratio:6.3f}  {target:.1f}  {'met' if ratio >= target else 'missed'}")

    result = {
        "machine": doctor,
        "mode": base["metrics"]["mode"],
        "seconds": {"first": first, "second": second},
        "metrics": metrics,
        "training": base["metrics"],
        "targets": [{"name": n, "ratio": r, "target": t, "met": r >= t} for n, r, t in targets],
    }
    path = ROOT / "bench" / "results" / "quickstart.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    sys.exit(not all(entry["met"] for entry in result["targets"]))


if __name__ == "__main__":
    main()
