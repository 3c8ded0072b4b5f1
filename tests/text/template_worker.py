"""Fills chat templates in a process of its own, where nothing that earlier tests left slows it down, and times that.

Reads a list of sources; writes for each what it complained of (null: nothing), the length of what it wrote, and seconds
of processor time. First comes the time of a known piece of work: some 0.05 seconds on a machine that is not busy.
"""

import json
import sys
import time

from underlay.errors import UserError
from underlay.text.template import ChatTemplate


def fill(source: str) -> tuple[str | None, int, float]:
    started, complaint, shown = time.process_time(), None, ""
    try:
        shown = ChatTemplate(source).render([{"role": "user", "content": "a"}], {})
    except UserError as error:
        complaint = str(error)
    return complaint, len(shown), time.process_time() - started


def pace() -> float:
    started = time.process_time()
    assert len([str(number) for number in range(400_000)]) == 400_000
    return time.process_time() - started


if __name__ == "__main__":
    json.dump([pace(), [fill(source) for source in json.load(sys.stdin)]], sys.stdout)
