"""Canaries: planted as often as asked for, the same each time, and never otherwise."""

import json
from collections import Counter
from pathlib import Path

import pytest

from underlay.data import Corpus, CurateConfig, Document, TagConfig, curate, tag, write_corpus
from underlay.data.curate import funnel
from underlay.data.curate.canaries import CANARIES, SOURCE, CanaryConfig, canaries, read
from underlay.errors import UserError

TEXT = "The quick brown fox jumps over the lazy dog, and then it goes home to sleep until the morning comes again."


def curated(folder: Path, config: CanaryConfig | None, text: str = TEXT) -> tuple[Corpus, Corpus]:
    raw = write_corpus(folder / "raw", [Document(text, "a.txt", 1, 1, "MIT", "text")])
    tags = tag(raw, TagConfig(taggers=("text", "minhash")), folder / "tags")
    return raw, curate(raw, tags, CurateConfig(canaries=config), folder / "curated")


def test_none_is_planted_unless_asked_for(tmp_path: Path) -> None:
    _, corpus = curated(tmp_path, None)
    assert [one.text for one in corpus] == [TEXT]
    assert not (corpus.folder / CANARIES).exists()
    assert read(corpus.folder) == []


def test_each_is_planted_as_often_as_recorded(tmp_path: Path) -> None:
    raw, corpus = curated(tmp_path, CanaryConfig(count=5, copies=(1, 3)))
    rows = read(corpus.folder)
    assert [row["copies"] for row in rows] == [1, 3, 1, 3, 1]
    texts = [one.text for one in corpus]
    assert TEXT in texts
    assert len(texts) == 1 + 9
    for row in rows:
        holding = [one for one in corpus if row["prefix"] + row["secret"] + "." in one.text]
        assert len(holding) == row["copies"]
        assert {one.id for one in holding} == set(row["documents"])
        assert {one.source for one in holding} == {SOURCE}
        assert sum(text.count(row["secret"]) for text in texts) == row["copies"]
    planted = [entry for entry in corpus.ledger() if entry.decision == "plant"]
    assert Counter(entry.id for entry in planted) == Counter(one.id for one in corpus if one.source == SOURCE)
    counts = {name: count for name, count, _ in funnel(raw, corpus)}
    assert counts == {"found": 1, "planted": 9, "kept": 10}


def test_a_seed_gives_the_same_ones_and_another_gives_others(tmp_path: Path) -> None:
    one, again, other = (canaries(CanaryConfig(count=20, seed=seed)) for seed in (1, 1, 2))
    assert one == again
    assert not {canary.secret for canary in one} & {canary.secret for canary in other}
    assert canaries(CanaryConfig(count=7, seed=1)) == one[:7]
    folders = [curated(tmp_path / str(n), CanaryConfig(count=4))[1].folder for n in range(2)]
    assert len({(folder / CANARIES).read_bytes() for folder in folders}) == 1


def test_secrets_are_spread_over_their_space() -> None:
    found = canaries(CanaryConfig(count=3000))
    numbers = [int(canary.secret.replace(" ", "")) for canary in found]
    assert all(len(canary.secret.split()) == 9 for canary in found)
    assert len(set(numbers)) == len(numbers)
    assert len({canary.prefix for canary in found}) == len(found)
    digits = Counter(digit for canary in found for digit in canary.secret.split())
    assert min(digits.values()) > 0.9 * 2700
    assert max(digits.values()) < 1.1 * 2700


def test_planted_ones_do_not_hide_that_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no document is left: too-short"):
        curated(tmp_path, CanaryConfig(count=3), "short")


def test_the_file_says_what_is_needed_to_measure(tmp_path: Path) -> None:
    _, corpus = curated(tmp_path, CanaryConfig(count=2, seed=3))
    said = json.loads((corpus.folder / CANARIES).read_text("utf-8"))
    assert (said["seed"], said["space"]) == (3, 10**9)
