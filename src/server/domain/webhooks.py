"""Webhooks: where a team wants to be told of what happens to its videos, and what has been told so far.

An event is kept in the transaction of the change that it tells of, with a delivery for each endpoint that wants it. A
delivery belongs to nobody: whichever worker has its lease sends it, and another takes it over once that has run out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from server.domain.keys import Actor

__all__ = [
    "DELIVERY_STATES",
    "EVENT_TYPES",
    "TEST_EVENT",
    "Delivery",
    "DeliveryState",
    "DisabledReason",
    "DueDelivery",
    "IssuedWebhook",
    "NewWebhook",
    "Outcome",
    "Poster",
    "Reply",
    "Webhook",
    "WebhookChanges",
    "WebhookQueue",
    "WebhookStore",
    "difference",
]

EVENT_TYPES: Final = ("video.in_progress", "video.completed", "video.failed", "video.cancelled", "video.expired")
"""What can be asked for: `video.` and the status that a job has come to."""
TEST_EVENT: Final = "webhook.test"
"""Sent where it is asked for, whatever else an endpoint wants."""

DeliveryState: TypeAlias = Literal["pending", "delivered", "dead"]
DELIVERY_STATES: Final[tuple[DeliveryState, ...]] = ("pending", "delivered", "dead")

DisabledReason: TypeAlias = Literal["gone", "failing"]
"""`gone`: the receiver answered 410; `failing`: nothing could be delivered for days."""


class NewWebhook(msgspec.Struct, frozen=True):
    """An endpoint to be made. `events` None: all that there are, and will be."""

    url: str
    events: tuple[str, ...] | None = None
    description: str = ""
    disabled: bool = False


class WebhookChanges(msgspec.Struct, frozen=True):
    """What is to be another; UNSET stays as it is."""

    url: str | UnsetType = UNSET
    events: tuple[str, ...] | UnsetType | None = UNSET
    description: str | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint without its secrets. Times are in seconds since 1970.

    `disabled_reason` is None where its team has disabled it. The secret before the last rotation signs as well until
    `previous_expires_at`. `failing_since`: nothing could be delivered from then on.
    """

    suffix: str
    team_id: str
    url: str
    events: tuple[str, ...] | None
    description: str
    disabled: bool
    disabled_reason: DisabledReason | None
    created_at: int
    updated_at: int | None
    previous_expires_at: int | None
    failing_since: int | None

    @property
    def id(self) -> str:
        return f"wh_{self.suffix}"


class IssuedWebhook(msgspec.Struct, frozen=True):
    """An endpoint with the secret that it has just been given."""

    webhook: Webhook
    secret: str

    def __repr__(self) -> str:
        return f"IssuedWebhook(webhook={self.webhook!r})"


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One event for one endpoint. Times are in seconds since 1970.

    `subject` is the id of what the event tells of. `attempts` and `created_at` begin anew with a replay. `status` is
    what the receiver answered last, None where it did not; `error` says in one word what went wrong with the last
    attempt. `due_at` is when it is sent next, at the earliest; None once it has ended.
    """

    webhook_id: str
    event_suffix: str
    event_type: str
    subject: str
    state: DeliveryState
    attempts: int
    created_at: int
    due_at: int | None
    attempted_at: int | None
    ended_at: int | None
    status: int | None
    error: str | None

    @property
    def id(self) -> str:
        return f"whd_{self.event_suffix}"

    @property
    def event_id(self) -> str:
        return f"evt_{self.event_suffix}"


class DueDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to send. `secrets` are those that sign, the newest first; `queued_at` begins anew with a replay."""

    number: int
    team_id: str
    webhook_suffix: str
    event_suffix: str
    url: str
    secrets: tuple[str, ...]
    disabled: bool
    attempts: int
    queued_at: float
    payload: bytes

    def __repr__(self) -> str:
        return f"DueDelivery(number={self.number!r}, webhook_suffix={self.webhook_suffix!r})"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an attempt. `due_at` is set where another is made. `disable`: the endpoint wants no more of them.

    `failing_s`: an endpoint with a dead delivery, to which nothing could be delivered for so long, is disabled.
    """

    state: DeliveryState
    at: float
    status: int | None = None
    error: str | None = None
    due_at: float | None = None
    disable: bool = False
    failing_s: float | None = None


class Reply(msgspec.Struct, frozen=True):
    """What a receiver answered; `error` says in one word why there is no answer."""

    status: int | None
    retry_after_s: float | None = None
    error: str | None = None


class Poster(Protocol):
    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Send a POST and return when the head of the answer is in. Redirects are answers like others.

        Deadlines are the caller's: cancelling it closes the connection. Raises nothing else.
        """
        ...


class WebhookStore(Protocol):
    """The endpoints of teams; to a team, another team's do not exist. All raise GatewayError (`database_unavailable`).

    A change is in the audit log, under the name of its actor.
    """

    async def create(self, actor: Actor, new: NewWebhook) -> IssuedWebhook:
        """Raises `too_many_webhooks`."""
        ...

    async def get(self, team_id: str, suffix: str) -> Webhook | None: ...

    async def list(self, team_id: str) -> Sequence[Webhook]:
        """All of them, the oldest first."""
        ...

    async def change(self, actor: Actor, suffix: str, changes: WebhookChanges) -> Webhook | None:
        """None where there is none. To disable one ends what waits to be delivered to it, as `dead`."""
        ...

    async def rotate(self, actor: Actor, suffix: str, overlap_s: int) -> IssuedWebhook | None: ...

    async def delete(self, actor: Actor, suffix: str) -> bool:
        """Forget it and its deliveries: whether there was one."""
        ...

    async def test(self, team_id: str, suffix: str) -> Delivery | None:
        """Queue an event of the type TEST_EVENT. None where there is no such endpoint; raises `not_ready`."""
        ...

    async def deliveries(
        self, team_id: str, suffix: str, *, state: DeliveryState | None, after: str | None, limit: int
    ) -> Sequence[Delivery] | None:
        """Deliveries, the newest first, beyond the one of the event `after`. None where there is no such endpoint."""
        ...

    async def replay(self, team_id: str, suffix: str, event_suffix: str) -> Delivery | None:
        """Queue a delivery that has ended once more; one that waits stays as it is.

        None where there is no such delivery. Raises `not_ready` where the endpoint is disabled.
        """
        ...

    async def replay_dead(self, team_id: str, suffix: str, since: int, limit: int) -> int | None:
        """Queue what died of events since then, the oldest first; how many. None, raises: as `replay`."""
        ...


class WebhookQueue(Protocol):
    """What there is to deliver. All raise GatewayError (`database_unavailable`)."""

    async def claim(self, until: float, limit: int, but_to: Collection[str] = ()) -> Sequence[DueDelivery]:
        """Lease deliveries that are due, the longest due first; none to the endpoints `but_to`, or to those teams'.

        None of an event before which another of the same job waits for the same endpoint.
        """
        ...

    async def next_due(self, but_to: Collection[str] = ()) -> float | None:
        """When the next is due; None where there is none."""
        ...

    async def record(self, due: DueDelivery, outcome: Outcome) -> bool:
        """Write what came of a delivery whose lease is ours; False where it is not."""
        ...

    async def release(self, numbers: Collection[int]) -> None:
        """Give back leases of what has not been sent to its end."""
        ...


def difference(before: Webhook | None, after: Webhook | None) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What the audit log says of a change: the fields that differ, as they were and as they are."""
    old, new = _shown(before), _shown(after)
    if old is None or new is None:
        return old, new
    names = [name for name in new if new[name] != old[name]]
    return {name: old[name] for name in names}, {name: new[name] for name in names}


def _shown(webhook: Webhook | None) -> dict[str, Any] | None:
    if webhook is None:
        return None
    return {
        "url": webhook.url,
        "events": webhook.events,
        "description": webhook.description,
        "disabled": webhook.disabled,
        "previous_secret_expires_at": webhook.previous_expires_at,
    }
