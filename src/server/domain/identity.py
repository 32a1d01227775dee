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


class Arrival(msgspec.Struct, frozen=True):
    """A request at the moment it came in, whoever sent it.

    `suffix` is the id that all of its objects share (`resp_<suffix>`, `gen_<suffix>`). `received_s` and
    `deadline_s` are readings of the clock's monotonic time in seconds; `deadline_s` is None where the caller set no
    deadline. `created_at` is in seconds since 1970.
    """

    suffix: str
    request_id: str
    received_s: float
    created_at: int
    deadline_s: float | None = None

    @property
    def generation_id(self) -> str:
        return f"gen_{self.suffix}"


class Call(msgspec.Struct, frozen=True):
    """An authenticated request under way."""

    arrival: Arrival
    principal: Principal

    @property
    def suffix(self) -> str:
        return self.arrival.suffix
