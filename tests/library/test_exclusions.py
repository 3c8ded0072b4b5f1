"""Exclusions: what must stay out is never forgotten silently, and decides about reuse."""

from pathlib import Path

import pytest

from underlay.errors import UserError
from underlay.library import Draft, Exclusion, Library, Order

ONE, TWO = "1" * 32, "2" * 32


def exclusion(id_: str, *forms: str) -> Exclusion:
    return Exclusion(id=id_, forms=(id_, *forms), source="a.txt:1", date="2026-11-21", reason="asked for")


def test_they_are_kept_in_their_order_with_all_forms(tmp_path: Path) -> None:
    library = Library(tmp_path)
    assert library.exclusions() == []
    library.exclude([exclusion(ONE, TWO)])
    library.exclude([exclusion("3" * 32)])
    assert [one.id for one in Library(tmp_path).exclusions()] == [ONE, "3" * 32]
    assert library.excluded() == {ONE, TWO, "3" * 32}
    assert list(library.verify()) == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("{", "not JSON"), ("[]", "expected keys"), ('{"id": "x"}', "id"), ('{"id": "' + ONE + '"}', "forms")],
)
def test_a_damaged_list_is_an_error(tmp_path: Path, line: str, complaint: str) -> None:
    library = Library(tmp_path)
    library.exclude([exclusion(ONE)])
    path = tmp_path / "exclusions.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=rf"line 2: .*{complaint}"):
        library.excluded()


def test_what_may_not_be_used_is_made_again(tmp_path: Path) -> None:
    library, order, made = Library(tmp_path), Order("corpus", "c", "gather", {}), []

    def work(draft: Draft) -> None:
        made.append(1)
        (draft.folder / "file").write_text(str(len(made)))

    first = library.make(order, work).artifact
    assert library.make(order, work).reused
    second = library.make(order, work, usable=lambda artifact: artifact != first)
    assert not second.reused
    assert library.find("corpus:c") == second.artifact != first
    again = library.make(order, work, usable=lambda artifact: artifact != first)
    assert again.reused
    assert again.artifact == second.artifact
