"""Word lists: what is counted, and what is no list."""

from pathlib import Path

import pyarrow as pa
import pytest

from underlay.data.curate.harm import WordLists, fingerprint
from underlay.data.curate.texts import Texts
from underlay.errors import UserError


def test_words_of_several_lists_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("dratted\nblasted fool\n\n", "utf-8")
    (tmp_path / "b").write_text("zut\r\n", "utf-8")
    lists = WordLists((str(tmp_path / "a"), str(tmp_path / "b")))
    assert lists.count(Texts(pa.array(["Zut! That DRATTED, blasted   fool.", "a fool", ""]))).tolist() == [3, 0, 0]


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read"), ("\n --\n", "holds no word")])
def test_what_is_no_list_is_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "list").write_text(content, "utf-8")
    with pytest.raises(UserError, match=message):
        WordLists((str(tmp_path / "list"),))


def test_the_fingerprint_is_of_the_words_not_of_where_they_stand(tmp_path: Path) -> None:
    for name, content in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).write_text(content, "utf-8")
    one, same, other = (fingerprint((str(tmp_path / name),)) for name in "abc")
    assert one == same != other
