"""The card of a mixture weighs its parts by what is read of them, is safe to open, and is the same each time."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_card import empty, full
from test_report import HOSTILE, Page

from underlay.data.curate.canaries import SOURCE
from underlay.data.curate.summary import Sample, Share, Summary
from underlay.evaluate.mixcard import MixData, PartData, write_mix_card


def part(name: str, licences: dict[str, int], tokens: int | None = None, read: int | None = None) -> PartData:
    shares = {one: Share(1, 1, size, size) for one, size in licences.items()}
    size = sum(licences.values())
    summary = replace(full().summary, found=Share(9, 6, 2 * size, size), licences=shares, languages={}, planted=0)
    return PartData(name, f"corpus:{name}@0", (f"{name}/*",), summary, tokens, read, read and read / (tokens or 1))


def written(folder: Path, *parts: PartData, name: str = "mixed", reference: str = "model:mixed@0") -> tuple[str, str]:
    page, text = write_mix_card(MixData(name, reference, parts), folder)
    return page.read_text("utf-8"), text.read_text("utf-8")


def rows_of(markdown: str) -> dict[str, list[str]]:
    """Cells of table rows by the first."""
    rows = (line.strip("| \n").split(" | ") for line in markdown.splitlines() if line.startswith("| "))
    return {name.strip(): [cell.strip(" |") for cell in cells] for name, *cells in rows}


def test_licences_are_weighed_by_what_was_read(tmp_path: Path) -> None:
    small = part("small", {"MIT": 500, "ISC": 500}, tokens=100, read=900)
    large = part("large", {"MIT": 9000}, tokens=900, read=100)
    rows = rows_of(written(tmp_path, small, large)[1])
    assert rows["small"] == ["6", "1 kB", "100", "10%", "90%", "9.00"]
    assert rows["large"] == ["6", "9 kB", "900", "90%", "10%", "0.11"]
    assert rows["MIT"] == ["9.5 kB", "95%", "55%"]
    assert rows["ISC"] == ["500 B", "5%", "45%"]


def test_without_a_run_tokens_weigh_and_without_tokens_bytes(tmp_path: Path) -> None:
    rows = rows_of(written(tmp_path, part("a", {"MIT": 100}, 75), part("b", {"ISC": 300}, 25))[1])
    assert rows["a"] == ["6", "100 B", "75", "25%", "75%"]
    assert rows["MIT"] == ["100 B", "25%", "75%"]
    page, text = written(tmp_path, part("a", {"MIT": 100}), part("b", {"ISC": 300}), reference="")
    rows = rows_of(text)
    assert rows["a"] == ["6", "100 B", "25%"]
    assert rows["MIT"] == ["100 B", "25%"]
    assert "tokens" not in Page(page).text
    assert "epochs" not in Page(page).text


@pytest.mark.parametrize(("tokens", "read"), [(None, None), (5, None), (5, 10)])
def test_tables_have_as_many_cells_as_columns(tmp_path: Path, tokens: int | None, read: int | None) -> None:
    _, text = written(tmp_path, part("a", {"MIT": 1}, tokens, read), part("b", {"MIT": 1}, tokens, read))
    tables = [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]
    assert len(tables) >= 6
    for table in tables:
        assert len({re.sub(r"\\\|", "", row).count("|") for row in table}) == 1, table
        assert set(table[1]) <= set("|-: ")


def test_what_was_planted_is_neither_kept_nor_shown(tmp_path: Path) -> None:
    planted = part("a", {"MIT": 10})
    samples = {"kept": [Sample("0" * 32, SOURCE, 1, "", "Canary 00"), Sample("1" * 32, "a/x", 1, "", "Real words")]}
    page, text = written(tmp_path, replace(planted, summary=replace(planted.summary, planted=2, samples=samples)))
    for card in (page, text):
        assert "Canary 00" not in card
        assert "Real words" in card
    assert rows_of(text)["documents kept"] == ["4 of 9 found"]
    assert rows_of(text)["Canaries planted"] == ["2 documents"]


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    hostile = PartData(HOSTILE, "corpus:a@0", (HOSTILE,), full(HOSTILE).summary, 5, 10, 2.0)
    page, text = written(tmp_path, hostile, replace(hostile, name="other"), name=HOSTILE)
    tags = Page(page).tags
    assert not {tag for tag, _ in tags} & {"script", "img", "iframe", "object", "embed", "form", "base", "image"}
    assert not [name for _, attrs in tags for name in attrs if name.startswith("on")]
    assert "alert(1)" in Page(page).text
    outside = [line for line in text.splitlines() if not line.startswith(("    ", "`corpus:"))]
    assert "&lt;script" in "".join(outside)
    assert "<script" not in "".join(outside)
    assert "https://" not in "".join(value or "" for _, attrs in tags for value in attrs.values())


def test_equal_figures_give_equal_bytes_in_any_order(tmp_path: Path) -> None:
    parts = [part("a", {"MIT": 3, "ISC": 3}, 5, 5), part("b", {"ISC": 3, "MIT": 3}, 5, 5)]
    assert written(tmp_path, *parts) == written(tmp_path, *reversed(parts))


def test_nothing_is_enough(tmp_path: Path) -> None:
    nothing: Summary = empty().summary
    page, text = written(tmp_path, PartData("", "", (), nothing))
    assert "nothing" in page
    assert "none stated" in text
