"""Content of videos that the gateway keeps itself: what is known of it, and the ports to where it is kept.

The bytes are an object, everything else is a row. What is to be copied is written with the end of its job, and what
is to be deleted with the deletion of its video, so that neither is forgotten, whoever dies. Each attempt at copying
has an object of its own: nobody ever writes over what another has stored.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

from server.domain.video import Variant
from server.domain.video_jobs import VideoJob

__all__ = ["ContentRows", "ContentState", "KeptContent", "ObjectStore", "StoreFailure"]

ContentState: TypeAlias = Literal["wanted", "stored", "doomed"]
"""To be copied; there to be downloaded until it expires; to be deleted."""


class KeptContent(msgspec.Struct, frozen=True, kw_only=True):
    """One variant of one video, `suffix` being the video's. Times are in seconds since 1970.

    `attempts` counts the objects that were begun, `failures` what went wrong in a row. `object_key`, `size`,
    `content_type`, `etag` and `expires_at` are known of what is stored.
    """

    suffix: str
    variant: Variant
    state: ContentState
    created_at: int
    attempts: int = 0
    failures: int = 0
    object_key: str | None = None
    size: int = 0
    content_type: str = ""
    etag: str = ""
    expires_at: int = 0

    @property
    def keys(self) -> Sequence[str]:
        """Of all objects that there may be of it, the newest last."""
        return [f"{self.suffix}-{self.variant}-{attempt}" for attempt in range(1, self.attempts + 1)]


class StoreFailure(Exception):
    """The object store did not do what it was asked. `cause` is a short word for it, for logs."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class ObjectStore(Protocol):
    """Where the bytes are. Raises StoreFailure. A key is the gateway's own, never anything that a client sent."""

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        """Store all of it, or nothing; what `chunks` raises is raised. Memory is bounded, whatever the length."""
        ...

    async def get(self, key: str, start: int, end: int, size: int) -> AsyncGenerator[bytes, None] | None:
        """The bytes from `start` up to `end` as they are read; None where there is no object of `size` bytes."""
        ...

    async def delete(self, key: str) -> None:
        """Have it gone; one that is not there is."""
        ...

    async def purge(self, max_age_s: int) -> int:
        """Delete some of what is older than anything that is kept, so that no row knows it any more; how many.

        Call it again until it says 0.
        """
        ...


class ContentRows(Protocol):
    """All raise GatewayError (`database_unavailable`). Who claims a row has its lease, under the name of his worker."""

    async def find(self, suffix: str, variant: Variant) -> KeptContent | None:
        """What is stored, and has not expired."""
        ...

    async def next_due(self, but_of: Collection[str] = ()) -> float | None:
        """When there is something to copy or to delete, in none of the states `but_of`; None where there is nothing."""
        ...

    async def claim(self, until: float, limit: int, but_of: Collection[str] = ()) -> Sequence[KeptContent]:
        """Lease what is due, the longest due first, in none of the states `but_of`; nobody else gets it.

        What is wanted begins its next attempt.
        """
        ...

    async def job_of(self, content: KeptContent) -> VideoJob | None:
        """None where its team has deleted it."""
        ...

    async def keep(self, content: KeptContent, until: float) -> bool:
        """Prolong one's lease; False where it is lost."""
        ...

    async def store(self, content: KeptContent, others: Sequence[Variant]) -> bool:
        """It is stored as it says, and `others` are wanted. False where it is not ours, or its video is gone.

        What was stored is the caller's to delete then.
        """
        ...

    async def postpone(self, content: KeptContent, due_at: float) -> None:
        """It failed once more: try again then."""
        ...

    async def give_up(self, content: KeptContent) -> None:
        """Forget it, if it is still ours, and have its job say no longer that it is kept."""
        ...

    async def drop(self, content: KeptContent) -> None:
        """Forget it, if it is still ours."""
        ...

    async def kept_bytes(self) -> int:
        """What all that is stored adds up to."""
        ...
