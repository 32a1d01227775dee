"""Who is calling, and the ids that a call is known by."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Scope(StrEnum):
    INFERENCE = "inference"
    MANAGEMENT = "management"


class Principal(msgspec.Struct, frozen=True):
    """The team and key behind a call, after authentication."""

    team_id: str
    key_id: str
    scopes: frozenset[Scope]


class Call(msgspec.Struct, frozen=True):
    """One request under way.

    `suffix` is the id that all of its objects share (`resp_<suffix>`, `gen_<suffix>`). `received_s` and `deadline_s` are
    readings of the clock's monotonic time in seconds; no deadline of the caller's is None.
    """

    suffix: str
    request_id: str
    principal: Principal
    received_s: float
    created_at: int
    deadline_s: float | None = None

    @property
    def generation_id(self) -> str:
        return f"gen_{self.suffix}"


ID_PREFIXES = ("resp_", "chatcmpl-", "msg_", "gen_", "video_")


def suffix_of(any_id: str) -> str:
    """The shared suffix of an id in any of its spellings."""
    for prefix in ID_PREFIXES:
        if any_id.startswith(prefix):
            return any_id[len(prefix) :]
    return any_id
