"""What tests of examples share: files made on the spot, and what was read of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from underlay.adapt.examples import ExamplesConfig, Form, Reading, read_examples
from underlay.errors import UserError
from underlay.text import Message

DATA = Path(__file__).parents[4] / "shared" / "data"


def real(name: str) -> pytest.MarkDecorator:
    """Skips where a set of real data is not there."""
    return pytest.mark.skipif(not (DATA / name).exists(), reason=f"needs ../shared/data/{name}")


def read(*files: Path | str, **settings: Any) -> Reading:
    return read_examples(ExamplesConfig(source=tuple(map(str, files)), **settings))


def lines(path: Path, *records: Any) -> Path:
    """A JSONL file of these records."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def bodies(tmp_path: Path, *records: Any, **settings: Any) -> list[Form]:
    """What these records are read as."""
    return [example.body for example in read(lines(tmp_path / "some.jsonl", *records), **settings).examples]


def refusal(*files: Path | str, **settings: Any) -> str:
    """The one line that says why nothing could be read."""
    with pytest.raises(UserError) as error:
        read(*files, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def turns(*words: str) -> tuple[Message, ...]:
    """Turns of user and assistant."""
    return tuple(Message("assistant" if place % 2 else "user", said) for place, said in enumerate(words))
