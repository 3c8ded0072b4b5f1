"""National ids: numbers that a state gives to a person, with the checks that it defines.

`python-stdnum` knows the checks. A number counts by its shape and checksum alone where a chance number would hardly
pass, such as an Italian tax code. Where the check is weak or the shape is common, as in a Dutch BSN of nine digits, a
telling word must stand before it as well.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import stdnum.at.vnr
import stdnum.au.tfn
import stdnum.be.nn
import stdnum.bg.egn
import stdnum.br.cpf
import stdnum.ca.sin
import stdnum.ch.ssn
import stdnum.cl.rut
import stdnum.cn.ric
import stdnum.cz.rc
import stdnum.de.idnr
import stdnum.dk.cpr
import stdnum.ee.ik
import stdnum.es.dni
import stdnum.es.nie
import stdnum.fr.nir
import stdnum.gb.nhs
import stdnum.gr.amka
import stdnum.hr.oib
import stdnum.ie.pps
import stdnum.il.idnr
import stdnum.in_.aadhaar
import stdnum.in_.pan
import stdnum.it.codicefiscale
import stdnum.kr.rrn
import stdnum.mx.curp
import stdnum.nl.bsn
import stdnum.no.fodselsnummer
import stdnum.pl.pesel
import stdnum.ro.cnp
import stdnum.se.personnummer
import stdnum.tr.tckimlik
import stdnum.us.ssn
import stdnum.za.idnr

from underlay.data.curate.privacy.spans import Span, before, behind


class NationalId(NamedTuple):
    """A kind of national id."""

    kind: str
    shape: re.Pattern[str]
    """How it is written."""
    valid: Callable[[str], bool]
    """Whether a number so written passes its checks."""
    words: re.Pattern[str] | None
    """What must stand before it, if anything."""


def _nino(number: str) -> bool:
    """Whether a British national insurance number has a prefix that is given out (HMRC manual NIM39110)."""
    return number[:2].upper() not in {"BG", "GB", "KN", "NK", "NT", "TN", "ZZ"}


def _id(kind: str, shape: str, valid: Callable[[str], bool], words: str = "") -> NationalId:
    telling = re.compile(rf"(?:{words})", re.IGNORECASE) if words else None
    return NationalId(kind, re.compile(shape), valid, telling)


NATIONAL_IDS = (
    _id("US_SSN", r"\d{3}-\d{2}-\d{4}", stdnum.us.ssn.is_valid),
    _id("US_SSN", r"\d{3} ?\d{2} ?\d{4}", stdnum.us.ssn.is_valid, r"\bssn\b|social security"),
    _id("GB_NINO", r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]\d{6}[A-D]", _nino),
    _id("GB_NINO", r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]( ?)\d{2}\1\d{2}\1\d{2}\1[A-D]", _nino),
    _id("GB_NHS", r"\d{3}[ -]?\d{3}[ -]?\d{4}", stdnum.gb.nhs.is_valid, r"\bnhs\b"),
    _id("IE_PPS", r"\d{7}[A-W][A-IW]?", stdnum.ie.pps.is_valid, r"\bpps"),
    _id("FR_NIR", r"[12] ?\d{2} ?(?:0[1-9]|1[0-2]|[2-9]\d) ?\d[\dAB] ?\d{3} ?\d{3} ?\d{2}",
        stdnum.fr.nir.is_valid),
    _id("DE_IDNR", r"\d{2} ?\d{3} ?\d{3} ?\d{3}", stdnum.de.idnr.is_valid, r"steuer|\bidnr|\btin\b|tax id"),
    _id("AT_VNR", r"\d{4} ?\d{6}", stdnum.at.vnr.is_valid, r"\bsvnr|\bvsnr|versicherungsnummer|sozialversicherung"),
    _id("CH_AHV", r"756\.\d{4}\.\d{4}\.\d{2}|756\d{10}", stdnum.ch.ssn.is_valid),
    _id("IT_CF", r"[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPR-T][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]",
        stdnum.it.codicefiscale.is_valid),
    _id("ES_DNI", r"\d{8}-?[A-HJ-NP-TV-Z]", stdnum.es.dni.is_valid, r"\bdni\b|\bnif\b|identidad|documento"),
    _id("ES_NIE", r"[XYZ]-?\d{7}-?[A-HJ-NP-TV-Z]", stdnum.es.nie.is_valid),
    _id("NL_BSN", r"\d{9}|\d{4}\.\d{2}\.\d{3}", stdnum.nl.bsn.is_valid, r"\bbsn\b|burgerservice|sofi"),
    _id("BE_NN", r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}", stdnum.be.nn.is_valid),
    _id("BE_NN", r"\d{11}", stdnum.be.nn.is_valid, r"rijksregister|registre national|\binsz\b|\bniss\b"),
    _id("DK_CPR", r"\d{6}-?\d{4}", stdnum.dk.cpr.is_valid, r"\bcpr|personnummer"),
    _id("SE_PNR", r"(?:\d{2})?\d{6}[-+]?\d{4}", stdnum.se.personnummer.is_valid, r"person\s?nummer|\bpnr\b"),
    _id("NO_FNR", r"\d{6} ?\d{5}", stdnum.no.fodselsnummer.is_valid, r"f.dselsnummer|personnummer|\bfnr\b"),
    _id("PL_PESEL", r"\d{11}", stdnum.pl.pesel.is_valid, r"\bpesel"),
    _id("CZ_RC", r"\d{6}/?\d{3,4}", stdnum.cz.rc.is_valid, r"rodn[eé]|\brč|\brc\b"),
    _id("RO_CNP", r"[1-9]\d{12}", stdnum.ro.cnp.is_valid, r"\bcnp\b|cod numeric"),
    _id("BG_EGN", r"\d{10}", stdnum.bg.egn.is_valid, r"\begn\b|егн"),
    _id("HR_OIB", r"\d{11}", stdnum.hr.oib.is_valid, r"\boib\b"),
    _id("EE_IK", r"[1-6]\d{10}", stdnum.ee.ik.is_valid, r"isikukood|asmens kod"),
    _id("GR_AMKA", r"\d{11}", stdnum.gr.amka.is_valid, r"\bamka\b|αμκα"),
    _id("TR_TCKN", r"[1-9]\d{10}", stdnum.tr.tckimlik.is_valid, r"kimlik|\btckn\b|\btc\b"),
    _id("BR_CPF", r"\d{3}\.\d{3}\.\d{3}-\d{2}", stdnum.br.cpf.is_valid),
    _id("BR_CPF", r"\d{11}", stdnum.br.cpf.is_valid, r"\bcpf\b"),
    _id("CL_RUT", r"\d{1,2}\.\d{3}\.\d{3}-[\dkK]", stdnum.cl.rut.is_valid),
    _id("MX_CURP", r"[A-Z]{4}\d{6}[HMX][A-Z]{5}[A-Z0-9]\d", stdnum.mx.curp.is_valid),
    _id("CA_SIN", r"\d{3}([ -]?)\d{3}\1\d{3}", stdnum.ca.sin.is_valid, r"\bsin\b|social insurance|\bnas\b"),
    _id("AU_TFN", r"\d{3} ?\d{3} ?\d{2,3}", stdnum.au.tfn.is_valid, r"\btfn\b|tax file"),
    _id("IN_AADHAAR", r"[2-9]\d{3}([ -]?)\d{4}\1\d{4}", stdnum.in_.aadhaar.is_valid, r"aadh?aar|\buidai?\b"),
    _id("IN_PAN", r"[A-Z]{5}\d{4}[A-Z]", stdnum.in_.pan.is_valid, r"\bpan\b|permanent account|income tax"),
    _id("CN_RIC", r"\d{17}[\dX]", stdnum.cn.ric.is_valid),
    _id("KR_RRN", r"\d{6}-\d{7}", stdnum.kr.rrn.is_valid),
    _id("IL_ID", r"\d{9}|\d{8}-\d", stdnum.il.idnr.is_valid, r"teudat|זהות|israeli id"),
    _id("ZA_ID", r"\d{6} ?\d{4} ?\d{3}", stdnum.za.idnr.is_valid, r"\bid\b|identity"),
)  # fmt: skip
"""Those of about thirty countries; to look for another is one line."""


_LONGEST = 24
_LETTER_BEHIND = re.compile(r"[ -]?[A-Zk](?!\w)")
_LETTER_BEFORE = re.compile(r"(?<!\w)(?:[XYZ]-|[A-Z]{2} )$")


def national_id(text: str, start: int, end: int) -> Iterator[Span]:
    """The national id that text[start:end] is: groups of digits, or a word of digits and capital letters."""
    if end - start > _LONGEST:
        return
    context: str | None = None
    for low, high in _readings(text, start, end):
        raw = text[low:high]
        for one in NATIONAL_IDS:
            if not one.shape.fullmatch(raw):
                continue
            if one.words:
                if context is None:
                    context = f"{before(text, start)} | {behind(text, end)}"
                if not one.words.search(context):
                    continue
            if one.valid(raw):
                yield Span(low, high, one.kind)
                return


def _readings(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """With and without letters that stand apart: `12345678-Z`, `X-1234567-L`, `AB 12 34 56 C`."""
    yield start, end
    if after := _LETTER_BEHIND.match(text, end):
        yield start, after.end()
        if letters := _LETTER_BEFORE.search(text, max(0, start - 4), start):
            yield letters.start(), after.end()
