"""What a verb is, and what it may look at while it works."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from underlay.config import Config
from underlay.data.curate.engine import Engine
from underlay.library import Artifact, Draft, Kind, Library
from underlay.progress import Progress
from underlay.train.world import World


@dataclass(frozen=True)
class Job:
    """All that a verb may look at."""

    name: str
    """Of the artifact."""
    settings: Any
    """The stage's own config; a verb knows its type."""
    config: Mapping[str, Any]
    """What a manifest holds of the settings."""
    inputs: Mapping[str, Artifact]
    seed: int
    draft: Draft
    library: Library
    progress: Progress
    log: Callable[[str], None]
    world: World
    """The processes that train together."""
    engine: Engine | None = None
    """Where stretches of a corpus are worked on; by default in processes of this machine."""

    def folder(self, role: str) -> Path:
        """Where an input's files are."""
        return self.inputs[role].folder

    def corpora(self) -> dict[str, Artifact]:
        """The corpora that were given by names, ordered by them; or one without a name."""
        named = {role.partition(".")[2]: one for role, one in self.inputs.items() if role.startswith("corpora.")}
        return dict(sorted(named.items())) or {"": self.inputs["corpus"]}


@dataclass(frozen=True)
class Verb:
    """A kind of stage."""

    makes: Kind
    takes: Mapping[str, Kind]
    """The kinds of its inputs, by the key that names one, several, or none."""
    work: Callable[[Job], None]
    seeded: bool = False
    """Whether chance plays a part."""
    trains: bool = False
    """Whether it trains, which many processes do together."""
    alone: Callable[[Config], bool] = lambda _: False
    """Whether by some settings one process trains, and the others wait."""
    revision: int = 1
    """Raised when the code makes something else from the same settings."""
    outside: Callable[[Config], dict[str, str]] = lambda _: {}
    """What it reads that is not in the library, as hashes that belong to its order."""
    instead: Callable[[Config], Kind | None] = lambda _: None
    """What it makes by some settings in the place of `makes`."""

    def kind(self, settings: Config) -> Kind:
        """What a stage makes."""
        return self.instead(settings) or self.makes

    def config(self, settings: Config) -> dict[str, Any]:
        """What belongs to a stage's order beside its inputs, as JSON."""
        return settings.model_dump(mode="json", exclude={"verb", "name", "record", "when", *self.takes}) | self.outside(
            settings
        )

    def inputs(self, settings: Config) -> dict[str, tuple[str, Kind]]:
        """Name and kind of each input of a stage, by role: its key, or with several under one key, `corpora.code`."""
        found: dict[str, tuple[str, Kind]] = {}
        for key, kind in self.takes.items():
            given = getattr(settings, key)
            several = given if isinstance(given, dict) else {}
            found |= {f"{key}.{name}": (one, kind) for name, one in several.items()}
            if isinstance(given, str):
                found[key] = (given, kind)
        return found
