"""Videos: jobs that take minutes and outlive the request, and the process, that began them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from enum import StrEnum
from typing import Final, Literal, Protocol, Self, TypeAlias

import msgspec

from server.domain.catalog import Offer, VideoVariant
from server.domain.errors import AttemptFailure, FailureCategory, ProviderFailure
from server.domain.request import Request
from server.domain.upload import Upload
from server.domain.usage import Usage

__all__ = [
    "CONTENT_GONE",
    "TERMINAL",
    "VARIANTS",
    "Content",
    "FetchedPicture",
    "JobReport",
    "LinkedPicture",
    "PictureSource",
    "Variant",
    "Video",
    "VideoAbilities",
    "VideoAdapter",
    "VideoBilling",
    "VideoFault",
    "VideoRequest",
    "VideoStatus",
    "may_have_begun",
]

MAX_SECONDS: Final = 600

CONTENT_GONE: Final = "content_gone"
"""The code of a failure to get content that the provider no longer has; a fresh `handle` may help where it had one."""

Variant: TypeAlias = VideoVariant
VARIANTS: Final[tuple[Variant, ...]] = ("video", "thumbnail", "spritesheet")


class VideoStatus(StrEnum):
    """`completed`, `failed`, `cancelled` and `expired` are for good; a job that is `completed` is charged, no other."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


TERMINAL: Final = frozenset({VideoStatus.COMPLETED, VideoStatus.FAILED, VideoStatus.CANCELLED, VideoStatus.EXPIRED})


class LinkedPicture(msgspec.Struct, frozen=True):
    """A picture at an address that a client has chosen; `param` is the client's name of the field."""

    url: str
    param: str


class VideoRequest(Request, frozen=True, kw_only=True):
    """A video to be made of `prompt`. None leaves a choice to the provider.

    `size` is `<width>x<height>` in pixels; or `resolution` (`720p`, `1080p`) and `aspect_ratio` (`16:9`) say as much.
    `reference` is the picture that it begins with or is led by; `linked` says where that has to be fetched from, before
    an adapter sees the request. `remix_of` is the id of a video that this one
    changes: the client's at first, to an adapter the provider's own.
    """

    prompt: str
    seconds: int | None = None
    size: str | None = None
    resolution: str | None = None
    aspect_ratio: str | None = None
    seed: int | None = None
    negative_prompt: str | None = None
    reference: Upload | None = None
    linked: LinkedPicture | None = None
    remix_of: str | None = None


class VideoBilling(msgspec.Struct, frozen=True):
    """What a video has to do with its team's credit: held as long as it is made, then charged or given back, once."""

    state: Literal["reserved", "settled", "void"]
    reserved_nanos: int
    total_nanos: int


class VideoFault(msgspec.Struct, frozen=True):
    """Why there is no video, in words that its team may read."""

    code: str
    message: str


class Video(msgspec.Struct, frozen=True, kw_only=True):
    """A video as its team sees it, made or in the making. Times are in seconds since 1970.

    `seconds` and `size` are those of what was made, and before that those asked for. `expires_at`: until when its
    content can be had, from the gateway or else from the provider, as far as that is known. `poll_after_seconds`: when
    there may be news, None once it has ended. `remixed_from` is the id of the video that this one changes.
    """

    suffix: str
    model: str
    status: VideoStatus
    prompt: str
    created_at: int
    billing: VideoBilling
    progress: int = 0
    started_at: int | None = None
    completed_at: int | None = None
    expires_at: int | None = None
    seconds: float | None = None
    size: str | None = None
    poll_after_seconds: int | None = None
    provider: str | None = None
    usage: Usage | None = None
    error: VideoFault | None = None
    remixed_from: str | None = None

    @property
    def id(self) -> str:
        return f"video_{self.suffix}"

    @property
    def has_ended(self) -> bool:
        return self.status in TERMINAL


class JobReport(msgspec.Struct, frozen=True):
    """What a provider says of a job. A status that the tables do not know is `IN_PROGRESS`: its deadline ends it.

    `progress` is 0 to 100. `seconds` and `size` are those of what was made. `handle` is what its content is asked for
    by, where that is not the job's id; it never leaves the gateway. `failure` says what went wrong. `usage` is what
    the provider counted, where it does, and `cost_nanos` what it says that it charged the gateway's account.
    """

    native_id: str
    status: VideoStatus
    progress: int | None = None
    poll_after_s: float | None = None
    seconds: float | None = None
    size: str | None = None
    handle: str | None = None
    expires_at: int | None = None
    failure: AttemptFailure | None = None
    usage: Usage | None = None
    cost_nanos: int | None = None


_REFUSALS: Final = frozenset(
    {
        FailureCategory.CALLER_ERROR,
        FailureCategory.CONTEXT_LENGTH,
        FailureCategory.CONTENT_POLICY,
        FailureCategory.CREDENTIALS,
        FailureCategory.QUOTA_EXHAUSTED,
        FailureCategory.RATE_LIMITED,
        FailureCategory.MODEL_NOT_FOUND,
        FailureCategory.NO_CAPACITY,
    }
)


def may_have_begun(failure: ProviderFailure) -> bool:
    """Whether a submit that failed so may have begun a job after all, so that it must not be sent anew.

    False where nothing was sent, and where the provider refused it in words; True where a reply was lost, was no reply
    of the API, or says only that something broke.
    """
    if not failure.was_sent or failure.category in _REFUSALS or 300 <= failure.status < 400:
        return False
    if failure.category is FailureCategory.OVERLOADED:
        return failure.upstream.code is None and failure.retry_after_s is None  # a proxy says no more than 503
    return True


class FetchedPicture(Upload, Protocol):
    """Whoever has fetched it lets go of it."""

    def close(self) -> None: ...


class PictureSource(Protocol):
    """Fetches what clients give the address of."""

    def check(self, picture: LinkedPicture) -> None:
        """Raise GatewayError (`invalid_value`) where its address is none that is called."""
        ...

    async def fetch(self, picture: LinkedPicture) -> FetchedPicture:
        """A picture of a kind and size that is taken. Raises GatewayError naming the field."""
        ...


class Content(Protocol):
    """A reply whose body is on its way. Leaving the context closes it, read to its end or not."""

    @property
    def status(self) -> int:
        """200; 206 where a part was asked for and is what comes; 416 where that part lies outside."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """`content-type`, and as far as they are known `content-length`, `content-range`, `accept-ranges`, `etag`."""
        ...

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes in, no faster than it is pulled. Empty after a 416. Raises ProviderFailure."""
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exc_info: object) -> None: ...


class VideoAbilities(msgspec.Struct, frozen=True):
    """What else an offer can be asked for: the names of fields, `remix` for changing a video, and the words of two.

    Words are empty where they are the provider's own matter, or where the field is not among the `fields`.
    """

    fields: tuple[str, ...] = ()
    resolutions: tuple[str, ...] = ()
    aspect_ratios: tuple[str, ...] = ()


class VideoAdapter(Protocol):
    """One dialect's way to make videos. All of it raises ProviderFailure.

    Whatever concerns one job is done with the offer, and so with the account, that it was submitted to. Deadlines are
    the caller's: an await that is cancelled closes its connection at once. `submit` that is cancelled, or that fails
    so that `may_have_begun`, is not to be tried anew but where `Offer.videos.idempotent`, with the same offer and key.
    """

    def unsupported(self, offer: Offer, request: VideoRequest) -> str | None:
        """None where the dialect and the offer can do all that `request` asks, else the client's name of what not.

        Raises GatewayError where `provider_options` holds what no client may set.
        """
        ...

    def abilities(self, offer: Offer) -> VideoAbilities:
        """What `unsupported` lets through."""
        ...

    async def submit(self, offer: Offer, request: VideoRequest, key: str) -> JobReport:
        """Begin a job. `key` is the same for the same job: providers that know idempotency keys get it as one."""
        ...

    async def poll(self, offer: Offer, native_id: str) -> JobReport:
        """What has become of it: `FAILED` as well where the provider does not know it any more."""
        ...

    async def cancel(self, offer: Offer, native_id: str) -> bool:
        """Have it ended; False where the provider cannot do that."""
        ...

    async def delete(self, offer: Offer, native_id: str) -> bool:
        """Have what was made deleted; False where the provider cannot do that."""
        ...

    async def content(
        self, offer: Offer, native_id: str, handle: str | None, variant: Variant, byte_range: str | None
    ) -> Content:
        """The bytes of what was made, or the part that `byte_range` (a `range` header) names.

        Returns when the head of the reply is in. What a HEAD asks is told by it, too: leave the context unread.
        """
        ...
