"""Texts that give themselves away: credentials by the marks of those who issue them, personal data by form.

Each pattern is preceded by a plain look for a letter or mark that it cannot do without, because nearly
all texts have none of them.
"""

from __future__ import annotations

import re
from typing import Final

CREDENTIAL: Final = "***"
PERSONAL: Final = "[personal]"

# What the issuers say: GitHub, GitLab, AWS, Slack, Stripe, Google, npm, PyPI, OpenAI and Anthropic, SendGrid,
# DigitalOcean, Hugging Face, age, and JSON Web Tokens (RFC 7519).
_TOKENS = re.compile(
    # After a letter only where that is the end of an escape: `\n` in Python and JSON, `%0A` in an address.
    r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt])|(?<=%[0-9A-Fa-f]{2}))(?:"
    r"gh[pousr]_[A-Za-z0-9]{20,255}|github_pat_[A-Za-z0-9_]{20,255}"
    r"|gl(?:pat|dt|rt|cbt|ptt|ft|soat|agent)-[A-Za-z0-9_.-]{16,255}"
    r"|(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,255}|xapp-[A-Za-z0-9-]{10,255}"
    r"|(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,255}|whsec_[A-Za-z0-9+/=_-]{16,255}"
    r"|AIza[A-Za-z0-9_-]{30,60}|ya29\.[A-Za-z0-9_-]{20,1024}|GOCSPX-[A-Za-z0-9_-]{20,60}"
    r"|npm_[A-Za-z0-9]{30,60}|pypi-[A-Za-z0-9_-]{30,1024}"
    r"|sk-[A-Za-z0-9_-]{20,255}|SG\.[A-Za-z0-9_-]{16,60}\.[A-Za-z0-9_-]{16,80}"
    r"|do[opr]_v1_[a-f0-9]{40,80}|hf_[A-Za-z0-9]{30,60}|AGE-SECRET-KEY-1[A-Z0-9]{40,80}"
    r"|eyJ[A-Za-z0-9_-]{8,4096}\.eyJ[A-Za-z0-9_-]{4,8192}\.[A-Za-z0-9_-]{0,2048}"
    r")"
)
_TOKEN_MARKS: Final = (
    "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "gldt-", "glrt-", "glcbt-", "glptt-",
    "glft-", "glsoat-", "glagent-", "AKIA", "ASIA", "ABIA", "ACCA", "xox", "xapp-", "k_live_", "k_test_",
    "whsec_", "AIza", "ya29.", "GOCSPX-", "npm_", "pypi-", "sk-", "SG.", "_v1_", "hf_", "AGE-S", "eyJ",
)  # fmt: skip
_KEY = re.compile(
    r"-----BEGIN (?P<kind>[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?)-----"
    r"(?:[^-]|-(?!----)){0,20000}(?:-----END (?P=kind)-----|\Z)"
)
_URL = re.compile(r"(?<=://)[^/\s@:\"'<>]{0,256}:[^/\s@\"'<>]{1,512}(?=@)")
_HEADER = re.compile(
    r"(?i)(?P<name>\b(?:proxy-)?authorization[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?:bearer|basic|token|digest|negotiate)?"
    r"\s{0,3}|\bbearer\s{1,3})(?P<value>[A-Za-z0-9._~+/=-]{8,4096})"
)
_PAIR = re.compile(
    r"(?i)(?P<name>\b[a-z0-9_.-]{0,40}(?:password|passwd|passphrase|api[_-]?key|secret[_-]?key|access[_-]?key"
    r"|client[_-]?secret|auth[_-]?token|access[_-]?token|refresh[_-]?token|private[_-]?token)"
    r"[\"']?\s{0,3}[:=]\s{0,3}[\"']?)(?P<value>[^\s\"'&,;<>{}()\[\]$*]{6,4096})"
)
_PAIR_MARKS: Final = ("passw", "passph", "key", "secret", "token", "authorization", "bearer")

_MAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}"
    r"\.[A-Za-z]{2,24}(?![A-Za-z0-9-])"
)
_PHONE = re.compile(r"(?<![\w+.])\+[1-9](?:[ ()./-]{0,2}\d){7,14}(?![\w])")
_CARD = re.compile(r"(?<![\w.-])[2-6](?:[ -]?\d){13,18}(?![\w-])")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
_NOT_MAIL: Final = ("git@",)  # the user of a forge's address, nobody in particular
_CARD_LENGTHS: Final = range(14, 20)


def hide_credentials(text: str) -> str:
    """Without what is plainly a credential, whoever it belongs to."""
    if any(mark in text for mark in _TOKEN_MARKS):
        text = _TOKENS.sub(CREDENTIAL, text)
    if "PRIVATE KEY" in text:
        text = _KEY.sub(CREDENTIAL, text)
    if "://" in text and "@" in text:
        text = _URL.sub(CREDENTIAL, text)
    low = text.lower()
    if any(mark in low for mark in _PAIR_MARKS):
        text = _HEADER.sub(_hide_value, text)
        text = _PAIR.sub(_hide_value, text)
    return text


def hide_personal(text: str) -> str:
    """Without mail addresses, international phone numbers, and numbers of cards and bank accounts.

    The last two only where their check digits agree (ISO/IEC 7812-1, ISO 13616).
    """
    if "@" in text:
        text = _MAIL.sub(lambda found: found[0] if found[0].startswith(_NOT_MAIL) else PERSONAL, text)
    if "+" in text:
        text = _PHONE.sub(PERSONAL, text)
    if any(letter.isdigit() for letter in text):
        text = _CARD.sub(lambda found: PERSONAL if _is_card(found[0]) else found[0], text)
        text = _IBAN.sub(lambda found: PERSONAL if _is_iban(found[0]) else found[0], text)
    return text


def _hide_value(found: re.Match[str]) -> str:
    value = found["value"]
    return found[0] if value.strip(".").lower() in _PLAIN else found["name"] + CREDENTIAL


_PLAIN: Final = frozenset({"required", "missing", "invalid", "expired", "unknown", "undefined", "string"})


def _is_card(text: str) -> bool:
    digits = [int(letter) for letter in text if letter.isdigit()]
    if len(digits) not in _CARD_LENGTHS or len(set(digits)) == 1:
        return False
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]  # noqa: PLR2004 - Luhn's rule
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    plain = text.replace(" ", "")
    return int("".join(str(int(letter, 36)) for letter in plain[4:] + plain[:4])) % 97 == 1
