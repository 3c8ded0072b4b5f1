"""All pages stand in one frame: they begin alike, and their tables keep to the columns that narrow screens count on."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import test_card
import test_report

from underlay.evaluate.mixcard import MixData, PartData, write_mix_card


class Tables(HTMLParser):
    """For each table with bars: the figures that it says it has, and the cells of each of its rows."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[tuple[int, list[list[str]]]] = []
        self._inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        if tag == "table":
            self._inside = "bars" in known["class"].split()
            if self._inside:
                self.tables.append((int(known["style"].removeprefix("--figures: ")), []))
        elif self._inside and tag == "tr":
            self.tables[-1][1].append([])
        elif self._inside and tag in ("td", "th"):
            self.tables[-1][1][-1].append(known.get("class", ""))


@pytest.fixture
def pages(tmp_path: Path) -> list[str]:
    part = PartData("a", "corpus:a@0", ("a",), test_card.full().summary, 5, 10, 2.0)
    mixed, _ = write_mix_card(MixData("mixed", "model:mixed@0", (part, part)), tmp_path)
    page = mixed.read_text("utf-8")
    return [page, test_card.write(test_card.full(), tmp_path)[0], test_report.write(test_report.full(), tmp_path)]


def test_pages_begin_alike(pages: list[str]) -> None:
    assert all(page.startswith("<!doctype html>\n") for page in pages)
    assert len({page.partition("<title>")[0] for page in pages}) == 1
    assert len({page.partition("<style>")[2][:6000] for page in pages}) == 1
    assert [re.findall("<title>(.*)</title>", page) for page in pages] == [
        ["mixed: data card"],
        ["plain: data card"],
        ["plain: report"],
    ]


def test_links_at_the_top_lead_to_all_sections_in_order(pages: list[str]) -> None:
    for page in pages:
        links = re.findall('href="#([^"]+)"', page.partition("<nav")[2].partition("</nav>")[0])
        assert links
        assert links == re.findall('<section id="([^"]+)"', page)


def test_rows_have_a_name_a_bar_and_the_figures_that_the_table_tells(pages: list[str]) -> None:
    for page in pages:
        tables = Tables(page).tables
        assert len(tables) > 2
        for figures, rows in tables:
            assert rows
            for row in rows:
                assert row[:2] == ["", "wide-cell"]
                assert row[2 : 2 + figures] == ["n"] * figures
                assert row[2 + figures :] in ([], ["made"])
