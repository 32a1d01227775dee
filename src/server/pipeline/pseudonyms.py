"""Identifiers that a client sends and a provider keeps: they leave only as values that no other team can produce.

A prompt cache key or an end user's id that went out as it came in would let two teams on one provider account probe
each other's caches, and would tell the provider who the end user is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from server.domain.parameters import PSEUDONYMISED
from server.domain.request import RawJson, Request

RequestT = TypeVar("RequestT", bound=Request)

_DIGEST_BYTES = 16


def pseudonymised(request: RequestT, team_id: str) -> RequestT:
    """`request` with every such identifier replaced; the same team and value give the same replacement."""
    if not PSEUDONYMISED & (request.passthrough.keys() | request.hints.keys()):
        return request
    return msgspec.structs.replace(
        request, passthrough=_replaced(request.passthrough, team_id), hints=_replaced(request.hints, team_id)
    )


def _replaced(values: Mapping[str, RawJson], team_id: str) -> dict[str, RawJson]:
    return {
        name: msgspec.Raw(_pseudonym(team_id, name, bytes(value))) if name in PSEUDONYMISED else value
        for name, value in values.items()
    }


def _pseudonym(team_id: str, name: str, value: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for piece in (team_id.encode(), name.encode(), value):
        digest.update(len(piece).to_bytes(8))
        digest.update(piece)
    return msgspec.json.encode(digest.hexdigest())
