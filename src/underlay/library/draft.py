"""An artifact on its way: what was ordered, and the folder in which it is being made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from underlay.library.artifact import Artifact
from underlay.library.manifest import Kind, digest


@dataclass(frozen=True)
class Order:
    """What is to be made, from what, and how. Equal orders under one name give one artifact."""

    kind: Kind
    name: str
    verb: str
    config: Mapping[str, Any]
    """All settings that change the result, as JSON."""
    parents: Mapping[str, Artifact] = field(default_factory=dict)
    """The inputs, by role."""
    seed: int = 0
    revision: int = 1
    """Raised when the verb's code changes what it makes from the same config."""

    @property
    def key(self) -> str:
        """SHA-256 of the order."""
        parents = sorted((role, artifact.manifest.hash) for role, artifact in self.parents.items())
        return digest(
            {
                "kind": self.kind,
                "verb": self.verb,
                "revision": self.revision,
                "config": dict(self.config),
                "seed": self.seed,
                "parents": parents,
            }
        )


@dataclass
class Draft:
    """Where the work puts its result, and what it has to say about it."""

    folder: Path
    """Files written here become the artifact. Empty at the start, also after a crash."""
    scratch: Path
    """Survives a crash, so that the same order can go on from what it finds here; gone once the artifact is made."""
    metrics: dict[str, Any] = field(default_factory=dict)
    licences: dict[str, int] = field(default_factory=dict)
    tokens: int | None = None
    flops: float | None = None
    earlier_seconds: float = 0.0
    """Wall seconds that interrupted attempts had already spent on what is being resumed."""
    earlier_cpu_seconds: float = 0.0
    """Their processor seconds."""
