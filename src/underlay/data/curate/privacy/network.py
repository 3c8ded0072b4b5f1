"""Addresses in networks: e-mail, passwords within web addresses, IPv4 and IPv6.

Only internet addresses that lead somewhere are private: those of private networks, of loopback and of documentation
(RFC 1918, 4193, 5737, 3849 and their like, which Python's `ipaddress` knows) are left alone.
"""

import ipaddress
import re
from collections.abc import Iterator

from underlay.data.curate.privacy.spans import Span, before

_LETTERS = "A-Za-z0-9\u00c0-\u024f"
_LABEL = f"[{_LETTERS}](?:[{_LETTERS}-]{{0,61}}[{_LETTERS}])?"
_DOMAIN = re.compile(
    rf"(?:{_LABEL}\.){{1,8}}(?:[A-Za-z]{{2,18}}|xn--[A-Za-z0-9-]{{2,59}})(?![A-Za-z0-9_]|-[A-Za-z0-9])"
)
_LOCAL_BACKWARDS = re.compile(rf"[{_LETTERS}._%+-]{{1,65}}")
_LONGEST_LOCAL = 64
# `icon@2x.png` is no address, nor is the user that every repository has.
_FILES = {"png", "jpg", "jpeg", "gif", "svg", "webp", "bmp", "css", "js", "html", "htm", "php", "json"}
_NOBODY = {"git", "hg", "svn"}

_LONGEST_CREDENTIALS = 256
_CREDENTIALS = re.compile(r"[^\s/@:\"'<>(){}\[\]]{0,128}:[^\s/@\"'<>{}]{1,128}")
_TEMPLATE = re.compile(r"^\$|\$[({]|%[(s]|:\$|^\*|:\*+$|:\.+$")

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(rf"(?<![\w.-])(?:{_OCTET}\.){{3}}{_OCTET}(?!\d|\.\d|\.in-addr)")
_VERSION = re.compile(
    r"(?:version|release|section|chapter|ver|build|firmware|revision|rev|oid|kernel|driver|figure|table|clause|§)"
    r"s?\W{0,4}$|[=~^<>]=\s?$",
    re.IGNORECASE,
)
_HOST = re.compile(
    r"\b(?:ip|ipv4|ips|address|addr|host|server|dns|ping|peer|client|inet|gateway|nameserver|remote)", re.IGNORECASE
)


def at_sign(text: str, at: int) -> Iterator[Span]:
    """What an `@` at text[at] belongs to: a web address with a password, or an e-mail address."""
    back = text[max(0, at - _LONGEST_CREDENTIALS) : at]
    scheme = back.rfind("://")
    if scheme >= 0:
        inside = back[scheme + 3 :]
        if _CREDENTIALS.fullmatch(inside):
            if not _TEMPLATE.search(inside):
                yield Span(at - len(inside), at, "URL_PASSWORD")
            return
    domain = _DOMAIN.match(text, at + 1)
    local = _LOCAL_BACKWARDS.match(back[: -_LONGEST_LOCAL - 2 : -1])
    if not domain or not local or local.end() > _LONGEST_LOCAL or back[-1] == ".":
        return
    name = local.group()[::-1].lstrip("._%+-")
    if name and name not in _NOBODY and domain.group().rpartition(".")[2].lower() not in _FILES:
        yield Span(at - len(name), domain.end(), "EMAIL")


def ipv4(text: str, start: int, end: int) -> Iterator[Span]:
    """Internet addresses in text[start:end], digits in groups."""
    for match in _IPV4.finditer(text, start, min(len(text), end + 8)):
        if match.end() > end:
            continue
        context = before(text, match.start())
        if _VERSION.search(context):
            continue
        address = ipaddress.IPv4Address(match.group())
        small = all(int(octet) < 10 for octet in match.group().split("."))
        if address.is_global and not address.is_multicast and (not small or _HOST.search(context)):
            yield Span(match.start(), match.end(), "IP")


def ipv6(text: str, start: int, end: int) -> Iterator[Span]:
    """The internet address that text[start:end], hexadecimal digits and colons, is."""
    if (start and (text[start - 1].isalnum() or text[start - 1] in "_.")) or (
        end < len(text) and (text[end].isalnum() or text[end] == "_")
    ):
        return
    while end > start and text[end - 1] == ":" and text[end - 2 : end] != "::":
        end -= 1
    try:
        address = ipaddress.IPv6Address(text[start:end])
    except ValueError:
        return
    # Names in programs have two colons as well, `dead::beef`; an address cut short must be one that is given out.
    given = text[start] in "23" and text[start : start + 5].find(":") == 4
    if address.is_global and not address.is_multicast and (given or "::" not in text[start:end]):
        yield Span(start, end, "IP")
