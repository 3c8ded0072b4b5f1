"""Keys and passwords: what gives access to something, as its issuers shape it.

Shapes are those that services document, so that secret scanners find them. A value without such a shape counts where a
telling word is assigned to: `client_secret = "..."`. A private key is a whole block.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Final

from underlay.data.curate.privacy.spans import Span

_SHAPES: Final[Mapping[str, str]] = {
    "AWS_KEY": r"(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b",
    "GITHUB_TOKEN": r"gh[pousr]_[A-Za-z0-9]{36,255}\b|github_pat_[A-Za-z0-9_]{60,255}\b",
    "GITLAB_TOKEN": r"gl(?:pat|oas|dt|rt|cbt|ptt|ft|soat|agent)-[A-Za-z0-9_-]{20,1024}",
    "SLACK_TOKEN": r"xox[abeposr]-[A-Za-z0-9-]{10,1024}|xapp-\d-[A-Za-z0-9-]{20,1024}",
    "GOOGLE_KEY": r"AIza[0-9A-Za-z_-]{35}\b|GOCSPX-[0-9A-Za-z_-]{28}\b|ya29\.[0-9A-Za-z_-]{30,1024}",
    "STRIPE_KEY": r"[sr]k_(?:live|test)_[0-9A-Za-z]{16,1024}\b|whsec_[0-9A-Za-z]{32,1024}\b",
    "HUGGING_FACE_TOKEN": r"hf_[A-Za-z]{34}\b|api_org_[A-Za-z]{34}\b",
    "SENDGRID_KEY": r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}\b",
    "TWILIO_KEY": r"SK[0-9a-f]{32}\b",
    "MAILGUN_KEY": r"key-[0-9a-f]{32}\b",
    "MAILCHIMP_KEY": r"[0-9a-f]{32}-us\d{1,2}\b",
    "NPM_TOKEN": r"npm_[A-Za-z0-9]{36}\b",
    "PYPI_TOKEN": r"pypi-AgE[A-Za-z0-9_-]{50,1024}",
    "RUBYGEMS_KEY": r"rubygems_[0-9a-f]{48}\b",
    "DOCKER_TOKEN": r"dckr_pat_[A-Za-z0-9_-]{27}",
    "SHOPIFY_TOKEN": r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}\b",
    "SQUARE_TOKEN": r"sq0(?:atp|csp)-[0-9A-Za-z_-]{22,43}",
    "DIGITALOCEAN_TOKEN": r"do[opr]_v1_[0-9a-f]{64}\b",
    "POSTMAN_KEY": r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}\b",
    "GRAFANA_TOKEN": r"glsa_[A-Za-z0-9]{32}_[0-9a-f]{8}\b|glc_[A-Za-z0-9+/]{32,1024}",
    "VAULT_TOKEN": r"hv[sb]\.[A-Za-z0-9_-]{24,1024}",
    "LINEAR_KEY": r"lin_api_[A-Za-z0-9]{40}\b",
    "NOTION_TOKEN": r"ntn_[A-Za-z0-9]{40,1024}\b|secret_[A-Za-z0-9]{43}\b",
    "ATLASSIAN_TOKEN": r"ATATT3[A-Za-z0-9_=-]{100,1024}",
    "DATABRICKS_TOKEN": r"dapi[0-9a-f]{32}\b",
    "GROQ_KEY": r"gsk_[A-Za-z0-9]{48,1024}\b",
    "REPLICATE_TOKEN": r"r8_[A-Za-z0-9]{37}\b",
    "NVIDIA_KEY": r"nvapi-[A-Za-z0-9_-]{60,1024}",
    "XAI_KEY": r"xai-[A-Za-z0-9]{70,1024}\b",
    "PERPLEXITY_KEY": r"pplx-[A-Za-z0-9]{40,1024}\b",
    "SENTRY_TOKEN": r"sntry[su]_[A-Za-z0-9+/=_-]{40,1024}",
    "SUPABASE_TOKEN": r"sbp_[0-9a-f]{40}\b",
    "FIGMA_TOKEN": r"figd_[A-Za-z0-9_-]{38,1024}",
    "AGE_KEY": r"AGE-SECRET-KEY-1[0-9A-Z]{58}\b",
    "TAILSCALE_KEY": r"tskey-[a-z]{2,16}-[A-Za-z0-9]{4,32}-[A-Za-z0-9]{16,1024}\b",
    "JWT": r"eyJ[A-Za-z0-9_-]{10,1024}\.eyJ[A-Za-z0-9_-]{10,1024}\.[A-Za-z0-9_-]{10,1024}",
    "API_KEY": r"sk-(?:[A-Za-z0-9]{1,32}-){0,4}[A-Za-z0-9_-]{32,1024}",
}
PREFIXES: Final = (
    "AKIA", "ASIA", "ABIA", "ACCA", "gh", "github_pat_", "gl", "xox", "xapp", "AIza", "GOCSPX", "ya29", "sk_", "rk_",
    "whsec_", "hf_", "api_org_", "SG", "SK", "key", "npm_", "pypi", "rubygems_", "dckr_pat_", "shp", "sq0", "do",
    "PMAK", "hv", "lin_api_", "ntn_", "secret_", "ATATT3", "dapi", "gsk_", "r8_", "nvapi", "xai", "pplx", "sntry",
    "sbp_", "figd_", "AGE", "tskey", "eyJ", "sk", "AA",
)  # fmt: skip
"""How those shapes begin; the first two characters count."""
_ALL = re.compile("|".join(f"(?P<{name}>{shape})" for name, shape in _SHAPES.items()))
_TELEGRAM = re.compile(r"AA[A-Za-z0-9_-]{32,34}(?![A-Za-z0-9_-])")
_BOT = re.compile(r"(?<!\d)\d{8,10}:$")

_NAMED = re.compile(
    r"(?:secret|passw(?:or)?d|passphrase|api[_-]?key|access[_-]?key|private[_-]?key|auth[_-]?key|account[_-]?key|"
    r"auth[_-]?token|access[_-]?token|refresh[_-]?token|api[_-]?token|bearer|credentials?)"
    r"[A-Za-z0-9_-]{0,16}[\"'`\])]{0,2}\s{0,3}(?:[:=][=>]?)\s{0,2}[\"'`]?$",
    re.IGNORECASE,
)
_VALUE = re.compile(r"[A-Za-z0-9._~+/-]{16,512}={0,2}")
_LEAST_BITS = 3.3
"""Bits a character in a value that chance has drawn; names and words have fewer, of 20 and more characters."""

_HEADER = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_FOOTER = re.compile(r"-----END (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_BODY = re.compile(r"(?:\s|[\"'\\,>*#|+]|[A-Za-z0-9+/=]{32,}|\\n){0,2000}")
_LONGEST_BLOCK = 20_000


def known(text: str, start: int) -> Iterator[Span]:
    """The key of a known service that begins at text[start], if there is one."""
    if start and text[start - 1] in "_-":
        return
    if match := _ALL.match(text, start):
        yield Span(start, match.end(), match.lastgroup or "SECRET")
    elif (match := _TELEGRAM.match(text, start)) and (bot := _BOT.search(text, max(0, start - 11), start)):
        yield Span(bot.start(), match.end(), "TELEGRAM_TOKEN")


def assigned(text: str, start: int) -> Iterator[Span]:
    """The value that begins at text[start], behind a colon or an equals sign, where its name is that of a secret."""
    if not _NAMED.search(text[max(0, start - 64) : start]):
        return
    match = _VALUE.match(text, start)
    if match and _drawn(match.group()):
        yield Span(start, match.end(), "SECRET")


def _drawn(value: str) -> bool:
    """Whether a value looks drawn by chance rather than written: digits and letters mixed, hardly any twice."""
    counts = Counter(value)
    bits = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    changes = sum(one.isdigit() != other.isdigit() for one, other in pairwise(value))
    return bits >= _LEAST_BITS and changes >= 4


def block(text: str, start: int) -> Iterator[Span]:
    """The private key in a block that begins at text[start]; where its end is missing, as far as it looks like one."""
    header = _HEADER.match(text, start)
    if not header:
        return
    limit = header.end() + _LONGEST_BLOCK
    following = text.find("-----BEGIN", header.end(), limit)
    if footer := _FOOTER.search(text, header.end(), limit if following < 0 else following):
        yield Span(start, footer.end(), "PRIVATE_KEY")
        return
    body = _BODY.match(text, header.end())
    end = body.end() if body else header.end()
    if text[header.end() : end].strip():
        yield Span(start, end, "PRIVATE_KEY")
