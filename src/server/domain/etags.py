"""Entity tags: a short name of what was sent, by which a client asks whether it still holds (RFC 9110, 8.8.3)."""

from __future__ import annotations

import hashlib

_DIGEST_BYTES = 12


def etag_of(content: bytes) -> str:
    """A weak one: the same for every coding of the same content."""
    return f'W/"{hashlib.blake2b(content, digest_size=_DIGEST_BYTES).hexdigest()}"'


def holds(if_none_match: str, etag: str) -> bool:
    """Whether one of the tags that a client has, or `*`, is this one; by weak comparison."""
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in tags or etag.removeprefix("W/") in tags
