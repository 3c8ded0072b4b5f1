"""Curation without a recipe of one's own: the same stages, made here, and questions to what they left in a library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from underlay.config import parse
from underlay.data import Attributes, Corpus, CurateConfig, TagConfig
from underlay.data.curate.presets import PRESETS, Preset, rules_of
from underlay.data.curate.taggers import TAGGERS
from underlay.data.curate.whatif import WhatIf, changed, named_rule, what_if
from underlay.errors import UserError
from underlay.library import Artifact, Library
from underlay.recipe.recipe import Recipe, make_recipe
from underlay.recipe.run import Listener, run_recipe

BYTES_PER_TOKEN = 4.0
"""Assumed where no dataset says how it is: about what a vocabulary of 32,000 makes of English prose."""


@dataclass(frozen=True)
class Answer:
    """What other rules would keep, and of what."""

    corpus: Artifact
    attributes: Artifact
    base: Artifact | None
    """The curated corpus whose rules are those of now; None: they were named, or are the default."""
    found: WhatIf
    bytes_per_token: float
    dataset: Artifact | None
    """Which says so; None: it is assumed."""


def gather_recipe(sources: Sequence[str], name: str, assignments: Sequence[str] = ()) -> Recipe:
    """A recipe that gathers. Raises UserError as `read_recipe` does."""
    values = {"name": name, "stages": {"gather": {"source": list(sources)}}}
    return make_recipe(values, "underlay gather", assignments)


def curate_recipe(
    library: Library,
    corpus: Artifact,
    name: str | None = None,
    presets: Sequence[str] = (),
    rules: Sequence[str] = (),
    assignments: Sequence[str] = (),
    canaries: int = 0,
) -> Recipe:
    """A recipe that tags a corpus with what its rules need, unless that was done, and curates it.

    rules: conditions to stay, `name=condition`, or `name=null` to take one away. canaries: how many different ones are
    planted. Raises UserError as `read_recipe` does.
    """
    own = _rules(rules)
    chosen = {"presets": list(presets)} if presets else {}
    curate: dict[str, Any] = {"corpus": corpus.reference, **chosen, **({"rules": own} if own else {})}
    if canaries:
        curate["canaries"] = {"count": canaries}
    config = parse(CurateConfig, {"rules": own, **chosen}, "underlay curate")
    needed = _taggers(config)
    found = _attributes(library, corpus, needed)
    stages: dict[str, Any] = {}
    if found is None or any(one.startswith("tag.") for one in assignments):
        stages["tag"] = {"corpus": corpus.reference, "taggers": needed}
        curate["attributes"] = "tag"
    else:
        curate["attributes"] = found.reference
    own_name = corpus.manifest.name.removesuffix("-raw")
    name = name or (own_name if own_name != corpus.manifest.name else f"{own_name}-curated")
    return make_recipe({"name": name, "stages": {**stages, "curate": curate}}, "underlay curate", assignments)


def ask(
    library: Library,
    corpus: Artifact,
    asked: Sequence[str],
    listener: Listener,
    presets: Sequence[str] = (),
    rules: Sequence[str] = (),
    examples: int = 3,
) -> Answer:
    """What other rules would keep of a corpus, beside those that a curated corpus was made by, or the presets given.

    Asked of a curated corpus, the question is about the corpus it was made from. Attributes that are not there are
    found now. Raises UserError where a rule is none, or asks for what no tagger finds.
    """
    base = None
    if corpus.manifest.verb == "curate":
        base, corpus = corpus, _parent(library, corpus, "corpus")
    elif not presets and not rules:
        base = _latest(child for child in library.children(corpus) if child.manifest.verb == "curate")
    if base and not presets and not rules:
        config = _settings(base)
    else:
        base = None
        chosen = {"presets": list(presets)} if presets else {}
        config = parse(CurateConfig, {"rules": _rules(rules), **chosen}, "underlay curate")
    other, _, _ = changed(config, asked)
    wanted = {*_taggers(config), *_taggers(other)}
    needed = [name for name in TAGGERS if name in wanted]
    attributes = _parent(library, base, "attributes") if base else None
    if attributes is None or not set(needed) <= set(_known(attributes).taggers):
        attributes = _attributes(library, corpus, needed)
    if attributes is None:
        stage = {"corpus": corpus.reference, "taggers": needed}
        recipe = make_recipe({"name": corpus.manifest.name, "stages": {"tag": stage}}, "underlay curate")
        attributes = run_recipe(recipe, library, listener)["tag"]
    opened = Attributes(attributes.folder)
    found = what_if(Corpus(corpus.folder), opened, config, asked, examples, library.excluded())
    dataset = _latest(one for one in library.descendants(corpus) if one.manifest.kind == "dataset")
    measured = dataset.manifest.metrics["bytes_per_token"] if dataset else BYTES_PER_TOKEN
    return Answer(corpus, attributes, base, found, measured, dataset)


def _rules(given: Sequence[str]) -> dict[str, str | None]:
    rules: dict[str, str | None] = {}
    for one in given:
        name, text = named_rule(one, "")
        if not name:
            raise UserError(f'--rule {one}: write it as name="condition", such as few-words="gopher.words >= 50"')
        rules[name] = None if text == "null" else text
    return rules


def _taggers(config: CurateConfig) -> list[str]:
    """The taggers that settings need, beside those that always run."""
    asked = {name for rule in rules_of(config.presets, config.rules) for name in rule.attributes}
    wanted = {*TagConfig().taggers, *(name.partition(".")[0] for name in asked | {config.better})}
    return [name for name in TAGGERS if name in wanted]  # names of no tagger are told by the rule's own check


def _attributes(library: Library, corpus: Artifact, needed: Sequence[str]) -> Artifact | None:
    """The newest attributes of a corpus that hold all that is needed."""
    tagged = (child for child in library.children(corpus) if child.manifest.kind == "attributes")
    return _latest(one for one in tagged if set(needed) <= set(_known(one).taggers))


def _known(attributes: Artifact) -> TagConfig:
    return Attributes(attributes.folder).config


def _settings(curated: Artifact) -> CurateConfig:
    return parse(CurateConfig, curated.manifest.config, curated.reference)


def _parent(library: Library, artifact: Artifact, role: str) -> Artifact:
    found = library.parents(artifact).get(role)
    if found is None:
        raise UserError(f"{artifact.reference}: the {role} it was made from is not in the library")
    return found


def _latest(artifacts: Any) -> Artifact | None:
    return max(artifacts, key=lambda artifact: artifact.manifest.created, default=None)


def check_presets(names: Sequence[str]) -> None:
    """Raise UserError where a preset is not known."""
    for name in names:
        if name not in get_args(Preset):
            raise UserError(f"--preset {name}: there are {', '.join(PRESETS)}")


def tokens(size: int, answer: Answer) -> float:
    """Tokens of so many bytes."""
    return size / answer.bytes_per_token


def as_mapping(answer: Answer) -> Mapping[str, Any]:
    """The answer as JSON."""
    from underlay.data.curate.whatif import as_dict

    return {
        "corpus": answer.corpus.reference,
        "attributes": answer.attributes.reference,
        "rules_of": answer.base.reference if answer.base else None,
        "bytes_per_token": answer.bytes_per_token,
        "bytes_per_token_of": answer.dataset.reference if answer.dataset else "estimate",
        **as_dict(answer.found),
    }
