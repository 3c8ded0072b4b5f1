"""Which licence a file is under: an SPDX header in the file itself, else the nearest licence file above it."""

import os
import re
from pathlib import Path

from underlay.data.document import NO_LICENCE

_SPDX = re.compile(r"SPDX-License-Identifier:\s*([A-Za-z0-9.+-]+(?: (?:OR|AND|WITH) [A-Za-z0-9.+-]+)*)")
_NAMES = ("LICENSE", "LICENCE", "COPYING")
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


def licence_of_text(text: str) -> str | None:
    """The SPDX identifier that the text's first 4,000 characters state, if any."""
    match = _SPDX.search(text[:4000])
    return match[1] if match else None


def licence_of_folder(folder: Path, root: Path) -> str:
    """The licence stated by the nearest licence file in `folder` or above it, up to `root`; else NOASSERTION."""
    for path in sorted(_licence_files(folder)):
        text = _start_of(path)
        for identifier, phrase in _PHRASES:
            if phrase in text:
                return identifier
    if folder == root or root not in folder.parents:
        return NO_LICENCE
    return licence_of_folder(folder.parent, root)


def _licence_files(folder: Path) -> list[Path]:
    return [Path(entry) for entry in os.scandir(folder) if entry.name.upper().startswith(_NAMES) and entry.is_file()]


def _start_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(65536).decode("utf-8", errors="replace")
    except OSError:
        return ""  # a licence nobody can read states nothing
