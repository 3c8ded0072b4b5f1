"""From files to examples: every record is an example, or is left out for a reason that is counted.

    files -> records -> columns by the names that formats know -> the format they fit -> one form each

The rule: a file that cannot be read, or a set of files of which nothing can be used, is an error; a record that cannot
be used is left out, and `LeftOut` tells how many were, why, and where the first of each stands. Of equal examples one
is kept. Labels that are all the same teach nothing, so they are an error, too.
"""

import hashlib
import posixpath
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from underlay.adapt.examples.config import ExamplesConfig, Layout
from underlay.adapt.examples.formats import format_of, known
from underlay.adapt.examples.forms import Example, Form, Label
from underlay.adapt.examples.records import Fields, records
from underlay.adapt.examples.store import example_id
from underlay.adapt.examples.unusable import LeftOut, Unusable, shown
from underlay.data.gather.kinds import Packing, kind_of
from underlay.data.gather.licences import spdx
from underlay.data.gather.readers.records import LICENCE_FIELDS
from underlay.data.gather.sources import File, files_of
from underlay.errors import UserError
from underlay.progress import Progress, silent

_ENDINGS: dict[str, Layout] = {
    "json": "json",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "csv": "csv",
    "tsv": "tsv",
    "parquet": "parquet",
    "conll": "conll",
    "iob": "conll",
    "iob2": "conll",
    "bio": "conll",
}
_CARDS = {"dataset_info.json", "dataset_dict.json", "dataset_infos.json", "package.json"}
_FEW = 12
"""Columns that are named where none fit."""


@dataclass(frozen=True)
class Found:
    """A file with examples in it."""

    file: File
    layout: Layout
    packing: Packing | None
    licence: str


@dataclass
class Reading:
    """What was read."""

    examples: list[Example] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    formats: Counter[str] = field(default_factory=Counter)
    """How many examples came from which format."""
    unread: set[str] = field(default_factory=set)
    """Columns that none of them looked at."""


def read_examples(config: ExamplesConfig, progress: Progress = silent) -> Reading:
    """Read all files of `config.source`.

    Raises UserError where a file is missing or damaged, where nothing in them can be used, and where the examples are
    of several forms or all have one label.
    """
    if config.worked and config.form not in (None, "conversation"):
        raise UserError(f"worked: makes conversations, so form cannot be {config.form}; leave one of them out")
    files = find_files(config)
    reading = Reading()
    ids: set[str] = set()
    for number, found in enumerate(files):
        progress(number, len(files), examples=f"{len(reading.examples):,}")
        rest = None if config.limit is None else config.limit - len(reading.examples)
        reading.examples += islice(_examples(found, config, reading, ids), rest)
    if not reading.examples:
        raise UserError(_nothing(config, reading))
    _same_form(reading.examples)
    if isinstance(reading.examples[0].body, Label):
        reading.examples = _settled(reading.examples)
    return reading


def fingerprint(config: ExamplesConfig) -> str:
    """SHA-256 over the names, licences and bytes of the files that would be read. Raises UserError as reading does."""
    total = hashlib.sha256()
    for found in find_files(config):
        total.update(f"{found.file.name}\0{found.licence}\0".encode())
        total.update(bytes.fromhex(found.file.hashed()))
    return total.hexdigest()


def find_files(config: ExamplesConfig) -> list[Found]:
    """The files to read, in their order. Raises UserError where a source is missing or has none."""
    if not config.source:
        raise UserError("source: name at least one file with examples")
    return [found for label in config.source for found in _find(label, config)]


def _find(label: str, config: ExamplesConfig) -> Iterator[Found]:
    listed, licence, named = files_of(label)
    any_ = False
    for file in sorted(listed, key=lambda file: file.inside.split("/")):
        endings = posixpath.basename(file.inside).lower().split(".")[1:]
        packing = kind_of(file.inside).packing
        ending = (endings[:-1] if packing else endings)[-1:] or [""]
        layout = config.layout or _ENDINGS.get(ending[0])
        if named and layout is None:
            raise UserError(
                f"{label}: its ending is none of {', '.join(_ENDINGS)}; say what it is with `layout`, such as conll"
            )
        if layout and (named or (ending[0] in _ENDINGS and posixpath.basename(file.inside) not in _CARDS)):
            any_ = True
            yield Found(file, layout, packing, config.licence or licence(posixpath.dirname(file.inside)))
    if not any_:
        raise UserError(f"source {label}: no files in it that end in {', '.join(_ENDINGS)}")


def _examples(found: Found, config: ExamplesConfig, reading: Reading, ids: set[str]) -> Iterator[Example]:
    """The usable records of a file; the others are counted."""
    for number, record in records(found.file, found.layout, found.packing, config):
        place = f"{found.file.name}:{number}"
        try:
            if isinstance(record, Unusable):
                raise record
            if any(str(_column(record, name, place)) != value for name, value in config.where.items()):
                continue
            fields = _renamed(record, config, place)
            body, format_ = _made(fields, config, reading)
            identity = example_id(body)
            if identity in ids:
                raise Unusable("the same as an example before it")
        except Unusable as why:
            reading.left_out.add(place, why)
            continue
        ids.add(identity)
        reading.formats[format_] += 1
        yield Example(body, found.file.name, number, _licence(fields, config) or found.licence)


def _column(record: Fields, name: str, place: str) -> object:
    if name not in record:
        raise UserError(f"{place}: there is no column {name!r}; there are {_listed(record)}")
    return record[name]


def _renamed(record: Fields, config: ExamplesConfig, place: str) -> Fields:
    """The record with the names that formats know."""
    given = {ours: _column(record, theirs, place) for ours, theirs in config.columns.items()}
    return {name: value for name, value in record.items() if name not in config.columns.values()} | given


def _made(fields: Fields, config: ExamplesConfig, reading: Reading) -> tuple[Form, str]:
    format_ = format_of(fields, config.form, config.worked)
    if format_ is None:
        raise Unusable("columns that no format has", _listed(fields))
    reading.unread |= {shown(name) for name in fields.keys() - format_.reads(fields) - set(LICENCE_FIELDS)}
    return format_.make(fields), str(format_)


def _listed(fields: Fields) -> str:
    names = ", ".join(shown(name, 40) for name in list(fields)[:_FEW])
    return f"{names}, ..." if len(fields) > _FEW else names or "none"


def _licence(fields: Fields, config: ExamplesConfig) -> str | None:
    data = fields.get("data")  # of Label Studio's exports: what was labelled
    said = {**data, **fields} if isinstance(data, dict) else fields
    stated = next((said[name] for name in LICENCE_FIELDS if isinstance(said.get(name), str)), "")
    return spdx(stated) if stated.strip() and config.licence is None else None


def _nothing(config: ExamplesConfig, reading: Reading) -> str:
    what = f"no {config.form}" if config.form else "no example"
    reasons = "; ".join(reading.left_out.lines()) or "there are no records"
    return f"{what} in {', '.join(config.source)}: {reasons}. Formats: {known(config.form)}; `columns` renames columns"


def _same_form(examples: list[Example]) -> None:
    first = examples[0]
    other = next((one for one in examples if type(one.body) is not type(first.body)), None)
    if other:
        names = [type(one.body).__name__.lower() for one in (first, other)]
        raise UserError(
            f"{first.source}:{first.line} is a {names[0]}, {other.source}:{other.line} a {names[1]}; say `form`, or "
            "read them apart"
        )


def _settled(examples: list[Example]) -> list[Example]:
    """Labels as numbers where any is one, for `4` beside `3.5` is a number; else at least two different ones.

    Raises UserError where some are no numbers, or all are the same.
    """
    labels = [one.body for one in examples if isinstance(one.body, Label)]
    if all(label.value is None for label in labels):
        different = {label.labels for label in labels}
        if len(different) == 1:
            said = shown(", ".join(labels[0].labels)) or "none"
            raise UserError(f"every label, of {len(examples):,}, is {said!r}; there is nothing to tell apart")
        return examples
    settled = []
    for example, label in zip(examples, labels, strict=True):
        if label.value is None:
            label = replace(label, labels=(), value=_as_number(example, label))
        settled.append(replace(example, body=label))
    return settled


def _as_number(example: Example, label: Label) -> float:
    try:
        (said,) = label.labels
        return float(said)
    except ValueError as error:
        given = shown(", ".join(label.labels))
        raise UserError(f"{example.source}:{example.line}: the label {given!r} is no number, but others are") from error
