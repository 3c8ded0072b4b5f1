"""How runs honour what was excluded: no stage reuses, or learns from, what holds a document that has to stay out.

Artifacts are asked what they hold. So an exclusion makes anew what holds the document, and what was made of that, and
nothing else in the library: an order's key does not depend on exclusions, but what may answer it does.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from underlay.data import Corpus, Dataset
from underlay.data.dataset import Split
from underlay.errors import UserError
from underlay.evaluate import card
from underlay.library import Artifact, Library

SHORT = 12
"""Digits of an id that people are shown."""
_LEAVING_OUT = ("gather", "curate")
"""The verbs that leave excluded documents out; whatever else reads documents has to be given others."""
_LEARNING = ("tokenizer", "pack", "examples", "answer", "pretrain", "adapt", "quantise")
_SPLITS: tuple[Split, ...] = ("train", "heldout")


@dataclass(frozen=True)
class Touched:
    """An artifact that a document has to do with."""

    artifact: Artifact
    why: str
    learned: bool
    """Whether what is made of it has to do with the document, too."""


def held(artifact: Artifact, ids: Collection[str]) -> set[str]:
    """Which of these documents a corpus or a dataset holds; artifacts of other kinds hold no documents."""
    if not ids:
        return set()
    if artifact.manifest.kind == "corpus":
        return {id_ for id_, _, _ in Corpus(artifact.folder).places(ids)}
    if artifact.manifest.kind == "dataset":
        return {id_ for split in _SPLITS for id_ in Dataset(artifact.folder, split).ids if id_ in ids}
    return set()


def touched(library: Library, ids: Collection[str]) -> list[Touched]:
    """Every artifact that holds one of these documents, shows it, or was learned from it; the oldest first."""
    found: dict[str, Touched] = {}
    for artifact in sorted(library.artifacts(), key=lambda one: one.manifest.created):
        why, learned = _why(artifact, ids, found)
        if why:
            found[artifact.manifest.hash] = Touched(artifact, why, learned)
    return list(found.values())


def _why(artifact: Artifact, ids: Collection[str], found: Mapping[str, Touched]) -> tuple[str, bool]:
    """What an artifact has to do with documents, if anything, and whether its descendants have, too."""
    kind = artifact.manifest.kind
    if held(artifact, ids):
        return "holds it", True
    if kind == "corpus":
        return ("its card shows it", False) if _shown(artifact, ids) else ("", False)
    parents = [found[one.hash] for one in artifact.manifest.parents if one.hash in found]
    before = next((one.artifact for one in parents if one.learned), None)
    if before is None:
        return "", False
    if kind == "attributes":
        return "holds what was found of it", False
    return f"was made from {before.reference}", True


def _shown(corpus: Artifact, ids: Collection[str]) -> bool:
    path = corpus.folder / card.TEXT
    text = path.read_text("utf-8") if path.exists() else ""
    return any(id_[:SHORT] in text for id_ in ids)


def usable(verb: str, library: Library) -> Callable[[Artifact], bool]:
    """Whether what a verb made earlier may be reused."""
    excluded = library.excluded() if verb in _LEAVING_OUT else frozenset()
    return lambda artifact: not held(artifact, excluded) and not (excluded and _shown(artifact, excluded))


def refuse(verb: str, inputs: Mapping[str, Artifact], library: Library) -> None:
    """Raise UserError where a verb would learn from an excluded document, or from what learned from one."""
    excluded = library.excluded() if verb in _LEARNING else frozenset()
    if not excluded:
        return
    problems = {one.artifact.manifest.hash: one.why for one in touched(library, excluded) if one.learned}
    for role, artifact in inputs.items():
        if why := problems.get(artifact.manifest.hash):
            why = (
                "it holds an excluded document" if why == "holds it" else f"it {why}, which holds an excluded document"
            )
            raise UserError(
                f"{verb}: its {role} cannot be {artifact.reference}: {why}; run the recipe that made it again, which "
                "leaves such documents out"
            )
