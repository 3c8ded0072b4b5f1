"""Gathers sources while it is killed at one random moment after the other; prints what became of it as JSON."""

import hashlib
import json
import os
import random
import signal
import sys
from pathlib import Path

from underlay.data import GatherConfig, gather
from underlay.data.gather import run
from underlay.data.gather.parts import Parts


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def attempt(config: GatherConfig, folder: Path, scratch: Path | None) -> None:
    gather(config, folder, scratch=scratch, part_bytes=15_000, processes=1)


def doomed(moment: int, config: GatherConfig, folder: Path, scratch: Path) -> None:
    """The same, killed at the `moment`-th chance: when a document is taken, or a part is flushed or renamed."""
    passed = 0

    def chance(name: str, owner: object) -> None:
        before = getattr(owner, name)

        def torn(*arguments: object, **named: object) -> object:
            nonlocal passed
            passed += 1
            if passed == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return before(*arguments, **named)

        setattr(owner, name, torn)

    chance("add", Parts)
    chance("fsync", os)
    chance("rename", Path)
    attempt(config, folder, scratch)


def main(folder: Path, source: str) -> None:
    """Kill, then finish, and do the same without kills."""
    config = GatherConfig(source=(source,), piece_bytes=2048)
    rng = random.Random(0)
    killed, places = 0, []
    scratch = folder / "scratch"
    for number in range(12):
        process = os.fork()
        if process == 0:
            doomed(rng.randrange(1, 400) + number, config, folder / f"try-{number}", scratch)
            os._exit(0)
        killed += os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
        found = run.find(config)
        place = Parts(scratch / "gathered", run._plan(config, found), 1).place
        places.append((place.file, place.mark.offset))
    calm = folder / "calm"
    attempt(config, calm, None)
    attempt(config, folder / "last", scratch)
    print(
        json.dumps(
            {
                "same": contents(calm) == contents(folder / "last"),
                "files": len(contents(calm)),
                "killed": killed,
                "places": places,
                "left": [str(path) for path in scratch.iterdir()],
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
