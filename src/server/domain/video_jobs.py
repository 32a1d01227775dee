"""What is kept of a video job, and the port to where it is kept.

A job belongs to nobody: whichever worker has its lease looks after it, and any other takes it over once that has run
out. How it ends, what becomes of its reservation and its record are written together or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

from server.domain.ledger import Hold, Settlement
from server.domain.pricing import PriceList
from server.domain.record import GenerationRecord
from server.domain.usage import Usage
from server.domain.video import TERMINAL, VideoFault, VideoRequest, VideoStatus

__all__ = ["Goodbye", "GoodbyeStore", "JobFacts", "KeptRequest", "Order", "Verb", "VideoJob", "VideoJobStore"]

Order: TypeAlias = Literal["asc", "desc"]
Verb: TypeAlias = Literal["cancel", "delete"]


class JobFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was asked for, as far as the object or the account of it needs that. `remixed_from` is a suffix."""

    prompt: str = ""
    seconds: int | None = None
    size: str | None = None
    remixed_from: str | None = None


class KeptRequest(msgspec.Struct, frozen=True):
    """What a job is submitted with; `picture` is what the request had as its `reference`."""

    request: VideoRequest
    picture: bytes | None = None
    media_type: str = ""
    filename: str = ""


class VideoJob(msgspec.Struct, frozen=True, kw_only=True):
    """One job. `opening` is its record as far as it is known: whose it is, when it began, which providers were tried.

    `provider` and `provider_model` name the offer that it was submitted to, or is about to be; `prices` are what that
    offer cost then, and `expected_seconds` is how long it makes a video. `native_id` is None until the provider has
    given one; until then the request is `kept` where the job may be submitted again. `held_nanos` is None where nothing
    is reserved. `seconds` and `size` are those of what was made. `errors` counts the looks at it that failed in a row.
    `expires_at` is until when its provider keeps the content, and `kept_until` until when the gateway does, if it does.
    `due_at` is when it is looked at next, or while somebody has its lease, when that runs out. All times are seconds
    since 1970.
    """

    opening: GenerationRecord
    model: str
    status: VideoStatus
    facts: JobFacts
    provider: str
    provider_model: str
    prices: PriceList
    held_nanos: int | None
    expected_seconds: int
    deadline_at: int
    due_at: float
    charged_nanos: int | None = None
    native_id: str | None = None
    kept: KeptRequest | None = None
    handle: str | None = None
    progress: int = 0
    seconds: float | None = None
    size: str | None = None
    started_at: int | None = None
    completed_at: int | None = None
    expires_at: int | None = None
    kept_until: int | None = None
    poll_after_s: float | None = None
    errors: int = 0
    usage: Usage | None = None
    fault: VideoFault | None = None

    @property
    def suffix(self) -> str:
        return self.opening.suffix

    @property
    def team_id(self) -> str:
        return self.opening.team_id

    @property
    def has_ended(self) -> bool:
        return self.status in TERMINAL


class Goodbye(msgspec.Struct, frozen=True):
    """What a provider is yet to be told of a job that is over: to stop, or to forget it. `tries` that failed."""

    job: VideoJob
    verb: Verb
    tries: int


class GoodbyeStore(Protocol):
    """Goodbyes are noted with the end or the deletion of a job, in the same transaction.

    A job has one at a time; to be deleted takes the place of to be cancelled. All raise GatewayError
    (`database_unavailable`).
    """

    async def note(self, job: VideoJob) -> bool:
        """Have a job cancelled that a provider took when it was over already. False where it is known by another id."""
        ...

    async def said(self, suffix: str, verb: Verb) -> None:
        """It need not be said any more."""
        ...

    async def later(self, suffix: str, verb: Verb, due_at: float) -> None:
        """It could not be said, and is to be tried again then."""
        ...

    async def claim(self, until: float, limit: int) -> Sequence[Goodbye]:
        """Those that are due, the longest due first; nobody else gets them before `until`."""
        ...

    async def next_due(self) -> float | None:
        """When the next is due; None where there is none."""
        ...


class VideoJobStore(Protocol):
    """The jobs of all teams; to a team, another team's do not exist. All raise GatewayError (`database_unavailable`).

    Who claims or opens a job has its lease, under the name of his worker.
    """

    @property
    def goodbyes(self) -> GoodbyeStore: ...

    async def open(self, job: VideoJob, hold: Hold | None, *, key: str | None = None) -> None:
        """Keep a job with its reservation, leased until `due_at`; both durable when this returns, or neither.

        `key` is the idempotency key that its request came with.

        Raises GatewayError as `server.domain.ledger.Ledger.reserve`; `overloaded` where the team has too many.
        """
        ...

    async def withdraw(self, suffix: str) -> bool:
        """Forget a job that no provider took, and give back what it held; its record is yet to be written.

        False where it has ended meanwhile, has been taken over, or has been withdrawn already.
        """
        ...

    async def keep(self, suffix: str, until: float) -> bool:
        """Prolong one's lease; False where it is lost."""
        ...

    async def save(self, job: VideoJob, *, leased: bool = False, began: bool = False) -> bool:
        """Write what has become of a job that goes on, to be looked at again at `due_at`; `leased`: by us alone.

        `began`: its provider has only now begun, of which its team may want to be told.
        False where it has ended, or somebody else has its lease.
        """
        ...

    async def finish(
        self, job: VideoJob, settlement: Settlement, *, unsubmitted: bool = False, goodbye: Verb | None = None
    ) -> bool:
        """End a job as `job` says, with its settlement and record: whoever comes first, the others get False.

        `unsubmitted`: only if no provider has given it an id yet. `goodbye`: what the provider that has it is to be
        told.
        """
        ...

    async def claim(self, until: float, limit: int, but_of: Collection[str] = ()) -> Sequence[VideoJob]:
        """Lease jobs that are due, the longest due first; none of the providers `but_of`. Nobody else gets them."""
        ...

    async def next_due(self, but_of: Collection[str] = ()) -> float | None:
        """When the next job is due; None where there is none."""
        ...

    async def get(self, team_id: str, suffix: str) -> VideoJob | None: ...

    async def team_of(self, suffix: str) -> str | None:
        """Whose a job is, for a caller who has shown that he may know; None where there is none, or no longer."""
        ...

    async def find(self, team_id: str, key: str, since: int) -> VideoJob | None:
        """The job whose request came with the idempotency key, not before `since`; one that was deleted as well."""
        ...

    async def page(self, team_id: str, *, after: str | None, limit: int, order: Order) -> Sequence[VideoJob]:
        """At most `limit` jobs by age, those beyond the suffix `after`."""
        ...

    async def delete(self, team_id: str, suffix: str) -> bool:
        """Let an ended job be seen no more, and forget its prompt. False where there is none."""
        ...
