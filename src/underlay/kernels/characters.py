"""What every character of Unicode is, as bits of a table that compiled loops look up.

Texts come as code points, so a loop asks `KINDS[point] & LETTER` and never needs a string. The second table folds
characters for comparing texts: lower case, without accents, digits all alike, punctuation and white space as a space.
"""

import functools
import string
import unicodedata
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Kinds: TypeAlias = NDArray[np.uint32]
Folds: TypeAlias = NDArray[np.uint32]

POINTS = 0x110000
LETTER, LOWER, UPPER, DIGIT, SPACE = (np.uint32(1 << bit) for bit in range(5))
PUNCTUATION = np.uint32(1 << 5)
"""What does not make a word, as the filters of web corpora count them."""
EDGE = np.uint32(1 << 6)
"""What is a word by itself at the edge of a word."""
QUOTE, DASH, MONEY, ICON = (np.uint32(1 << bit) for bit in range(7, 11))
TERMINAL = np.uint32(1 << 11)
"""What ends a sentence, in any script."""
BREAK = np.uint32(1 << 12)
"""What ends a line for `str.splitlines`."""
IDEOGRAPH = np.uint32(1 << 13)
"""What is a word by itself, in scripts written without spaces."""
ALNUM = np.uint32(1 << 14)
"""Letters and numbers of any kind, as `str.isalnum` has it."""

_PUNCTUATION = "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：＄～«〉,><》)?）。…@_.\"}►»" + "".join(
    chr(point) for low, high in ((0, 9), (11, 13), (13, 32), (127, 160)) for point in range(low, high)
)
_EDGES = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_QUOTES = "'\"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉⟦⟧"
_MONEY = "$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿"
_BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
# Written without spaces: Han, kana, Thai, Lao, Khmer, Burmese.
_IDEOGRAPHS = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)


@functools.cache
def kinds() -> Kinds:
    """The bits of every code point, (0x110000,) uint32. Follows Python's own `str` methods and Unicode's categories."""
    table = np.zeros(POINTS, dtype=np.uint32)
    for point in range(POINTS):
        char = chr(point)
        category = unicodedata.category(char)
        if category in ("Cn", "Co", "Cs"):
            continue
        bits = int(LETTER) if char.isalpha() else 0
        if category == "Ll":
            bits |= int(LOWER)
        elif category in ("Lu", "Lt"):
            bits |= int(UPPER)
        elif category == "Nd":
            bits |= int(DIGIT)
        elif category == "So":
            bits |= int(ICON)
        if char.isspace():
            bits |= int(SPACE)
        if char.isalnum():
            bits |= int(ALNUM)
        table[point] = bits
    for chars, bit in (
        (_PUNCTUATION, PUNCTUATION),
        (_EDGES, EDGE),
        (_QUOTES, QUOTE | EDGE),
        ("-–—~", DASH),
        (_MONEY, MONEY),
        (_terminals(), TERMINAL),
        (_BREAKS, BREAK),
    ):
        table[[ord(char) for char in chars]] |= bit
    for low, high in _IDEOGRAPHS:
        table[low : high + 1] |= IDEOGRAPH
    return _frozen(table)


@functools.cache
def folds() -> Folds:
    """What every code point is compared as, (0x110000,) uint32; 0: it is left out (accents)."""
    table = np.arange(POINTS, dtype=np.uint32)
    marked = {*_PUNCTUATION, *string.punctuation, *_EDGES, *_QUOTES}
    for point in range(POINTS):
        char = chr(point)
        category = unicodedata.category(char)
        if category in ("Cn", "Co", "Cs") or 0x3400 <= point <= 0x9FFF or 0xAC00 <= point <= 0xD7A3:
            continue
        if category == "Mn":
            table[point] = 0
        elif category == "Nd":
            table[point] = ord("0")
        elif char.isspace() or char in marked or category.startswith("P"):
            table[point] = ord(" ")
        else:
            base = unicodedata.normalize("NFD", char.lower())
            bare = [one for one in base if unicodedata.category(one) != "Mn"]
            table[point] = ord(bare[0]) if len(bare) == 1 else ord(char.lower()[0])
    return _frozen(table)


def _terminals() -> str:
    """Unicode's Sentence_Terminal, whose members Python's own tables do not name."""
    return (
        ".!?。．！？…؟۔։।॥၊။።፧፨᙮᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᰻᰼᱾᱿‼‽⁇⁈⁉⸮⸼꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗｡\u0700\u0701\u0702\u07f9"
        "\u0589\u1362\u1367\u1368\u3002"
    )


def _frozen(table: NDArray[np.uint32]) -> NDArray[np.uint32]:
    table.flags.writeable = False
    return table
