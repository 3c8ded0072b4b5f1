"""What curation does, beside the tools that others use for it: all parts one after the other, and one table of figures.

    python bench/data.py                       # all parts; the file of results is written
    python bench/data.py warc clusters         # some of them; theirs in the file are replaced
    python bench/data.py --size 0.05 --turns 1 # small, to see whether all runs; writes nothing

filters   Gopher, C4, FineWeb and MinHash against datatrove: speed, and whether the same documents stay
warc      WARC to text in both modes against datatrove with trafilatura: speed, and whether texts are equal
clusters  a million documents' signatures against datatrove's stages 2 and 3
packing   tokenizing and packing against `tokenizers` and `tiktoken` with the same vocabulary
privacy   what is private: precision, recall, speed (against presidio, if `BENCH_PRESIDIO` names its Python)

Every side runs in a process of its own; sides take turns. Rivals come from `make bench-env`, texts from
`../shared/data`. Prints what each part found, and at the end one line a target: `name  value  target  met|missed`.
Writes `bench/results/data.json`. Ends with an exit code other than 0 where a target is missed or a part cannot be
measured. Run nothing else meanwhile.
"""

import argparse
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from curation import clusters, filters, packing, privacy, warc
from curation.sides import ROOT, LeftOutError, Options, serve

PARTS: dict[str, ModuleType] = {
    "filters": filters,
    "warc": warc,
    "clusters": clusters,
    "packing": packing,
    "privacy": privacy,
}
RESULTS = ROOT / "bench" / "results" / "data.json"


def measured(name: str, options: Options) -> dict[str, Any]:
    """One part: its figures, and what they are held against."""
    print(f"\n{name}: {(PARTS[name].__doc__ or '').splitlines()[0]}")
    load, began = os.getloadavg(), time.monotonic()
    outcome = PARTS[name].measure(options)
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "load": load,
        "took_seconds": time.monotonic() - began,
        "checks": [check.told() for check in outcome.checks],
        "figures": outcome.figures,
    }


def keep(found: dict[str, Any]) -> None:
    """Write what was found, beside what earlier runs found of other parts."""
    held = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    parts = {name: one for name in PARTS if (one := found.get(name) or held.get(name))}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(parts, indent=1) + "\n", "utf-8")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--turns", type=int, help="of each side; by default as many as each part is used to")
    parser.add_argument("--size", type=float, default=1.0, help="share of the work; other than 1 writes no results")
    parser.add_argument("--differences", type=Path, help="write what `filters` decides otherwise than datatrove here")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    options = Options(arguments.turns, arguments.size, arguments.differences)
    found: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name in arguments.parts or PARTS:
        try:
            found[name] = measured(name, options)
        except LeftOutError as error:
            left_out[name] = str(error)
    print()
    for name, part in found.items():
        for check in part["checks"]:
            told = f"{check['value']:10.3f}  {check['target']:6.2f}  {'met' if check['met'] else 'missed'}"
            print(f"{name + ': ' + check['name']:58}  {told}")
    for name, why in left_out.items():
        print(f"{name}: left out, {why}")
    if arguments.size == 1 and found:
        keep(found)
    missed = any(not check["met"] for part in found.values() for check in part["checks"])
    return int(missed or bool(left_out))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        part, side, folder, pinned = sys.argv[2:]
        serve(PARTS[part].prepare, side, Path(folder), bool(int(pinned)))
    else:
        sys.exit(main())
