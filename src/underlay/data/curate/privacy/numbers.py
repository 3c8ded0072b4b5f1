"""Numbers of people and their money: payment cards, bank accounts, telephones.

A card passes Luhn's check and begins as some issuer's cards do (ISO/IEC 7812). An IBAN passes that of ISO 7064 and has
its country's form (ISO 13616). Other bank numbers, and most telephone numbers as people write them within a country,
look like any number; they count beside a telling word, or where they are grouped as that country groups them.
"""

import re
import string
from collections.abc import Iterator
from functools import lru_cache

import phonenumbers
import stdnum.iban
import stdnum.luhn
import stdnum.us.rtn

from underlay.data.curate.privacy.spans import Span, before, behind

# In groups only where no further group stands beside it: tables are full of groups of four digits.
_CARD = re.compile(
    r"(?<![\d.+])\d{12,19}(?!\d|[.+/-]\d)|"
    r"(?<![\d.+])(?<!\d[ -])(?:\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|\d{4}([ -])\d{6}\2\d{4,5})"
    r"(?!\d|[.-]\d| \d{4}(?!\d))"
)
# Lengths, and the least and greatest beginning: Visa, Mastercard, American Express, Diners Club, Discover, JCB,
# UnionPay, Maestro, Mir, RuPay, Troy, Dankort.
_ISSUERS = (
    ((13, 16, 19), "4", "4"),
    ((16,), "51", "55"),
    ((16,), "2221", "2720"),
    ((15,), "34", "34"),
    ((15,), "37", "37"),
    ((14, 16, 19), "300", "305"),
    ((14, 16, 19), "3095", "3095"),
    ((14, 16, 19), "36", "36"),
    ((14, 16, 19), "38", "39"),
    ((16, 17, 18, 19), "6011", "6011"),
    ((16, 17, 18, 19), "644", "659"),
    ((16, 17, 18, 19), "3528", "3589"),
    ((15,), "1800", "1800"),
    ((15,), "2131", "2131"),
    ((16, 17, 18, 19), "62", "62"),
    ((16, 17, 18, 19), "81", "82"),
    (tuple(range(12, 20)), "5018", "5018"),
    (tuple(range(12, 20)), "5020", "5020"),
    (tuple(range(12, 20)), "5038", "5038"),
    (tuple(range(12, 20)), "5893", "5893"),
    (tuple(range(12, 20)), "6304", "6304"),
    (tuple(range(12, 20)), "6759", "6759"),
    (tuple(range(12, 20)), "6761", "6763"),
    ((16, 17, 18, 19), "2200", "2204"),
    ((16,), "60", "60"),
    ((16,), "508", "508"),
    ((16,), "9792", "9792"),
    ((16,), "5019", "5019"),
)


_CARD_WORDS = re.compile(
    r"\b(?:(?:credit|debit|bank|payment)? ?cards?|cc|visa|master ?card|amex|american express|maestro|kreditkarte|"
    r"carte bancaire|tarjeta|cart[aã]o)\b",
    re.IGNORECASE,
)


def cards(text: str, start: int, end: int) -> Iterator[Span]:
    """Payment cards in text[start:end], digits in groups; beside a telling word of any issuer."""
    for match in _CARD.finditer(text, start, min(len(text), end + 5)):
        digits = re.sub(r"\D", "", match.group())
        if match.end() > end or not stdnum.luhn.is_valid(digits) or len(set(digits)) == 1:
            continue
        if is_card(digits) or _CARD_WORDS.search(before(text, match.start())):
            yield Span(match.start(), match.end(), "CARD")


def is_card(digits: str) -> bool:
    """Whether these digits can be the number of a payment card."""
    issued = any(
        len(digits) in lengths and least <= digits[: len(least)] <= greatest for lengths, least, greatest in _ISSUERS
    )
    return issued and len(set(digits)) > 1 and bool(stdnum.luhn.is_valid(digits))


_IBAN = re.compile(r"[A-Za-z]{2}\d{2}(?:[A-Za-z0-9]{11,30}|(?:[ -][A-Za-z0-9]{4}){2,7}(?:[ -][A-Za-z0-9]{1,3})?)(?!\w)")


def iban(text: str, start: int) -> Iterator[Span]:
    """The international bank account number that begins at text[start], if there is one."""
    match = _IBAN.match(text, start)
    while match:
        if _checks(match.group()) and stdnum.iban.is_valid(match.group(), check_country=False):
            yield Span(start, match.end(), "IBAN")
            return
        # A word behind it looks like one more group.
        cut = max(match.group().rfind(" "), match.group().rfind("-"))
        match = _IBAN.fullmatch(text, start, start + cut) if cut > 0 else None


_VALUES = {ord(char): str(value) for value, char in enumerate(string.digits + string.ascii_uppercase)}


def _checks(number: str) -> bool:
    """Whether a number passes ISO 7064's check of remainders by 97: far cheaper than a look at its country's form."""
    compact = number.replace(" ", "").replace("-", "").upper()
    return int((compact[4:] + compact[:4]).translate(_VALUES)) % 97 == 1


_ACCOUNT_WORDS = re.compile(
    r"(?:\b(?:account|acct|a/c)(?:\s+(?:number|no|num|nr|id))?\b|kontonummer|konto-?nr|num[eé]ro de (?:compte|cuenta)|"
    r"rekeningnummer|\bclabe\b|\bbsb\b)[^\w\n]{0,4}(?:is |was |of |ist )?[^\w\n]{0,3}$",
    re.IGNORECASE,
)
_SORT_CODE = re.compile(r"sort[ -]?code", re.IGNORECASE)
_ROUTING = re.compile(r"\brouting|\baba\b|\brtn\b", re.IGNORECASE)


def bank_account(text: str, start: int, end: int) -> Iterator[Span]:
    """The bank account or the bank's own number that text[start:end] is, by the words before it."""
    digits = re.sub(r"\D", "", text[start:end])
    if len(digits) > 20:
        return
    context = before(text, start)
    if (
        (_ACCOUNT_WORDS.search(context) and len(digits) >= 7)
        or (
            _SORT_CODE.search(context)
            and len(digits) in (6, 14)
            and re.match(r"\d\d[- ]?\d\d[- ]?\d\d", text[start:end])
        )
        or (_ROUTING.search(context) and len(digits) == 9 and stdnum.us.rtn.is_valid(digits))
    ):
        yield Span(start, end, "BANK_ACCOUNT")


# Words that say so by themselves, and words that do where the number looks like one.
_TELEPHONE = re.compile(
    r"(?:tele?ph?on[eo]?|phone|\btel\b|\btlf\b|\bfax|\bmobile?|\bcell|whats?app|\bsms\b|hotline|rufnummer|handy|\bfono\b|"
    r"t[eé]l[eé]fono?|t[eé]l[eé]phone|m[oó]vil|celular|cellulare|\bgsm\b|телефон|\bтел\b|电话|電話|전화)",
    re.IGNORECASE,
)
_CALL = re.compile(
    r"\b(?:call|calls|calling|called|dial|ring|reach|contact|text|answer|answering|desk|office|appel|appelez|ligue|llame|chiama)\b",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"\b(?:numbers?|no|nr)\b", re.IGNORECASE)
_DECIMAL = re.compile(r"\+?\d+\.\d+")
_RECKONED_BEFORE = re.compile(r"[$€£¥<*×÷][ ]?$")
_RECKONED_BEHIND = re.compile(r"[ ]?[=*%×÷€£]")
_QUAD = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
_EXTENSION = re.compile(r"\s{0,2}(?:x|ext\.?|extension)\s{0,2}\d{1,6}(?!\w)", re.IGNORECASE)
_DATE = re.compile(
    r"(?:1[0-9]|20)\d\d([-/. ])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12]\d|3[01])(?:[ -]\d\d)?|"
    r"(?:0?[1-9]|[12]\d|3[01])([-/. ])(?:0?[1-9]|[12]\d|3[01])\2(?:1[0-9]|20)?\d\d(?:[ -]\d\d)?|"
    r"(?:1[0-9]|20)\d\d ?[-/\u2013] ?(?:1[0-9]|20)\d\d|(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:\d{6})?"
)
_BOOK = re.compile(r"97[89][- ]?(?:\d[- ]?){9}[\d]")
_GROUPED = re.compile(r"\(?\d{1,8}\)?(?:(?:[ ./\u00a0\u2011-]| / |(?<=\))|(?=\())\(?\d{1,8}\)?){1,5}")
_AMERICAN = re.compile(r"(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4}")


def phone(text: str, start: int, end: int, regions: tuple[str, ...]) -> Iterator[Span]:
    """The telephone number that text[start:end], digits in groups, is, with the sign and the extension around it.

    regions: countries whose numbers count where they are written as at home, as ISO 3166 codes.
    """
    plus = start > 0 and text[start - 1] == "+"
    if plus or (start > 0 and text[start - 1] == "(" and ")" in text[start:end]):
        start -= 1
    if plus and start > 0 and text[start - 1] == "(" and ")" in text[start:end]:
        start -= 1
    raw = text[start:end]
    digits = re.sub(r"\D", "", raw)
    if (
        not 7 <= len(digits) <= 15
        or (plus and _DECIMAL.fullmatch(raw))
        or (not plus and any(one.fullmatch(raw) for one in (_DATE, _BOOK, _QUAD)))
    ):
        return
    if _RECKONED_BEFORE.search(text, max(0, start - 2), start) or _RECKONED_BEHIND.match(text, end):
        return
    if _telling(text, start, end, raw, digits, plus) or _called("+" + digits if plus else raw, regions):
        extension = _EXTENSION.match(text, end)
        yield Span(start, extension.end() if extension else end, "PHONE")


def _telling(text: str, start: int, end: int, raw: str, digits: str, plus: bool) -> bool:
    """Whether the words around a number say that it is one to call."""
    context = before(text, start, 40)
    if _TELEPHONE.search(context) or _TELEPHONE.search(behind(text, end, 16)):
        return plus or bool(_GROUPED.fullmatch(raw)) or raw == digits
    near = context[-32:]
    if raw == digits:
        return len(raw) in (10, 11) and bool(_CALL.search(near))
    called = _CALL.search(near) or _CALL.search(behind(text, end, 12))
    if not called and not _NUMBERED.search(near):
        return False
    return plus or (bool(_GROUPED.fullmatch(raw)) and (len(re.findall(r"\d+", raw)) > 2 or raw[0] in "0("))


@lru_cache(maxsize=1 << 12)
def _called(raw: str, regions: tuple[str, ...]) -> bool:
    """Whether a number can be called, and is written as its country writes it."""
    if raw.startswith("+"):
        return _valid(raw, None) is not None
    if _AMERICAN.fullmatch(raw):
        return _valid(raw, "US") is not None
    groups = re.findall(r"\d+", raw)
    # Groups of three and the like are how large numbers are written too, so only a dialling prefix tells.
    if len(groups) < 2 or sum(map(len, groups)) < 9 or raw[0] not in "(0":
        return False
    if _DECIMAL.fullmatch(raw) or not _GROUPED.fullmatch(raw):
        return False
    for region in regions:
        number = _valid(raw, region)
        if number is not None:
            written = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
            if re.findall(r"\d+", written) == groups:
                return True
    return False


def _valid(raw: str, region: str | None) -> phonenumbers.PhoneNumber | None:
    try:
        number = phonenumbers.parse(raw, region)
    except phonenumbers.NumberParseException:
        return None
    return number if phonenumbers.is_valid_number(number) else None
