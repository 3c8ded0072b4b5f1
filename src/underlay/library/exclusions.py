"""Documents that must not come back into a library, by their ids: one file of JSON lines beside the artifacts.

A document's id is its content's hash, so it is known again wherever it comes from. What curation made of it has other
ids, its forms; they are listed with it. Nothing of the text itself is kept here.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from underlay.config import Config, parse
from underlay.errors import UserError

EXCLUSIONS = "exclusions.jsonl"


class Exclusion(Config):
    """A document that has to stay out."""

    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    """What it was asked for by."""
    forms: tuple[str, ...]
    """All ids that it ever had, the one above among them."""
    source: str = ""
    """Where it was read, as far as is known."""
    date: str
    """When it was excluded, as ISO 8601."""
    reason: str
    """Why, in the words of who excluded it."""


def read_exclusions(path: Path) -> list[Exclusion]:
    """What is excluded, in the order in which it was; nothing where there is no such file.

    Raises UserError where a line is damaged: what has to stay out must not be forgotten silently.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); what must stay out is unknown") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON; mend or restore it") from error
        if not isinstance(values, dict):
            raise UserError(f"{path}, line {number}: expected keys and values; mend or restore it")
        found.append(parse(Exclusion, values, f"{path}, line {number}"))
    return found


def as_lines(exclusions: Sequence[Exclusion]) -> str:
    """The text of such a file."""
    return "".join(f"{json.dumps(one.model_dump(mode='json'), ensure_ascii=False)}\n" for one in exclusions)
