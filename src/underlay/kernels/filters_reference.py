"""What `filters` measures, said with strings, sets and regular expressions: slow, plain, and what tests compare it
with."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from underlay.kernels.characters import (
    ALNUM,
    DASH,
    DIGIT,
    EDGE,
    ICON,
    IDEOGRAPH,
    LETTER,
    LOWER,
    MONEY,
    PUNCTUATION,
    QUOTE,
    TERMINAL,
    UPPER,
    folds,
    kinds,
)
from underlay.kernels.gopher import STOP_WORDS
from underlay.kernels.lines import POLICIES
from underlay.kernels.words import ABBREVIATIONS, UNITS

_CONTRACTION = re.compile(r"(?<=.)(?:n['’]t|['’](?:d|m|ll|re|ve))$", re.IGNORECASE | re.ASCII | re.DOTALL)
_CITATION = re.compile(r"\[[0-9]*\]|\[edit\]|\[citation needed\]")


def _is(char: str, bits: Any) -> bool:
    return bool(kinds()[ord(char)] & bits)


# --- Words --------------------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """What `words.split` finds."""
    return [word for chunk in text.split() for word in _of_chunk(chunk)]


def _of_chunk(chunk: str) -> list[str]:
    if all(_is(char, LETTER) for char in chunk):
        return [chunk]
    front: list[str] = []
    back: list[str] = []
    while chunk:
        if _is_kept(chunk):
            return [*front, chunk, *back]
        if taken := _prefix(chunk):
            front.append(chunk[:taken])
            chunk = chunk[taken:]
        elif taken := _suffix(chunk):
            back.insert(0, chunk[-taken:])
            chunk = chunk[:-taken]
        else:
            break
    return [*front, *(_middle(chunk) if chunk else []), *back]


def _is_kept(chunk: str) -> bool:
    if chunk[0] in "'’":
        return chunk[1:] in ("s", "S", "d", "ll", "re")
    return chunk == "and/or" or (
        chunk.endswith(".")
        and ((len(chunk) == 2 and _is(chunk[0], LETTER)) or (len(chunk) < 8 and chunk in ABBREVIATIONS))
    )


def _prefix(chunk: str) -> int:
    dots = len(chunk) - len(chunk.lstrip("."))
    if dots > 1:
        return dots
    if chunk[0] == "+":
        return int(not (len(chunk) > 1 and _is(chunk[1], DIGIT)))
    if _is(chunk[0], EDGE | QUOTE | MONEY | ICON) or chunk[0] in "§%=—–":
        return 1
    return 3 if chunk.startswith("US$") else 0


def _suffix(chunk: str) -> int:
    last, before = chunk[-1], chunk[-2:-1]
    if last == ".":
        dots = len(chunk) - len(chunk.rstrip("."))
        if dots > 1:
            return dots
        if before and (_is(before, LOWER | DIGIT | QUOTE) or before in "%²-+)"):
            return 1
        return int(len(chunk) > 2 and _is(before, UPPER) and _is(chunk[-3], UPPER))
    if _is(last, EDGE | QUOTE | ICON) or last in "—–":
        return 1
    if before and _is(before, DIGIT) and (last == "+" or _is(last, MONEY)):
        return 1
    if len(chunk) > 2 and chunk[-2:] in ("'s", "'S", "’s", "’S"):
        return 2
    for taken in range(1, min(5, len(chunk))):
        if _is(chunk[-taken - 1], DIGIT):
            return taken if chunk[-taken:] in UNITS else 0
    return 0


def _is_address(chunk: str) -> bool:
    if "://" in chunk[:-1] and chunk.index("://") < len(chunk) - 2:
        return True
    for match in re.finditer(r"\.", chunk):
        at = match.start()
        if at == 0 or at + 2 >= len(chunk) or not all(_is(char, LOWER) for char in chunk[at + 1 : at + 3]):
            continue
        host = re.split(r"[/:?]", chunk[at + 1 :])[0]
        if all(_is(char, LOWER) or char in ".-" for char in host):
            return True
    return False


def _middle(chunk: str) -> list[str]:
    if _is_address(chunk):
        return [chunk]
    found: list[str] = []
    word, at = 0, 1
    while at < len(chunk) - 1:
        if length := _infix(chunk, at):
            found += [chunk[word:at], chunk[at : at + length]]
            at += length
            word = at
        at += 1
    rest = chunk[word:]
    if match := _CONTRACTION.search(rest):
        return [*found, rest[: match.start()], rest[match.start() :]]
    return [*found, rest] if rest else found


def _infix(chunk: str, at: int) -> int:
    char, before, after = chunk[at], chunk[at - 1], chunk[at + 1]
    if _is(char, LETTER):
        return 0
    if char == ".":
        dots = len(chunk[at:]) - len(chunk[at:].lstrip("."))
        if dots > 1:
            return dots
        return int(_is(before, LOWER | QUOTE) and _is(after, UPPER | QUOTE))
    if char == "…" or _is(char, ICON):
        return 1
    if char in "+-*^" and _is(before, DIGIT) and (_is(after, DIGIT) or after == "-"):
        return 1
    if char == ",":
        return int(_is(before, LETTER) and _is(after, LETTER))
    if _is(char, DASH):
        length = 1
        while length < 3 and at + length < len(chunk) - 1 and chunk[at + length] == char == "-":
            length += 1
        return length if _is(before, LETTER | DIGIT) and _is(chunk[at + length], LETTER) else 0
    if char in ":<>=/":
        return int(_is(before, LETTER | DIGIT) and _is(after, LETTER))
    return 0


# --- Filters ------------------------------------------------------------------------------------------------------


def plain(text: str) -> dict[str, float]:
    """The columns of TEXT."""
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    visible = sum(not char.isspace() for char in text)
    total = sum(map(len, lines))
    return {
        "characters": len(text.strip()),
        "longest_line": max(map(len, lines), default=0),
        "mean_line": total / max(1, len(lines)),
        "letters": sum(_is(char, ALNUM) for char in text) / max(1, visible),
        "repeated_lines": _copies(lines)[1] / max(1, total),
        "control": sum(ord(char) < 32 and char not in "\t\n\r\f" for char in text) / max(1, len(text)),
    }


def gopher(text: str) -> dict[str, float]:
    """The columns of GOPHER."""
    found = words(text)
    n, size = max(1, len(found)), max(1, len(text))
    symbols = [word for word in found if any(not _is(char, PUNCTUATION) for char in word)]
    lines = [line.strip() for line in text.splitlines()]
    paragraphs = _copies(re.split(r"\n{2,}", text.strip()))
    all_lines = _copies(re.split(r"\n+", text))
    measures = {
        "words": len(symbols),
        "word_length": sum(map(len, symbols)) / max(1, len(symbols)),
        "hashes": text.count("#") / n,
        "ellipses": (text.count("...") + text.count("…")) / n,
        "bullet_lines": sum(line.startswith(("•", "-")) for line in lines) / max(1, len(lines)),
        "ellipsis_lines": sum(line.endswith(("...", "…")) for line in lines) / max(1, len(lines)),
        "letter_words": sum(any(_is(char, LETTER) for char in word) for word in found) / n,
        "stop_words": len(set(found) & set(STOP_WORDS)),
        "paragraph_copies": paragraphs[0],
        "paragraph_copied": paragraphs[1] / size,
        "line_copies": all_lines[0],
        "line_copied": all_lines[1] / size,
    }
    for gram in (2, 3, 4):
        counts = Counter(tuple(found[at : at + gram]) for at in range(len(found) - gram + 1))
        top = counts.most_common(1)
        measures[f"top_{gram}gram"] = sum(len(" ".join(one)) * count for one, count in top) / size
    for gram in range(5, 11):
        seen: set[tuple[str, ...]] = set()
        at = copied = 0
        while at < len(found) - gram + 1:
            run = tuple(found[at : at + gram])
            if run in seen:
                copied += sum(map(len, run))
                at += gram
            else:
                seen.add(run)
                at += 1
        measures[f"copied_{gram}grams"] = copied / size
    return measures


def _copies(pieces: Sequence[str]) -> tuple[float, int]:
    """Share of pieces that stood there before, and their characters."""
    seen: set[str] = set()
    copies = copied = 0
    for piece in pieces:
        if piece in seen:
            copies += 1
            copied += len(piece)
        seen.add(piece)
    return copies / max(1, len(pieces)), copied


def c4(text: str) -> tuple[str, dict[str, float]]:
    """The lines that C4 keeps, and the columns of C4."""
    kept = []
    cut = sentences = lorem = brace = 0
    for line in map(str.strip, text.splitlines()):
        parts = line.split()
        if len(parts) < 3 or any(len(part) > 1000 for part in parts):
            cut += 1
            continue
        bare = _CITATION.sub("", line)
        lowered = "".join(char.lower() if char.isascii() else char for char in bare)
        lorem += "lorem ipsum" in lowered
        script = "javascript" in lowered
        brace += "{" in bare and not script
        if script or any(policy in lowered for policy in POLICIES):
            cut += 1
            continue
        sentences += _sentences(bare)
        kept.append(bare)
    return "\n".join(kept).strip(), {"sentences": sentences, "lines_cut": cut, "lorem": lorem, "brace": brace}


def _sentences(line: str) -> int:
    found, ended = 1, False
    for word in words(line):
        if len(word) == 1 and _is(word, TERMINAL):
            ended = True
        elif ended and not (len(word) == 1 and _is(word, PUNCTUATION)):
            found, ended = found + 1, False
    return found


def fineweb(text: str) -> dict[str, float]:
    """The columns of FINEWEB."""
    lines = [line for line in text.split("\n") if line.strip()]
    return {
        "ended_lines": sum(_is(line[-1], TERMINAL) for line in lines) / max(1, len(lines)),
        "short_lines": sum(len(line) <= 30 for line in lines) / max(1, len(lines)),
        "copied_lines": _copies(lines)[1] / max(1, len(text.replace("\n", ""))),
        "breaks": text.count("\n") / max(1, len(words(text))),
    }


def folded_words(text: str) -> list[str]:
    """The words that MinHash compares."""
    folded = []
    for char in text:
        point = int(folds()[ord(char)])
        if point:
            folded.append(f" {chr(point)} " if _is(char, IDEOGRAPH) else chr(point))
    return [word for word in re.sub(r"0+", "0", "".join(folded)).split(" ") if word]
