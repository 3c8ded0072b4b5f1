"""The store itself: make, find, follow, verify and remove artifacts.

Writes are atomic: files are made in `.staging`, flushed to disk, hashed, described, and published by one rename. A
process that dies leaves only staging behind, which nobody takes for an artifact and which the same order takes up
again. A lock per order lets two processes share a library.
"""

import contextlib
import difflib
import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from underlay import __version__
from underlay.errors import UserError
from underlay.library.artifact import Artifact
from underlay.library.draft import Draft, Order
from underlay.library.exclusions import EXCLUSIONS, Exclusion, as_lines, read_exclusions
from underlay.library.manifest import (
    FORMAT,
    MANIFEST,
    VERSION_LENGTH,
    Cost,
    File,
    Kind,
    Manifest,
    Parent,
    content_hash,
    file_digest,
)
from underlay.library.reference import KINDS, Reference, one_of

_WATTS_PER_CORE = 10.0


def default_root() -> Path:
    """`$UNDERLAY_LIBRARY`, else `./library`."""
    return Path(os.environ.get("UNDERLAY_LIBRARY") or "library")


@dataclass(frozen=True)
class Made:
    """The outcome of an order."""

    artifact: Artifact
    reused: bool
    """Whether it was there already."""


class Library:
    """A folder of artifacts."""

    def __init__(self, root: Path) -> None:
        """Open the library at `root`; the folder is made when the first artifact is.

        Raises UserError where the library was written by a newer version, or `root` is not a folder.
        """
        self.root = root
        if root.exists() and not root.is_dir():
            raise UserError(f"{root} is a file, not a library folder")
        marker = root / "library.json"
        if marker.exists():
            try:
                found = int(json.loads(marker.read_text("utf-8"))["format"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f'{marker} is damaged; expected {{"format": {FORMAT}}}') from error
            if found > FORMAT:
                raise UserError(
                    f"the library {root} is of a newer Underlay (format {found}, this one reads {FORMAT}): upgrade"
                )

    # --- finding ---

    def artifacts(self, kind: Kind | None = None, name: str | None = None) -> Iterator[Artifact]:
        """Every whole artifact, ordered by kind, name and time. Damaged ones are left to `verify`."""
        for artifact in self._scan(kind, name):
            if isinstance(artifact, Artifact):
                yield artifact

    def _scan(self, kind: Kind | None = None, name: str | None = None) -> Iterator[Artifact | UserError]:
        for one_kind in [kind] if kind else KINDS:
            home = self.root / one_kind
            for folder in sorted(home.iterdir()) if home.is_dir() else []:
                if folder.is_dir() and name in (None, folder.name):
                    found = [_open(version) for version in sorted(folder.iterdir()) if version.is_dir()]
                    yield from sorted(found, key=lambda a: a.manifest.created if isinstance(a, Artifact) else "")

    def find(self, text: str, kind: Kind | None = None) -> Artifact:
        """The artifact that a reference means; without a version, the one made or asked for last.

        Raises UserError where there is none, where several fit, or where its kind is not the one wanted.
        """
        reference = Reference.parse(text)
        if kind and reference.kind not in (None, kind):
            raise UserError(f"{text} is {one_of(reference.kind)}; this needs {one_of(kind)}")
        named = list(self.artifacts(reference.kind or kind, reference.name))
        if not named:
            raise UserError(f"{text}: no such artifact in {self.root}{self._suggest(reference, kind)}")
        kinds = sorted({artifact.manifest.kind for artifact in named})
        if len(kinds) > 1:
            raise UserError(f"{text} is ambiguous: {', '.join(f'{k}:{reference.name}' for k in kinds)}")
        if reference.version is None:
            return self._latest(named)
        fitting = [artifact for artifact in named if artifact.manifest.hash.startswith(reference.version)]
        if not fitting:
            versions = ", ".join(artifact.manifest.version for artifact in named[-5:])
            raise UserError(f"{text}: no such version in {self.root}; there are {versions}")
        if len(fitting) > 1:
            raise UserError(f"{text} is ambiguous: {', '.join(artifact.reference for artifact in fitting)}")
        return fitting[0]

    def _suggest(self, reference: Reference, kind: Kind | None) -> str:
        names = sorted({f"{a.manifest.kind}:{a.manifest.name}" for a in self.artifacts(kind)})
        if not names:
            return "; it is empty: make something first, for instance with `underlay run recipes/quickstart.yaml`"
        wanted = f"{reference.kind or kind or ''}:{reference.name}"
        near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.3)
        return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names[:8])}"

    def _latest(self, versions: list[Artifact]) -> Artifact:
        pointer = versions[0].folder.parent / "latest"
        with contextlib.suppress(OSError, UnicodeDecodeError):
            current = pointer.read_text("utf-8").strip()
            for artifact in versions:
                if artifact.manifest.version == current:
                    return artifact
        return versions[-1]

    # --- making ---

    def make(
        self,
        order: Order,
        work: Callable[[Draft], None],
        waiting: Callable[[], None] = lambda: None,
        usable: Callable[[Artifact], bool] = lambda _: True,
    ) -> Made:
        """Return the artifact of this order, doing the `work` only where it is not there yet.

        `waiting` is called once where another process is busy with the same order; `usable` says of an artifact of this
        order whether it may still be reused. Raises UserError for a bad name; what `work` raises passes through, and
        leaves the library as it was.
        """
        Reference.parse(f"{order.kind}:{order.name}")
        self._create()
        lock = FileLock(self.root / ".locks" / f"{order.key}.lock")
        try:
            held = lock.acquire(blocking=False)
        except Timeout:
            waiting()
            held = lock.acquire()
        with held:
            for artifact in self.artifacts(order.kind, order.name):
                if artifact.manifest.key == order.key and _files_present(artifact) and usable(artifact):
                    self._point(artifact)
                    return Made(artifact, reused=True)
            staging = self.root / ".staging" / order.key
            draft = Draft(staging / "out", staging / "scratch")
            shutil.rmtree(draft.folder, ignore_errors=True)
            draft.folder.mkdir(parents=True)
            draft.scratch.mkdir(exist_ok=True)
            wall, cpu = time.monotonic(), time.process_time()
            work(draft)
            seconds = draft.earlier_seconds + time.monotonic() - wall
            artifact = self._publish(order, draft, seconds, draft.earlier_cpu_seconds + time.process_time() - cpu)
            shutil.rmtree(staging, ignore_errors=True)
            self._point(artifact)
            return Made(artifact, reused=False)

    def _create(self) -> None:
        try:
            for folder in (self.root, self.root / ".locks", self.root / ".staging"):
                folder.mkdir(parents=True, exist_ok=True)
        except (NotADirectoryError, FileExistsError) as error:
            raise UserError(f"{self.root}: cannot be a library, {error.filename} is no folder") from error
        marker = self.root / "library.json"
        if not marker.exists():
            _write_atomically(marker, json.dumps({"format": FORMAT, "tool": __version__}) + "\n")

    def _publish(self, order: Order, draft: Draft, wall: float, cpu: float) -> Artifact:
        files = []
        for path in sorted(draft.folder.rglob("*")):
            if path.is_file():
                _sync(path)
                name = path.relative_to(draft.folder).as_posix()
                files.append(File(path=name, size=path.stat().st_size, sha256=file_digest(path)))
        parents = tuple(
            Parent(role=role, reference=artifact.reference, hash=artifact.manifest.hash)
            for role, artifact in sorted(order.parents.items())
        )
        config = dict(order.config)
        name = content_hash(order.kind, order.verb, config, order.seed, parents, files)
        manifest = Manifest(
            kind=order.kind,
            name=order.name,
            version=name[:VERSION_LENGTH],
            hash=name,
            key=order.key,
            created=datetime.now(UTC).isoformat(),
            verb=order.verb,
            config=config,
            seed=order.seed,
            parents=parents,
            files=tuple(files),
            metrics=draft.metrics,
            licences=dict(sorted(draft.licences.items())),
            environment=environment(),
            cost=Cost(
                wall_seconds=round(wall, 3),
                cpu_seconds=round(cpu, 3),
                tokens=draft.tokens,
                flops=draft.flops,
                energy_wh=round(cpu * _WATTS_PER_CORE / 3600, 4),
                energy_basis=f"CPU seconds x {_WATTS_PER_CORE:g} W per busy core, assumed",
            ),
            tool=__version__,
        )
        _write_atomically(draft.folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        for folder in [draft.folder, *(path for path in draft.folder.rglob("*") if path.is_dir())]:
            _sync(folder)
        home = self.root / order.kind / order.name / manifest.version
        home.parent.mkdir(parents=True, exist_ok=True)
        there = _open(home) if home.exists() else None
        if isinstance(there, Artifact) and not _problems(there):
            return there  # a newer revision of the verb made the very same artifact
        if there:
            self._discard(home)  # it was damaged
        draft.folder.rename(home)
        _sync(home.parent)
        return Artifact(home, manifest)

    def _point(self, artifact: Artifact) -> None:
        pointer = artifact.folder.parent / "latest"
        if not (pointer.exists() and pointer.read_bytes().strip() == artifact.manifest.version.encode()):
            _write_atomically(pointer, artifact.manifest.version + "\n")

    # --- following ---

    def parents(self, artifact: Artifact) -> dict[str, Artifact | None]:
        """The artifacts this one was made from, by role; None where one was removed since."""
        by_hash = {other.manifest.hash: other for other in self.artifacts()}
        return {parent.role: by_hash.get(parent.hash) for parent in artifact.manifest.parents}

    def children(self, artifact: Artifact) -> list[Artifact]:
        """The artifacts that were made from this one."""
        hash_ = artifact.manifest.hash
        return [other for other in self.artifacts() if any(p.hash == hash_ for p in other.manifest.parents)]

    def ancestors(self, artifact: Artifact) -> list[Artifact]:
        """Everything this artifact descends from, nearest first, each once."""
        return self._closure(artifact, lambda a: [p for p in self.parents(a).values() if p])

    def ancestor(self, artifact: Artifact, kind: Kind) -> Artifact:
        """The nearest artifact of a kind that this one descends from. Raises UserError where there is none any more."""
        for candidate in self.ancestors(artifact):
            if candidate.manifest.kind == kind:
                return candidate
        raise UserError(f"{artifact.reference}: the {kind} it was made from is not in the library")

    def descendants(self, artifact: Artifact) -> list[Artifact]:
        """Everything made from this artifact, nearest first, each once."""
        return self._closure(artifact, self.children)

    @staticmethod
    def _closure(start: Artifact, step: Callable[[Artifact], list[Artifact]]) -> list[Artifact]:
        found: dict[str, Artifact] = {}
        layer = [start]
        while layer:
            layer = [near for artifact in layer for near in step(artifact) if near.manifest.hash not in found]
            found.update({artifact.manifest.hash: artifact for artifact in layer})
        return list(found.values())

    # --- excluding ---

    def exclusions(self) -> list[Exclusion]:
        """The documents that must not come back. Raises UserError where their list is damaged."""
        return read_exclusions(self.root / EXCLUSIONS)

    def excluded(self) -> frozenset[str]:
        """The ids of these documents in all their forms."""
        return frozenset(id_ for one in self.exclusions() for id_ in (one.id, *one.forms))

    def exclude(self, exclusions: Sequence[Exclusion]) -> None:
        """Add documents to those that must not come back."""
        self._create()
        with FileLock(self.root / ".locks" / "exclusions.lock"):
            _write_atomically(self.root / EXCLUSIONS, as_lines([*self.exclusions(), *exclusions]))

    # --- keeping ---

    def verify(self, text: str | None = None) -> Iterator[tuple[str, list[str]]]:
        """Check every file of one artifact, or of all; yields (reference or folder, problems)."""
        wanted = [self.find(text)] if text else self._scan()
        for item in wanted:
            if isinstance(item, Artifact):
                yield item.reference, _problems(item)
            else:
                where, _, what = str(item).partition(": ")
                yield where, [what]

    def remove(self, text: str, force: bool = False) -> Artifact:
        """Remove one artifact. Raises UserError where others were made from it, unless forced."""
        artifact = self.find(text)
        children = self.children(artifact)
        if children and not force:
            names = ", ".join(child.reference for child in children[:3])
            raise UserError(f"{artifact.reference} is what {names} was made from; remove that first, or use --force")
        self._discard(artifact.folder)
        if not any(path.is_dir() for path in artifact.folder.parent.iterdir()):
            with contextlib.suppress(OSError):  # the name's folder goes with its last version, unless one just came
                (artifact.folder.parent / "latest").unlink(missing_ok=True)
                artifact.folder.parent.rmdir()
        return artifact

    def collect(self, superseded: bool = False) -> int:
        """Remove what crashes left behind, and with `superseded` what no latest version needs. Returns bytes freed.

        Raises UserError where a damaged manifest hides what is needed.
        """
        unread = [str(found) for found in self._scan() if isinstance(found, UserError)] if superseded else []
        if unread:
            raise UserError(f"{unread[0]}; what it needs is unknown, so nothing superseded is removed")
        freed = 0
        for folder in sorted((self.root / ".staging").glob("*")):
            lock = FileLock(self.root / ".locks" / f"{folder.name}.lock")
            with contextlib.suppress(Timeout), lock.acquire(blocking=False):
                freed += _size(folder)
                shutil.rmtree(folder, ignore_errors=True)
        if superseded:
            names: dict[tuple[Kind, str], list[Artifact]] = {}
            for artifact in self.artifacts():
                names.setdefault((artifact.manifest.kind, artifact.manifest.name), []).append(artifact)
            current = [self._latest(versions) for versions in names.values()]
            needed = {a.manifest.hash for one in current for a in [one, *self.ancestors(one)]}
            for artifact in [a for versions in names.values() for a in versions if a.manifest.hash not in needed]:
                freed += _size(artifact.folder)
                self._discard(artifact.folder)
        return freed

    def _discard(self, folder: Path) -> None:
        # Renamed first: a half-removed artifact must not be seen either.
        grave = self.root / ".staging" / f"removed-{time.time_ns()}"
        grave.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(grave)
        shutil.rmtree(grave, ignore_errors=True)


def environment() -> dict[str, str]:
    """The software and hardware an artifact is made with."""
    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": str(os.cpu_count()),
    }
    for package in ("torch", "tokenizers", "pyarrow", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _open(folder: Path) -> Artifact | UserError:
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text("utf-8"))
        if isinstance(values, dict) and isinstance(values.get("format"), int) and values["format"] > FORMAT:
            return UserError(f"{folder}: made by a newer Underlay (manifest format {values['format']}): upgrade")
        return Artifact(folder, Manifest.model_validate(values))
    except FileNotFoundError:
        return UserError(f"{folder}: no {MANIFEST}")
    except (ValidationError, ValueError) as error:
        return UserError(f"{folder}: damaged {MANIFEST}: {str(error).splitlines()[0]}")


def _files_present(artifact: Artifact) -> bool:
    def whole(file: File) -> bool:
        path = artifact.folder / file.path
        return path.is_file() and path.stat().st_size == file.size

    return all(whole(file) for file in artifact.manifest.files)


def _problems(artifact: Artifact) -> list[str]:
    manifest, problems = artifact.manifest, []
    if manifest.content_hash() != manifest.hash or manifest.hash[:VERSION_LENGTH] != artifact.folder.name:
        problems.append("the manifest does not fit its own hash")
    listed = {file.path: file for file in manifest.files}
    present = {p.relative_to(artifact.folder).as_posix() for p in artifact.folder.rglob("*") if p.is_file()}
    problems += [f"{path}: not in the manifest" for path in sorted(present - listed.keys() - {MANIFEST})]
    for path, file in listed.items():
        if path not in present:
            problems.append(f"{path}: missing")
        elif (artifact.folder / path).stat().st_size != file.size:
            problems.append(f"{path}: {(artifact.folder / path).stat().st_size} bytes, expected {file.size}")
        elif file_digest(artifact.folder / path) != file.sha256:
            problems.append(f"{path}: its bytes have changed")
    return problems


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, "utf-8")
    _sync(temporary)
    temporary.replace(path)
