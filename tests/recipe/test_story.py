"""One document through everything: its story from any of its ids, and a library that forgets it, end to end."""

from pathlib import Path
from random import Random

import pytest
from test_recipe import Log

from underlay.data import Corpus, Dataset
from underlay.errors import UserError
from underlay.library import Artifact, Library
from underlay.recipe import read_recipe, run_recipe
from underlay.recipe.excluding import held, touched
from underlay.recipe.recipe import make_recipe
from underlay.recipe.steps import read_in
from underlay.recipe.story import alike, forget, forms_of, resolve, tell

SMALL = Path(__file__).parents[2] / "recipes" / "small.yaml"
QUICK = ("pretrain.train.steps=6", "adapt.train.steps=3", "pretrain.train.precision=float32")
TODAY = "2026-11-21"


def word(chance: Random) -> str:
    return "".join(chance.choices("aehinorst", k=6))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documented functions, one file with an address, and one that is nearly the same as another."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(24):
        chance = Random(number)
        parts = [
            f'def {word(chance)}({word(chance)}):\n    """Work {word(chance)} out of {word(chance)}."""\n'
            f"    {word(chance)} = {word(chance)}\n    {word(chance)}({word(chance)})\n    return {word(chance)}\n"
            for _ in range(36)
        ]
        (folder / f"{number:02d}.py").write_text("\n\n".join(parts))
    (folder / "03.py").write_text("# Written by jane@example.org\n\n" + (folder / "03.py").read_text())
    (folder / "copy.py").write_text((folder / "05.py").read_text() + "\n# and one line more\n")
    return folder


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("library"))


def run(library: Library, source: Path, *more: str) -> tuple[dict[str, Artifact], Log]:
    log = Log()
    return run_recipe(read_recipe(SMALL, [*QUICK, *more], [str(source)]), library, log), log


@pytest.fixture(scope="module")
def made(library: Library, source: Path) -> dict[str, Artifact]:
    return run(library, source)[0]


def id_of(corpus: Artifact, name: str) -> str:
    return next(one.id for one in Corpus(corpus.folder) if one.source.endswith(name))


def test_the_story_is_the_same_from_any_id(made: dict[str, Artifact], library: Library) -> None:
    raw, changed = id_of(made["gather"], "03.py"), id_of(made["curate"], "03.py")
    assert raw != changed
    assert forms_of(library, raw) == forms_of(library, changed) == (raw, changed)
    one, other = tell(library, raw[:12]), tell(library, changed.upper())
    assert (one.forms, one.standings, one.decisions, one.models) == (
        other.forms,
        other.standings,
        other.decisions,
        other.models,
    )
    assert {standing.corpus: standing.id for standing in one.standings} == {
        made["gather"].reference: raw,
        made["curate"].reference: changed,
    }
    first = next(standing for standing in one.standings if standing.id == raw)
    assert (first.source.rsplit("/", 1)[1], first.first_line, first.offset) == ("03.py", 1, 0)
    assert "jane@example.org" not in str(one.to_dict())
    (decision,) = one.decisions
    assert (decision.decision, decision.reason, decision.id, decision.other) == ("change", "private-data", raw, changed)
    (figures,) = one.figures
    assert figures.attributes == made["tag"].reference
    assert figures.figures["privacy.found"] == 1
    assert figures.figures["text.bytes"] == first.bytes


def test_it_knows_the_tokens_the_steps_and_the_pairs(made: dict[str, Artifact], library: Library) -> None:
    dataset = Dataset(made["pack"].folder)
    document = dataset.document(len(dataset.ids) // 2)
    story = tell(library, document.id)
    (packed,) = story.datasets
    assert (packed.split, packed.start, packed.end) == ("train", document.start, document.end)
    learned = {one.model: one for one in story.models}
    base, adapted = learned[made["pretrain"].reference], learned[made["adapt"].reference]
    steps = [
        step
        for step in range(1, 7)
        if document.id in {read.document for read in read_in(library, made["pretrain"], step).documents}
    ]
    assert list(base.steps) == steps
    assert base.exact
    assert len(steps) <= base.times
    assert adapted.times == 36  # functions in a file
    names = [reference for reference, _ in story.made_of_it]
    assert {made[stage].reference for stage in made} == set(names)
    assert names.index(made["gather"].reference) < names.index(made["report"].reference)


def test_what_is_held_out_was_not_read(made: dict[str, Artifact], library: Library) -> None:
    story = tell(library, Dataset(made["pack"].folder, "heldout").ids[0])
    assert [one.split for one in story.datasets] == ["heldout"]
    assert story.models == ()


def test_near_duplicates_name_each_other(made: dict[str, Artifact], library: Library) -> None:
    copy, five = id_of(made["gather"], "copy.py"), id_of(made["gather"], "05.py")
    stays = {one.id for one in Corpus(made["curate"].folder)}
    gone, kept = (five, copy) if copy in stays else (copy, five)
    (decision,) = tell(library, gone).decisions
    assert (decision.about, decision.reason, decision.other) == (True, "near-duplicate", kept)
    (decision,) = tell(library, kept).decisions
    assert (decision.about, decision.id) == (False, gone)
    assert set(alike(library, [kept])) == {gone}
    assert set(alike(library, [gone])) == {kept}


@pytest.mark.parametrize(
    ("id_", "complaint"), [("xyz", "no id"), ("abc", "no id"), ("0" * 32, "no document with such")]
)
def test_ids_that_are_none(made: dict[str, Artifact], library: Library, id_: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        tell(library, id_)


def test_an_id_with_two_meanings_is_refused(
    made: dict[str, Artifact], library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("underlay.recipe.story._LEAST_DIGITS", 1)
    with pytest.raises(UserError, match=r"ids begin so, such as .* give more digits"):
        resolve(library, id_of(made["gather"], "03.py")[:1])


def test_a_dry_run_writes_nothing(made: dict[str, Artifact], library: Library) -> None:
    found = forget(library, [id_of(made["gather"], "03.py")], "", TODAY, write=False)
    assert len(found.exclusions) == 1
    assert library.exclusions() == []


def test_a_library_forgets_from_source_to_model(source: Path, tmp_path: Path) -> None:
    library = Library(tmp_path / "library")
    before, _ = run(library, source)
    raw, changed = id_of(before["gather"], "03.py"), id_of(before["curate"], "03.py")
    found = forget(library, [changed[:16]], "she asked", TODAY)
    assert library.exclusions() == list(found.exclusions)
    assert found.exclusions[0].forms == (raw, changed)
    why = {one.artifact.reference: one.why for one in found.touched}
    assert set(why) == {artifact.reference for artifact in before.values()}
    assert (
        why[before["gather"].reference]
        == why[before["curate"].reference]
        == why[before["pack"].reference]
        == "holds it"
    )
    assert why[before["tag"].reference] == "holds what was found of it"
    assert why[before["tokenizer"].reference] == f"was made from {before['curate'].reference}"

    after, log = run(library, source)
    assert not any(log.reused.values())
    for artifact in after.values():
        assert not held(artifact, {raw, changed})
    (entry,) = [entry for entry in Corpus(after["gather"].folder).ledger() if entry.reason == "excluded"]
    assert (entry.id, entry.decision) == (raw, "drop")
    old = {artifact.reference for artifact in before.values()}
    assert {one.artifact.reference for one in touched(library, {raw, changed})} == old
    _, log = run(library, source)
    assert all(log.reused.values())
    assert tell(library, raw).exclusion == found.exclusions[0]
    assert forget(library, [raw], "again", TODAY).already == (raw,)
    assert len(library.exclusions()) == 1


def test_what_holds_an_excluded_document_is_not_learned_from(source: Path, tmp_path: Path) -> None:
    library = Library(tmp_path / "library")
    recipe = read_recipe(SMALL, QUICK, [str(source)])
    made = run_recipe(recipe, library, Log(), until="pack")
    forget(library, [id_of(made["gather"], "07.py")], "", TODAY)
    # Curating an old corpus anew leaves the document out, learning from what is old is refused.
    corpus, attributes = made["gather"].reference, made["tag"].reference
    stage = {"corpus": corpus, "attributes": attributes}
    log = Log()
    curated = run_recipe(make_recipe({"name": "small", "stages": {"curate": stage}}, "test"), library, log)["curate"]
    assert log.reused == {"curate": False}
    assert [e.reason for e in Corpus(curated.folder).ledger() if e.source.endswith("07.py")] == ["excluded"]
    old, tokenizer = made["curate"].reference, made["tokenizer"].reference
    for stages, complaint in (
        ({"tokenizer": {"corpus": old, "vocabulary": 400}}, "it holds an excluded document"),
        (
            {"pack": {"corpus": curated.reference, "tokenizer": tokenizer}},
            "it was made from corpus:small@.*, which holds",
        ),
        ({"pretrain": {"dataset": made["pack"].reference, "train": {"steps": 1}}}, "it holds an excluded document"),
    ):
        with pytest.raises(UserError, match=complaint):
            run_recipe(make_recipe({"name": "other", "stages": stages}, "test"), library, Log())


def test_an_exclusion_leaves_the_rest_of_a_library_alone(source: Path, tmp_path: Path) -> None:
    library = Library(tmp_path / "library")
    other = tmp_path / "other"
    other.mkdir()
    for number in range(12):
        chance = Random(number)
        lines = [" ".join(word(chance) for _ in range(9)) for _ in range(30)]
        (other / f"{number}.txt").write_text("\n".join(lines))
    recipe = read_recipe(SMALL, ["name=other", "gather.name=other-raw"], [str(other)])
    run_recipe(recipe, library, Log(), until="pack")
    made, _ = run(library, source, "pretrain.train.steps=1")
    forget(library, [id_of(made["gather"], "07.py")], "", TODAY)
    log = Log()
    run_recipe(recipe, library, log, until="pack")
    assert all(log.reused.values())


def test_those_that_are_alike_go_too_where_asked(made: dict[str, Artifact], library: Library) -> None:
    copy, five = id_of(made["gather"], "copy.py"), id_of(made["gather"], "05.py")
    found = forget(library, [copy], "", TODAY, write=False)
    assert set(found.alike) == {five}
    both = forget(library, [copy], "", TODAY, with_alike=True, write=False)
    assert {one.id for one in both.exclusions} == {copy, five}
    assert both.alike == {}
