"""Which licence a document is under, as an SPDX identifier (https://spdx.org/licenses).

What the document says itself counts first: a field of a record, an SPDX header, a link in a page. Then comes what the
nearest licence file above it says, or the card of a data set.
"""

import json
import re
from collections.abc import Iterable

from underlay.data.document import NO_LICENCE

_SPDX = re.compile(r"SPDX-License-Identifier:\s*([A-Za-z0-9.+-]+(?: (?:OR|AND|WITH) [A-Za-z0-9.+-]+){0,20})")
_NAMES = ("LICENSE", "LICENCE", "COPYING")
LICENCE_BYTES = 1 << 16
"""So much of a file that may state a licence is read."""
_DEEPEST = 100
_CARDS = ("dataset_info.json", "README.md")
# Sentences that stand in one licence's text and in no other's, the more specific first.
_PHRASES = (
    ("PSF-2.0", "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2"),
    ("Apache-2.0", "Apache License, Version 2.0"),
    ("Apache-2.0", "Apache License\n                           Version 2.0"),
    ("AGPL-3.0-only", "GNU AFFERO GENERAL PUBLIC LICENSE"),
    ("LGPL-3.0-only", "GNU LESSER GENERAL PUBLIC LICENSE\n                       Version 3"),
    ("GPL-3.0-only", "GNU GENERAL PUBLIC LICENSE\n                       Version 3"),
    ("GPL-2.0-only", "GNU GENERAL PUBLIC LICENSE\n                       Version 2"),
    ("MPL-2.0", "Mozilla Public License Version 2.0"),
    ("MIT", "Permission is hereby granted, free of charge, to any person obtaining a copy"),
    ("ISC", "Permission to use, copy, modify, and/or distribute this software for any"),
    ("BSD-3-Clause", "may be used to endorse or promote products"),
    ("BSD-2-Clause", "Redistributions in binary form must reproduce the above copyright"),
    ("CC0-1.0", "CC0 1.0 Universal"),
    ("CC-BY-4.0", "Creative Commons Attribution 4.0 International"),
    ("CC-BY-SA-4.0", "Creative Commons Attribution-ShareAlike 4.0 International"),
    ("Unlicense", "This is free and unencumbered software released into the public domain"),
)
# Identifiers as they are spelled; data sets write them in small letters.
_SPELLED = [
    "MIT",
    "ISC",
    "Unlicense",
    "Zlib",
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "MPL-2.0",
    "PSF-2.0",
    "EPL-2.0",
    "BSL-1.0",
    "WTFPL",
    "AFL-3.0",
    "GPL-2.0-only",
    "GPL-3.0-only",
    "LGPL-3.0-only",
    "AGPL-3.0-only",
    "GPL-2.0",
    "GPL-3.0",
    "LGPL-2.1",
    "LGPL-3.0",
    "AGPL-3.0",
    "GFDL-1.3",
    "CC0-1.0",
    "CC-BY-2.0",
    "CC-BY-2.5",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-SA-2.0",
    "CC-BY-SA-2.5",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "CC-BY-NC-2.0",
    "CC-BY-NC-3.0",
    "CC-BY-NC-4.0",
    "CC-BY-NC-SA-2.0",
    "CC-BY-NC-SA-3.0",
    "CC-BY-NC-SA-4.0",
    "CC-BY-ND-4.0",
    "CC-BY-NC-ND-3.0",
    "CC-BY-NC-ND-4.0",
    "ODbL-1.0",
    "ODC-By-1.0",
    "PDDL-1.0",
    "CDLA-Sharing-1.0",
    "CDLA-Permissive-1.0",
    "CDLA-Permissive-2.0",
    "NOASSERTION",
]
_SPELLING = {name.lower(): name for name in _SPELLED} | {"odc-by": "ODC-By-1.0", "odbl": "ODbL-1.0", "pddl": "PDDL-1.0"}
_CREATIVE = re.compile(
    r"creativecommons\.org/(?:licenses/(by(?:-nc)?(?:-nd|-sa)?)/(\d\.\d)|publicdomain/(zero)/1\.0)", re.IGNORECASE
)
_TAG = re.compile(r"<(?:a|link)\s[^<>]{0,1000}>", re.IGNORECASE)
_IS_LICENCE = re.compile(r"\brel\s*=\s*[\"']?[^\"'>]{0,100}\blicense\b", re.IGNORECASE)
_FRONT_MATTER = re.compile(r"^license:[ \t]*[\"']?([\w.+-]{1,60})", re.MULTILINE)


def licence_of_text(text: str) -> str | None:
    """The SPDX identifier that the text's first 4,000 characters state, if any."""
    match = _SPDX.search(text[:4000])
    return match[1] if match else None


def licence_of_page(html: str) -> str | None:
    """The licence that a page's links marked `rel="license"` lead to, or its SPDX header states."""
    for tag in _TAG.finditer(html):
        if _IS_LICENCE.search(tag[0]) and (found := _creative_commons(tag[0])):
            return found
    return licence_of_text(html)


def spdx(stated: str) -> str:
    """What a record's field says, as an SPDX identifier where it is known as one; else as it is, cut where it is
    long."""
    words = " ".join(stated.split())[:100].encode("utf-8", "replace").decode()
    return _SPELLING.get(words.lower().replace(" ", "-")) or _creative_commons(words) or words or NO_LICENCE


def _creative_commons(text: str) -> str | None:
    match = _CREATIVE.search(text)
    if not match:
        return None
    return "CC0-1.0" if match[3] else f"CC-{match[1].upper()}-{match[2]}"


def states_licence(name: str) -> bool:
    """Whether a file of this name may say what its neighbours are under."""
    return name.upper().startswith(_NAMES) or name in _CARDS


def licence_of_files(files: Iterable[tuple[str, bytes]]) -> str | None:
    """What the licence files of one folder, with the beginnings of their texts, say."""
    for name, start in sorted(files):
        text = start.decode("utf-8", errors="replace")
        if name == "dataset_info.json":
            found = _of_info(text)
        elif name == "README.md":
            head = text[4 : text.find("\n---", 4)] if text.startswith("---\n") else ""
            match = _FRONT_MATTER.search(head)
            found = spdx(match[1]) if match else None
        else:
            found = next((identifier for identifier, phrase in _PHRASES if phrase in text), None)
        if found:
            return found
    return None


class ArchiveLicences:
    """What each folder of an archive is under: by its own files, or those of the nearest folder around it."""

    def __init__(self, otherwise: str) -> None:
        """`otherwise`: what the archive itself is under."""
        self._otherwise = otherwise
        self._stated: dict[str, tuple[str, str]] = {}

    def add(self, member: str, start: bytes) -> None:
        """Take the beginning of a member that may state a licence; of several in a folder the first by name counts."""
        folder, _, name = member.strip("/").rpartition("/")
        if found := licence_of_files([(name, start)]):
            self._stated[folder] = min(self._stated.get(folder, (name, found)), (name, found))

    def of(self, member: str) -> str:
        """What a member is under. Of folders within more than a hundred others only the outer ones are looked at."""
        folders = member.strip("/").split("/", _DEEPEST)[:_DEEPEST][:-1] if self._stated else []
        while folders:
            if stated := self._stated.get("/".join(folders)):
                return stated[1]
            folders.pop()
        return self._stated.get("", ("", self._otherwise))[1]


def _of_info(text: str) -> str | None:
    try:
        info = json.loads(text)
    except (ValueError, RecursionError):
        return None
    stated = info.get("license") if isinstance(info, dict) else None
    return spdx(stated) if isinstance(stated, str) and stated.strip() else None
