"""The data card must be safe to open, the same each time, and whole, however little there is to show."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from test_report import HOSTILE, Page

from underlay.data.curate.summary import Cluster, Drop, Sample, Share, Summary
from underlay.data.curate.terms import GENDERED, REGIONAL
from underlay.evaluate.card import PAGE, TEXT, CardData, write_card
from underlay.evaluate.columns import Column, draw_columns

ID = "0123456789ab" + "c" * 20


def full(text: str = "plain") -> CardData:
    share = Share(10, 7, 1000, 700)
    shares = {text: share, "other": Share(3, 3, 30, 30)}
    summary = Summary(
        found=Share(13, 10, 1030, 730),
        drops=(
            Drop("binary", "", text, 1, 5),
            Drop(text, "gopher.words >= 50", "", 2, 295),
            Drop("nobody", f'a == "{text}"', "", 0, 0),
        ),
        changes={text: 2},
        private={text: 4, "EMAIL": 1},
        sizes={6: share, 9: Share(3, 3, 30, 30), 21: Share(1, 0, 1 << 21, 0)},
        kinds=shares,
        licences=shares,
        places={**shares, **{f"{text}/{n}": Share(1, 1, 1, 1) for n in range(20)}},
        years={"1999": share, "2003": share, "unknown": share},
        languages=shares,
        terms={name: Share(n, n) for n, name in enumerate((*GENDERED, *REGIONAL))},
        terms_in=share,
        copies={"duplicate": 3, "near-duplicate": 1},
        clusters=2,
        largest=(Cluster(ID, text, 3), Cluster(ID, "", 1)),
        samples={
            text: [Sample(ID, text, 3, text, f"{text}\n{'w' * 10_000}\n```\n# no heading\n{text}")],
            "kept": [Sample(ID, text, 1, "", text)],
        },
    )
    return CardData(
        text, "corpus:raw@0123", (text, "b"), {"presets": ["basic"], "rules": {text: text}}, {"x": None}, summary
    )


def empty() -> CardData:
    nothing = Summary(Share(), (), {}, {}, {}, {}, {}, {}, {}, {}, {}, Share(), {}, 0, ())
    return CardData("", "", (), {}, {}, nothing)


def write(data: CardData, folder: Path) -> tuple[str, str]:
    write_card(data, folder)
    return (folder / PAGE).read_text("utf-8"), (folder / TEXT).read_text("utf-8")


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    html, markdown = write(full(HOSTILE), tmp_path)
    page = Page(html)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "iframe", "object", "embed", "form", "base", "image", "foreignobject"}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "alert(1)" in page.text
    assert "{{ 7*7 }} {% raw %} &amp;" in page.text
    for text in (html, markdown):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e]", text)
    outside = [line for line in markdown.split("\n") if not line.startswith("    ")]
    bare = [re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", line) for line in outside]  # without spans of code
    assert not [line for line in bare if re.search(r"<script|<img|<svg", line)]


def test_markdown_keeps_its_form_whatever_the_texts(tmp_path: Path) -> None:
    _, markdown = write(full(HOSTILE + " | a | b `x` ``y`` [l](javascript:1) # *"), tmp_path)
    _, calm = write(full(), tmp_path)

    def shape(text: str) -> list[str]:
        lines = [line for line in text.split("\n") if not line.startswith("    ")]
        return [line[:1] * (line[:1] in "#-|>+") + str(len(re.findall(r"(?<!\\)\|", line))) for line in lines]

    assert shape(markdown) == shape(calm)
    lines = [line for line in markdown.split("\n") if not line.startswith("    ")]
    assert not re.search(r"(?<!\\)\]\(javascript", re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", "\n".join(lines)))


def test_nothing_is_asked_of_other_hosts(tmp_path: Path) -> None:
    html, _ = write(full(HOSTILE), tmp_path)
    page = Page(html)
    assert not [attrs for _, attrs in page.tags if "src" in attrs]
    links = [attrs["href"] or "" for _, attrs in page.tags if "href" in attrs]
    assert all(link.startswith(("#", "data:,")) for link in links)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert "default-src 'none'" in html
    assert "url(" not in html
    assert "@import" not in html


def test_equal_figures_give_equal_bytes(tmp_path: Path) -> None:
    assert write(full(), tmp_path) == write(full(), tmp_path)


def test_figures_stand_in_both(tmp_path: Path) -> None:
    html, markdown = write(full(), tmp_path)
    text = " ".join(Page(html).text.split())
    assert "10 documents of 13 stay." in text
    assert "**10 documents of 13 stay**, 730 B of 1.03 kB" in markdown
    assert "gopher.words >= 50" in text
    assert "| plain | `gopher.words >= 50` | 2 | 15% | 295 B |" in markdown
    assert "10 others" in text
    assert "underlay data why 0123456789ab" in text
    assert "--what-if 'plain=gopher.words >= 50'" in text
    assert "2 stay in their place" in text
    for year in ("1999", "2003"):
        assert year in text


def test_next_to_nothing_is_shown_too(tmp_path: Path) -> None:
    html, markdown = write(empty(), tmp_path)
    text = " ".join(Page(html).text.split())
    for words in ("No document states a date.", "Nothing was masked.", "Nothing was dropped.", "did not run"):
        assert words in text
    assert "None" not in text
    assert "No document states a date." in markdown
    one = replace(empty(), summary=replace(empty().summary, years={"2001": Share(1, 1)}, sizes={3: Share(1, 1)}))
    assert "2001" in Page(write(one, tmp_path)[0]).text


def test_planted_documents_are_told(tmp_path: Path) -> None:
    data = full()
    html, markdown = write(replace(data, summary=replace(data.summary, planted=7)), tmp_path)
    assert "7 documents were planted" in " ".join(Page(html).text.split())
    assert "7 documents were planted" in markdown


@pytest.mark.parametrize("count", [1, 2, 11, 80])
def test_columns_stay_in_their_picture(count: int) -> None:
    for svg in draw_columns([Column(f"<{n}>", 10 * n, n) for n in range(count)]).values():
        width, height = map(float, re.findall(r'viewBox="0 0 (\d+) (\d+)"', svg)[0])
        boxes = re.findall(r'x="([-\d.]+)" y="([-\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg)
        assert len(boxes) == 2 * (count - 1)
        for x, y, wide, tall in (map(float, box) for box in boxes):
            assert x >= 0
            assert x + wide <= width
            assert y >= 0
            assert y + tall <= height
        assert "<0>" not in svg
        places = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="\d+" text-anchor', svg)]
        assert all(b - a > 20 for a, b in pairwise(places))
