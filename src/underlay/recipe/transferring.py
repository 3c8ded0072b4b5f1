"""Transfer: a model goes on to learn from text of another kind, and reads some of what it knows again meanwhile.

Two recipes. The first packs the new text, and the old that is to be replayed, in the model's own tokens; the second
starts from the model on both. In between it is known how long the new text is, and so how many steps read it once.
Replay is what the model was trained on, as the library knows it, with the same documents held out; for a model that
came from elsewhere, what its user names. Shares of 0.05 to 0.5 were found to keep what was known, the more the further
the new text is from the old (arXiv:2403.08763).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from underlay.data import Dataset
from underlay.errors import UserError
from underlay.library import Artifact, Library
from underlay.models.storage import load_config
from underlay.recipe.recipe import Recipe, make_recipe
from underlay.recipe.starting import read_before
from underlay.text import Tokenizer

DOMAIN, REPLAY = "domain", "replay"
"""Parts of the dataset: the new text, and the old."""
SHARE = 0.2
"""Of the rows that are replayed, where nothing else is asked for."""
_HELDOUT = 0.02
_LONGEST = 1024
"""Tokens of a row, where it is not known how the model was trained."""
_FINEST = 4
"""Digits of a share."""
_KEPT = ("isolate", "packing", "masking", "fim")
_KEPT_TRAIN = ("context", "batch_rows", "micro_rows", "optimizer")
"""Settings in which a model goes on as it was trained."""


@dataclass(frozen=True)
class Replay:
    """What is read again."""

    corpora: Mapping[str, str]
    """Corpora by the names of their parts; none: nothing is replayed."""
    share: float
    """Of all rows."""
    sources: Sequence[str] = ()
    """Where the text is yet to be gathered from, in the place of corpora."""
    heldout: float = _HELDOUT
    """Share of documents that are held out, as before."""


def replay_of(library: Library, base: Artifact, share: float | None, data: Sequence[str] = ()) -> Replay:
    """What of a model's own text is replayed, or of `data`, a corpus or sources; None as share: a fifth where it can.

    Raises UserError where a share is asked for and the model's text is not known.
    """
    if share is not None and not 0 <= share < 1:
        raise UserError(f"--replay {share}: a share of at least 0 and less than 1, such as 0.2")
    if data:
        if share == 0:
            raise UserError("--replay 0: nothing is replayed, so --replay-data has no meaning beside it")
        share = SHARE if share is None else share
        if corpus := _corpus(data, "--replay-data"):
            return Replay({REPLAY: library.find(corpus, "corpus").reference}, share)
        return Replay({}, share, data)
    known = read_before(library, base, Tokenizer.load(base.folder))
    if known is None:
        if share:
            raise UserError(
                f"{base.reference}: the library does not know what it was trained on; name some such text as "
                "--replay-data, or learn without by --replay 0"
            )
        return Replay({}, 0)
    heldout = float(known.manifest.config["heldout"])
    if share == 0:
        return Replay({}, 0, heldout=heldout)
    found: dict[str, str] = {}
    for role, corpus_ in library.parents(known).items():
        if role == "tokenizer":
            continue
        if corpus_ is None:
            raise UserError(f"{known.reference}: the {role} it was packed from is gone; name text as --replay-data")
        part = role.partition(".")[2]
        found[f"{REPLAY}-{part}" if part else REPLAY] = corpus_.reference
    return Replay(found, SHARE if share is None else share, heldout=heldout)


def data_recipe(library: Library, base: Artifact, data: Sequence[str], replay: Replay, name: str) -> Recipe:
    """The stages that make a dataset of new text (a corpus, or sources) and replay, up to `pack`.

    Raises UserError as `read_recipe` does.
    """
    stages: dict[str, Any] = {}
    corpora = dict(replay.corpora)
    if corpus := _corpus(data, "--data"):
        corpora[DOMAIN] = library.find(corpus, "corpus").reference
    else:
        stages |= _curated(data, DOMAIN, name)
        corpora[DOMAIN] = DOMAIN
    if replay.sources:
        stages |= _curated(replay.sources, REPLAY, f"{name}-{REPLAY}")
        corpora[REPLAY] = REPLAY
    stages["tokenizer"] = {"model": base.reference}
    stages["pack"] = {"corpora": corpora, "tokenizer": "tokenizer", "heldout": replay.heldout}
    return make_recipe({"name": name, "stages": stages}, "underlay transfer")


def transfer_recipe(
    library: Library,
    base: Artifact,
    dataset: Artifact,
    share: float,
    name: str,
    passes: float = 1.0,
    steps: int | None = None,
    assignments: Sequence[str] = (),
) -> Recipe:
    """The stage that starts from a model on a dataset of `data_recipe`, and reads its new text so many times.

    steps: the length instead. The rate rises anew, to what the model was trained with, and falls again. Raises
    UserError as `read_recipe` does.
    """
    parts = Dataset(dataset.folder).parts
    old = {part: len(tokens) for part, tokens in parts.items() if part != DOMAIN}
    weights = {part: round(share * count / sum(old.values()), _FINEST) for part, count in old.items()}
    mixture = [{"weights": {DOMAIN: round(1 - sum(weights.values()), _FINEST), **weights}}] if old else []
    settings, train = _as_before(library, base)
    rows = max(1, len(parts[DOMAIN]) // train["context"])
    train["steps"] = steps or max(1, math.ceil(passes * rows / (train["batch_rows"] * (1 - share))))
    train["schedule"] = {"warmup_steps": max(10, train["steps"] // 20)}
    roles = {"dataset": dataset.reference, "start": base.reference}
    stage = {"verb": "pretrain", **settings, **roles, "mixture": mixture, "train": train}
    return make_recipe({"name": name, "stages": {"pretrain": stage}}, "underlay transfer", assignments)


def _as_before(library: Library, base: Artifact) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the stage, and of its training."""
    line = [base, *library.ancestors(base)]
    trained = next((one.manifest.config for one in line if one.manifest.verb == "pretrain"), None)
    if trained is None:
        context = min(load_config(base.folder).context, _LONGEST)
        optimizer = {"lr": 0.002, "adam_lr": 0.0003}
        return {}, {"context": context, "batch_rows": 16, "micro_rows": 8, "optimizer": optimizer}
    kept = {key: trained[key] for key in _KEPT if key in trained}
    return kept, {key: trained["train"][key] for key in _KEPT_TRAIN}


def _curated(sources: Sequence[str], stage: str, name: str) -> dict[str, Any]:
    """Stages that gather and curate; the last is called `stage`."""
    gathered, tagged = f"gather-{stage}", f"tag-{stage}"
    return {
        gathered: {"verb": "gather", "name": f"{name}-raw", "source": list(sources)},
        tagged: {"verb": "tag", "name": name, "corpus": gathered},
        stage: {"verb": "curate", "name": name, "corpus": gathered, "attributes": tagged},
    }


def _corpus(data: Sequence[str], option: str) -> str | None:
    """The corpus of the library that is meant, if one is."""
    if not any(one.startswith("corpus:") for one in data):
        return None
    if len(data) > 1:
        raise UserError(f"{option} {data[0]}: name either sources, or one corpus of the library")
    return data[0]
