"""Canaries: random sequences that are planted on purpose, so that it can be measured how much a model learns by heart.

A canary is a sentence with a random number that stands nowhere else. Planted once, four times, sixteen times, it tells
after training how often a text has to be read to be remembered: how likely is the number to the model, compared with
all the other numbers that might have stood there ("The Secret Sharer", Carlini et al., arXiv:1802.08232)?

Each copy is a document of its own, so no real document is touched. They are planted last, past all rules and the
search for duplicates; which documents they are is recorded, so that copies that were held out of training can be told
apart.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from underlay.config import Config
from underlay.data.document import Document

CANARIES = "canaries.json"
SOURCE = "underlay:canaries"
LICENCE = "CC0-1.0"
DIGITS = 9
"""As in the paper: a canary's number is one of 10^9."""


class CanaryConfig(Config):
    """Which random sequences are planted."""

    count: int = Field(ge=1, le=10_000)
    """How many different ones."""
    copies: tuple[Annotated[int, Field(ge=1, le=10_000)], ...] = Field(default=(1, 4, 16), min_length=1)
    """How often each is planted: the first as often as the first number says, and so on in turn."""
    seed: int = 0
    """Another seed gives other sequences."""


@dataclass(frozen=True)
class Canary:
    """A sentence with a secret."""

    prefix: str
    """What a model is given to go on from."""
    secret: str
    """What it can only have learned by heart, ` 2 8 1 2 6 5 0 1 7`: a word a digit, so all are equally many tokens."""
    copies: int

    def documents(self, first: int) -> list[Document]:
        """A document for each copy; the first of them has this number. A second line keeps them apart."""
        return [
            Document(
                f"{self.prefix}{self.secret}.\nThis is copy {number + 1} of {self.copies}.\n",
                SOURCE,
                first + number,
                first + number,
                LICENCE,
                "text",
            )
            for number in range(self.copies)
        ]


def canaries(config: CanaryConfig) -> list[Canary]:
    """The sequences, the same for the same settings; with a greater `count` the first ones stay the same."""
    found = []
    for number in range(config.count):
        chance = hashlib.sha256(f"canary:{config.seed}:{number}".encode()).digest()
        digits = f"{int.from_bytes(chance[8:24]) % 10**DIGITS:0{DIGITS}d}"
        secret = "".join(f" {digit}" for digit in digits)
        prefix = f"Canary {chance[:8].hex()}: the random number is"
        found.append(Canary(prefix, secret, config.copies[number % len(config.copies)]))
    return found


def planted(config: CanaryConfig, folder: Path) -> Iterator[Document]:
    """The documents to plant; writes `canaries.json` into `folder`, with all that is needed to look for them again."""
    first = 1
    rows: list[dict[str, Any]] = []
    for canary in canaries(config):
        documents = canary.documents(first)
        first += canary.copies
        ids = [document.id for document in documents]
        rows.append({"prefix": canary.prefix, "secret": canary.secret, "copies": canary.copies, "documents": ids})
        yield from documents
    said = {"seed": config.seed, "space": 10**DIGITS, "canaries": rows}
    (folder / CANARIES).write_text(json.dumps(said, indent=1) + "\n", "utf-8")


def read(folder: Path) -> list[dict[str, Any]]:
    """What was planted in the corpus in `folder`, a row a canary as `planted` wrote it; none where none was."""
    path = folder / CANARIES
    if not path.exists():
        return []
    found: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["canaries"]
    return found
