"""The library: every artifact with where it came from, and nothing half-made.

An artifact is a folder `<kind>/<name>/<version>/` with its files and a `manifest.json`. `Library.make` is the one way
to add one: it reuses what the same order made before, locks against a second process, and publishes by one rename.
"""

from underlay.library.artifact import Artifact
from underlay.library.draft import Draft, Order
from underlay.library.exclusions import Exclusion
from underlay.library.manifest import Cost, Kind, Manifest
from underlay.library.reference import Reference
from underlay.library.store import Library, Made, default_root

__all__ = [
    "Artifact",
    "Cost",
    "Draft",
    "Exclusion",
    "Kind",
    "Library",
    "Made",
    "Manifest",
    "Order",
    "Reference",
    "default_root",
]
