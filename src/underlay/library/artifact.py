"""A whole artifact: a folder in a library, and its manifest."""

from dataclasses import dataclass
from pathlib import Path

from underlay.library.manifest import Manifest


@dataclass(frozen=True)
class Artifact:
    """A whole artifact in a library."""

    folder: Path
    manifest: Manifest

    @property
    def reference(self) -> str:
        """`kind:name@version`."""
        return self.manifest.reference
