"""The form of an API key: `aistats_v1_sk_<kid>_<secret>`. Pure: makes keys, takes them apart, hashes their secrets."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import Final

import msgspec

__all__ = ["FORMAT", "MAX_TOKEN_LENGTH", "Token", "hash_secret", "mint", "parse", "renew", "secret_matches"]

FORMAT: Final = "aistats_v1_sk"
"""How new keys begin. Those that begin with `aistats_v1_k` are older, and as good."""

MAX_TOKEN_LENGTH: Final = 256
KID_BYTES: Final = 8
SECRET_BYTES: Final = 32
"""256 bits: nobody guesses that, so it needs no slow hash, only one that can't be undone."""

_TOKEN: Final = re.compile(r"(aistats_v1_s?k)_([a-z0-9]{4,32})_([A-Za-z0-9_-]{32,128})")


class Token(msgspec.Struct, frozen=True):
    """A key in its parts. Never log it: `secret` is all that somebody needs."""

    kid: str
    secret: str
    format: str = FORMAT

    def __str__(self) -> str:
        """The whole key, as its owner sends it."""
        return f"{self.format}_{self.kid}_{self.secret}"

    def __repr__(self) -> str:
        return f"Token(kid={self.kid!r})"


def mint() -> Token:
    """A new key. Hexadecimal, so that a double click selects all of it and no part holds an underscore."""
    return Token(kid=secrets.token_hex(KID_BYTES), secret=secrets.token_hex(SECRET_BYTES))


def renew(kid: str, format: str) -> Token:
    """The key of that id with a new secret."""
    return Token(kid=kid, secret=secrets.token_hex(SECRET_BYTES), format=format)


def parse(text: str) -> Token | None:
    """The parts of a key, or None where `text` can't be one. Costs the same however long `text` is."""
    if len(text) > MAX_TOKEN_LENGTH:
        return None
    match = _TOKEN.fullmatch(text)
    if match is None:
        return None
    return Token(format=match[1], kid=match[2], secret=match[3])


def hash_secret(secret: str) -> bytes:
    """What is stored of a secret: SHA-256, 32 bytes."""
    return hashlib.sha256(secret.encode()).digest()


def secret_matches(secret: str, secret_hash: bytes) -> bool:
    """Whether it is the secret of that hash, in a time that does not tell how close it is."""
    return hmac.compare_digest(hash_secret(secret), secret_hash)
