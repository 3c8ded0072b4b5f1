"""What the library knows of an artifact: one JSON document with a schema, beside the artifact's files."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from underlay.config import Config

Kind = Literal[
    "corpus",
    "attributes",
    "classifier",
    "tokenizer",
    "dataset",
    "examples",
    "model",
    "adapter",
    "index",
    "report",
    "bundle",
]
FORMAT = 1
MANIFEST = "manifest.json"
VERSION_LENGTH = 12


def digest(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no white space)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Parent(Config):
    """An artifact that another was made from."""

    role: str
    """What it served as, such as `dataset` or `tokenizer`."""
    reference: str
    """`kind:name@version` at the time."""
    hash: str
    """Its content hash."""


class File(Config):
    """One file of an artifact."""

    path: str
    """Relative to the artifact's folder, with forward slashes."""
    size: int
    """Bytes."""
    sha256: str


class Cost(Config):
    """What making an artifact took."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    tokens: int | None = None
    """Tokens processed, where the work counts in tokens."""
    flops: float | None = None
    """Arithmetic done by the model, by formula (see `underlay.plan.flops`)."""
    energy_wh: float | None = None
    """Estimated energy; see `energy_basis`."""
    energy_basis: str = "unknown"
    """How the energy was estimated."""


class Manifest(Config):
    """Everything that is known of an artifact, and the hash that names it."""

    format: int = FORMAT
    """Version of this document's layout."""
    kind: Kind
    name: str
    version: str
    """The first 12 digits of `hash`."""
    hash: str
    """SHA-256 over kind, verb, config, seed, parents' hashes and files: what the artifact is."""
    key: str
    """SHA-256 over kind, verb and its revision, config, seed and parents' hashes: what was ordered."""
    created: str
    """ISO 8601, UTC."""
    verb: str
    """What made it."""
    config: dict[str, Any]
    seed: int
    parents: tuple[Parent, ...]
    files: tuple[File, ...]
    metrics: dict[str, Any] = Field(default_factory=dict)
    """Measured figures; they do not enter the hash."""
    licences: dict[str, int] = Field(default_factory=dict)
    """SPDX identifiers found in the data, and bytes under each."""
    environment: dict[str, str] = Field(default_factory=dict)
    cost: Cost = Cost()
    tool: str
    """Version of Underlay."""

    @property
    def reference(self) -> str:
        """`kind:name@version`."""
        return f"{self.kind}:{self.name}@{self.version}"

    def content_hash(self) -> str:
        """The hash that these contents ought to have."""
        return content_hash(self.kind, self.verb, self.config, self.seed, self.parents, self.files)


def content_hash(
    kind: Kind, verb: str, config: Mapping[str, Any], seed: int, parents: Iterable[Parent], files: Iterable[File]
) -> str:
    """Hash of what an artifact is. Times, costs and metrics stay out, so equal work has an equal name."""
    return digest(
        {
            "kind": kind,
            "verb": verb,
            "config": config,
            "seed": seed,
            "parents": sorted((parent.role, parent.hash) for parent in parents),
            "files": sorted((file.path, file.size, file.sha256) for file in files),
        }
    )
