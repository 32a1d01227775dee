"""Who is calling, and the ids that a call is known by."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from server.domain.guardrail import Guardrail, ModerationReport
from server.domain.ledger import Settlement, SpendLimit
from server.domain.request import Sort
from server.domain.restrictions import Restrictions

OnDisconnect = Literal["cancel", "drain"]


class Scope(StrEnum):
    INFERENCE = "inference"
    MANAGEMENT = "management"


class TeamPolicy(msgspec.Struct, frozen=True):
    """What a team has chosen. `on_disconnect` None leaves it to the provider.

    `sort` is for requests that say nothing of it themselves. `regions` are those of the providers that may serve the
    team, None for any; where they are named, a provider whose region nobody has written down is in none of them.
    `guardrail` holds for all of its generations.
    """

    store_content: bool = False
    content_days: int = 30
    on_disconnect: OnDisconnect | None = None
    sort: Sort | None = None
    regions: tuple[str, ...] | None = None
    guardrail: Guardrail | None = None


class Principal(msgspec.Struct, frozen=True):
    """The team and key behind a call, after authentication."""

    team_id: str
    key_id: str
    scopes: frozenset[Scope]
    spend_limit: SpendLimit | None = None
    policy: TeamPolicy = TeamPolicy()
    restrictions: Restrictions = Restrictions()


class Arrival(msgspec.Struct, frozen=True):
    """A request at the moment it came in, whoever sent it.

    `suffix` is the id that all of its objects share (`resp_<suffix>`, `gen_<suffix>`). `received_s` and
    `deadline_s` are readings of the clock's monotonic time in seconds; `deadline_s` is None where the caller set no
    deadline. `created_at` is in seconds since 1970. `client` is the address that it came from, empty where that is not
    known.
    """

    suffix: str
    request_id: str
    received_s: float
    created_at: int
    deadline_s: float | None = None
    client: str = ""

    @property
    def generation_id(self) -> str:
        return f"gen_{self.suffix}"


class Progress:
    """How far a call has come, for those who carry it. The one thing about a call that changes.

    `settlement`: how the generation ended, once that is known; from then on its record is written or on its way.
    `key`: the idempotency key that it came with.
    `defers`: whoever set it hands `settlement` to the ledger, together with the outcome that was sent.
    `client_gone`: nobody waits for the answer any longer, though the work goes on.
    `path`, `body`: the REST request that the call came as, where its team keeps content.
    `moderation`: what has been found in it so far, where that is asked for.
    `is_cut`: whoever reads it wants no more; it ends well, with what was used so far.
    `ending`: why whoever reads it stops, where that is not because the client has gone.
    """

    __slots__ = ("body", "client_gone", "defers", "ending", "is_cut", "key", "moderation", "path", "settlement")

    def __init__(self) -> None:
        self.settlement: Settlement | None = None
        self.key: str | None = None
        self.defers = False
        self.client_gone = False
        self.path = ""
        self.body: bytes | None = None
        self.moderation: ModerationReport | None = None
        self.is_cut = False
        self.ending: Exception | None = None


class Call(msgspec.Struct, frozen=True):
    """An authenticated request under way. `parent_id` is the generation for whose sake the gateway itself makes it."""

    arrival: Arrival
    principal: Principal
    progress: Progress = msgspec.field(default_factory=Progress)
    parent_id: str | None = None

    @property
    def suffix(self) -> str:
        return self.arrival.suffix
