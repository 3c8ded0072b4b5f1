"""Ways of taking private things out of a text: placeholders, or pseudonyms.

A placeholder names the kind, `<EMAIL>`. A pseudonym is drawn by a keyed hash (HMAC-SHA256, RFC 2104) of the value: the
same value gets the same pseudonym wherever it stands, so a text stays readable, and nobody without the key can tell
whose it is, or try out whose it may be. It has the value's shape but leads nowhere: addresses in `.example`, internet
addresses that nobody has, numbers that fail their own checksum.

Line counts never change, so that the place of every later token in its source stays exact.
"""

import hashlib
import hmac
import ipaddress
import os
import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import stdnum.iban
import stdnum.luhn

from underlay.data.curate.privacy.ids import NATIONAL_IDS
from underlay.data.curate.privacy.spans import Span, group_of
from underlay.errors import UserError

Substitute = Callable[[str, str], str]
"""What stands instead of a value: (kind, value) -> text with as many line breaks."""
_SHORTEST_KEY: Final = 16
"""Bytes. Whoever can guess the key can guess the values."""
_TRIES: Final = 64


def change(text: str, spans: Iterable[Span], substitute: Substitute) -> tuple[str, Counter[str]]:
    """Put something else where the spans are, which are in order and apart.

    Returns the text, with as many lines as before, and how often each kind was found.
    """
    found: Counter[str] = Counter()
    pieces, at = [], 0
    for span in spans:
        found[span.kind] += 1
        pieces += [text[at : span.start], substitute(span.kind, text[span.start : span.end])]
        at = span.end
    return "".join([*pieces, text[at:]]), found


def placeholder(kind: str, value: str) -> str:
    """`<EMAIL>`, and as many line breaks as the value has."""
    return f"<{kind}>" + "\n" * value.count("\n")


class Pseudonyms:
    """Draws pseudonyms by a key."""

    def __init__(self, key: bytes) -> None:
        """Take the key. Raises UserError where it is too short to protect anything."""
        if len(key) < _SHORTEST_KEY:
            raise UserError(f"the key for pseudonyms has {len(key)} bytes; at least {_SHORTEST_KEY} are needed")
        self._key = key

    @property
    def fingerprint(self) -> str:
        """Tells keys apart without giving them away: pseudonyms of two keys are two results."""
        return self._digest("which key", "", 0)[:8].hex()

    def __call__(self, kind: str, value: str) -> str:
        """The pseudonym of a value."""
        if kind == "EMAIL":
            local, _, domain = value.lower().rpartition("@")
            return f"{self._word('local', f'{local}@{domain}', 10)}@{self._word('domain', domain, 6)}.example"
        if kind == "IP" and (address := self._address(value)):
            return address
        for attempt in range(_TRIES):
            drawn = self._alike(kind, value, attempt)
            if not _passes(kind, drawn):
                break
        return drawn

    def _digest(self, kind: str, value: str, number: int) -> bytes:
        return hmac.digest(self._key, f"{kind}\0{number}\0{value}".encode(), hashlib.sha256)

    def _word(self, kind: str, value: str, length: int) -> str:
        return "".join(string.ascii_lowercase[byte % 26] for byte in self._digest(kind, value, 0)[:length])

    def _address(self, value: str) -> str:
        """Of the same version: in 240.0.0.0/4, which is reserved for ever, or in 2001:db8::/32, for documentation."""
        try:
            address = ipaddress.ip_address(value)
        except ValueError:  # two that overlapped and became one
            return ""
        drawn = int.from_bytes(self._digest("IP", str(address), 0)[:12], "big")
        if address.version == 4:
            return str(ipaddress.IPv4Address(0xF0000000 | drawn % 0x0FFFFFFF))
        return str(ipaddress.IPv6Address((0x20010DB8 << 96) | drawn))

    def _alike(self, kind: str, value: str, attempt: int) -> str:
        """Digits for digits and letters for letters; everything else stays, and so do marks such as `ghp_`."""
        same = "".join(char for char in value if char.isalnum()).upper() if _loose(kind) else value
        stream = self._bytes(f"{kind}\0{attempt}", same)
        kept, end = _kept(kind, value)
        drawn = [value[:kept]]
        for char in value[kept:end]:
            if char.isdigit():
                drawn.append(string.digits[next(stream) % 10])
            elif char.isalpha():
                letters = string.ascii_uppercase if char.isupper() else string.ascii_lowercase
                drawn.append(letters[next(stream) % 26])
            else:
                drawn.append(char)
        return "".join([*drawn, value[end:]])

    def _bytes(self, kind: str, value: str) -> Iterator[int]:
        number = 0
        while True:
            yield from self._digest(kind, value, number)
            number += 1


def _loose(kind: str) -> bool:
    """Whether values that differ only in how they are spaced are the same."""
    return group_of(kind) in ("card", "bank", "id", "phone")


def _kept(kind: str, value: str) -> tuple[int, int]:
    """Where begins and ends what says whose a value is; around it stands what it is: a country, an issuer, a header."""
    if kind == "IBAN":
        return 2, len(value)
    if kind == "PRIVATE_KEY":
        footer = value.rfind("-----END")
        return value.find("-----", 5) + 5, len(value) if footer < 0 else footer
    if group_of(kind) == "secret" and kind not in ("SECRET", "URL_PASSWORD"):
        return next((at + 1 for at, char in enumerate(value[:8]) if char in "_-."), min(4, len(value))), len(value)
    return 0, len(value)


def _passes(kind: str, value: str) -> bool:
    """Whether a drawn number could be somebody's after all."""
    if kind == "CARD":
        return bool(stdnum.luhn.is_valid("".join(char for char in value if char.isdigit())))
    if kind == "IBAN":
        return bool(stdnum.iban.is_valid(value, check_country=False))
    return any(one.kind == kind and one.shape.fullmatch(value) and one.valid(value) for one in NATIONAL_IDS)


def read_key(where: str) -> bytes:
    """The key in an environment variable (`env:NAME`) or a file, without white space around it.

    Raises UserError where there is none, and never shows it.
    """
    kind, _, name = where.partition(":")
    if kind == "env" and name:
        if not os.environ.get(name, "").strip():
            raise UserError(
                f"key: the environment variable {name} is not set; set it to at least {_SHORTEST_KEY} bytes"
            )
        return os.environ[name].strip().encode()
    try:
        with Path(where).open("rb") as file:
            return file.read(1 << 16).strip()
    except OSError as error:
        raise UserError(f"key: {where} cannot be read: {error.strerror}; name a file, or env:NAME") from error
