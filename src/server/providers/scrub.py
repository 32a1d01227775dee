"""Taking out of a provider's words what no client may read: our keys, and addresses."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from server.domain.catalog import Provider
from server.domain.errors import UpstreamError

MAX_MESSAGE_CHARS: Final = 2000
MAX_LABEL_CHARS: Final = 200
"""The longest `code` or `param` kept."""

_MAX_SCANNED_CHARS: Final = 16_000
_SECRET_WINDOW: Final = 8
"""So many characters of a key in a row are a leak."""
_SHORTEST_SECRET: Final = 4
"""Shorter ones are placeholders, which occur in ordinary words."""

_URL: Final = re.compile(r"\b[a-z][a-z0-9+.-]{1,15}://[^\s\"'<>)\]]+", re.IGNORECASE)
_IPV4: Final = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d{1,5})?(?![\w.]*\w)")
_IPV6: Final = re.compile(
    r"\[[0-9a-f:.%]*:[0-9a-f.]*:[0-9a-f:.%\w]*\](?::\d{1,5})?"
    r"|(?<![\w:])(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{1,4}(?![\w:])",
    re.IGNORECASE,
)
_HOST: Final = re.compile(
    r"(?<![\w@.-])(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+"
    r"(?:com|net|org|io|ai|dev|app|cloud|local|internal|localdomain|svc|lan|corp)(?::\d{1,5})?(?![\w-])(?!\.\w)",
    re.IGNORECASE,
)
_LOCALHOST: Final = re.compile(r"\blocalhost(?::\d{1,5})?\b", re.IGNORECASE)
_KEY_LIKE: Final = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|pplx|nvapi|hf|fw|csk|AIza|AQ)[-_.]?[A-Za-z0-9]*[-_*.…][A-Za-z0-9_*.…-]{2,}[A-Za-z0-9_*]"
)
_ACCOUNT: Final = re.compile(r"\b(?:org|proj|acct)[-_][A-Za-z0-9]{6,}\b")

_UNSEEN: Final = re.compile(r"[^!-~]+")
_PLAIN_ID: Final = re.compile(r"req_[0-9A-Za-z]{1,64}|(?:req_)?[0-9a-f-]{1,64}")
"""Most ids of requests. None of the patterns below finds anything in one, and they take 20 µs."""

_PATTERNS: Final = (
    (_URL, "[url]"),
    (_IPV6, "[address]"),
    (_IPV4, "[address]"),
    (_HOST, "[host]"),
    (_LOCALHOST, "[host]"),
    (_KEY_LIKE, "[key]"),
    (_ACCOUNT, "[account]"),
)


def scrubbed(error: UpstreamError, provider: Provider) -> UpstreamError:
    """The same error, bounded, without the provider's key, its address, or anything that looks like one."""
    return UpstreamError(
        code=_clean(error.code, provider, MAX_LABEL_CHARS),
        message=_clean(error.message, provider, MAX_MESSAGE_CHARS),
        param=_clean(error.param, provider, MAX_LABEL_CHARS),
    )


def cleaned_label(text: str | None, provider: Provider) -> str | None:
    """One of a provider's labels, as `scrubbed` leaves it and without what cannot be seen; None where that is all."""
    if text and _PLAIN_ID.fullmatch(text):
        return _without_secret(text, provider.api_key or "")
    return _clean(_UNSEEN.sub("", text[:_MAX_SCANNED_CHARS]), provider, MAX_LABEL_CHARS) if text else None


def _clean(text: str | None, provider: Provider, limit: int) -> str | None:
    if not text:
        return None
    text = _without_secret(text[:_MAX_SCANNED_CHARS], provider.api_key or "")
    for pattern, stand_in in _PATTERNS:
        text = pattern.sub(stand_in, text)
    host = urlsplit(provider.base_url).hostname
    if host and len(host) > 3:
        text = re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w-])", "[host]", text, flags=re.IGNORECASE)
    return text[:limit]


def _without_secret(text: str, secret: str) -> str:
    """`text` with every run of at least `_SECRET_WINDOW` characters of `secret` taken out."""
    width = min(_SECRET_WINDOW, len(secret))
    if width < _SHORTEST_SECRET:
        return text
    if len(text) < len(secret) and not any(text[at : at + width] in secret for at in range(len(text) - width + 1)):
        return text
    leaked = bytearray(len(text))
    for start in range(len(secret) - width + 1):
        piece = secret[start : start + width]
        at = text.find(piece)
        while at >= 0:
            leaked[at : at + width] = b"\x01" * width
            at = text.find(piece, at + 1)
    if not any(leaked):
        return text
    kept = (character if not leaked[at] else "\0" for at, character in enumerate(text))
    return re.sub("\0+", "[key]", "".join(kept))
