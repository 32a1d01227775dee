"""Videos as their teams ask for them: begin one, look at it, watch it, fetch it, end it, forget it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar

import msgspec
import structlog
from msgspec.structs import replace

from server.domain import limits
from server.domain.catalog import Catalog, Dialect, Offer, Routing
from server.domain.errors import GatewayError, Reason
from server.domain.identity import Call, Principal
from server.domain.ledger import Hold, Ledger, Settlement
from server.domain.ports import CatalogSource, Clock
from server.domain.pricing import upper_bound
from server.domain.request import Endpoint
from server.domain.routing import Route
from server.domain.upload import HeldUpload, Upload
from server.domain.video import (
    VARIANTS,
    Content,
    PictureSource,
    Variant,
    Video,
    VideoAdapter,
    VideoRequest,
    VideoStatus,
)
from server.domain.video_jobs import JobFacts, Order, VideoJob, VideoJobStore
from server.domain.work import Work
from server.pipeline.admit import estimate_prompt, is_billable, opening
from server.pipeline.health.offers import Health
from server.pipeline.health.router import RankByHealth
from server.pipeline.pseudonyms import pseudonymised
from server.pipeline.refusals import refusal
from server.pipeline.route import candidates
from server.pipeline.shutdown import Shutdown
from server.pipeline.tenancy import refuse_shared_ids
from server.pipeline.video_account import CANCELLED, OUTCOME_UNKNOWN, seen
from server.pipeline.video_contents import KeptContents
from server.pipeline.video_looks import Looks
from server.pipeline.video_relay import relayed
from server.pipeline.video_submit import Lost, Refused, Submissions, Superseded, Taken, expected_seconds, kept

__all__ = ["VideoPage", "Videos"]

T = TypeVar("T")

DEADLINE_S: Final = 3600
"""How long a video may take before it expires."""
WATCH_S: Final = 1.0
"""How often it is looked whether there is news for who watches."""
SAVE_S: Final = 60.0
"""How long a job that a provider has taken waits for a database that is away."""
SAVE_PAUSE_S: Final = 0.5
RECORD_WAIT_S: Final = 2.0
KEEPS_IN_LEASE: Final = 3
KEY_S: Final = 86_400
"""How long an idempotency key means the same request."""

_ID: Final = re.compile(r"(?:(?:video|gen)_)?([0-9a-f]{32})")
_ORDERS: Final = ("asc", "desc")

_log: Final = structlog.get_logger(__name__)


class VideoPage(msgspec.Struct, frozen=True):
    """Videos by age. `next_cursor` is the `after` of the next page; None where there is none."""

    data: Sequence[Video]
    limit: int
    next_cursor: str | None


class Videos:
    """Another team's videos do not exist. `lease_s`: how long a job waits for a worker that has said nothing.
    `contents`: what the gateway keeps itself; without them, all content is relayed from its provider.

    Close it before the ledger: what it has begun to submit is still brought to an end.
    """

    def __init__(
        self,
        catalog: CatalogSource,
        adapters: Mapping[Dialect, VideoAdapter],
        store: VideoJobStore,
        ledger: Ledger,
        looks: Looks,
        clock: Clock,
        shutdown: Shutdown,
        health: Health,
        *,
        lease_s: float,
        deadline_s: int = DEADLINE_S,
        contents: KeptContents | None = None,
        pictures: PictureSource | None = None,
    ) -> None:
        self._catalog = catalog
        self._faces = {dialect: _Face(adapter) for dialect, adapter in adapters.items()}
        self._store = store
        self._ledger = ledger
        self._looks = looks
        self._clock = clock
        self._shutdown = shutdown
        self._health = health
        self._rank = RankByHealth(health)
        self._submit = Submissions(self._saved, adapters, clock, health)
        self._lease_s = lease_s
        self._deadline_s = deadline_s
        self._contents = contents
        self._pictures = pictures
        self._running: set[asyncio.Task[Any]] = set()

    async def create(self, call: Call, request: VideoRequest) -> Video:
        """Begin a video; it is in good hands when this returns, and goes on if the caller leaves before.

        `request.remix_of` is the id of a complete video of the team; where `request.model` is empty, that one's model
        is used. A job of which nobody knows whether its provider has it is answered as `failed`; what no provider has
        taken is an error. Raises GatewayError.
        """
        self._shutdown.check()
        refuse_shared_ids(request)
        if (begun := await self._begun(call, request)) is not None:
            return seen(begun)
        catalog, facts = self._catalog.current, JobFacts(request.prompt, request.seconds, request.size)
        if request.remix_of is not None:
            request, facts = await self._remixed(call.principal, request)
        route = self._route(call, request, catalog)
        request = pseudonymised(request, call.principal.team_id)
        if request.linked is None:
            return await self._to_the_end(self._create(call, request, facts, route, catalog), request.reference)
        picture = await self._source.fetch(request.linked)
        try:
            request = replace(request, reference=picture, linked=None)
            route = self._route(call, request, catalog)
            return await self._to_the_end(self._create(call, request, facts, route, catalog), picture)
        finally:
            picture.close()

    async def get(self, principal: Principal, video_id: str) -> Video:
        """By `video_<x>` or `<x>`. Raises GatewayError (`resource_not_found`)."""
        return seen(await self._find(principal, video_id))

    async def list(
        self, principal: Principal, *, after: str | None = None, limit: int | None = None, order: str = "desc"
    ) -> VideoPage:
        """Raises GatewayError (`invalid_value`) naming what is wrong."""
        limits.check_choice(order, _ORDERS, "order")
        by: Order = "asc" if order == "asc" else "desc"
        limit, cursor = limits.page_size(limit), None
        if after is not None:
            match = _ID.fullmatch(after)
            if match is None:
                raise limits.invalid_value("after", "must be the id of a video, video_<x>")
            cursor = match[1]
        jobs = await self._store.page(principal.team_id, after=cursor, limit=limit + 1, order=by)
        page = [seen(job) for job in jobs[:limit]]
        return VideoPage(page, limit, page[-1].id if len(jobs) > limit else None)

    async def cancel(self, principal: Principal, video_id: str) -> Video:
        """End a video that is in the making; one that has ended stays as it is. Raises GatewayError."""
        while True:
            job = await self._find(principal, video_id)
            if job.has_ended:
                return seen(job)
            unsubmitted = job.native_id is None
            ended = await self._looks.end(
                job, VideoStatus.CANCELLED, fault=CANCELLED, unsubmitted=unsubmitted, goodbye="cancel"
            )
            if ended is not None:
                await self._to_the_end(self._looks.cancel(ended))
                return seen(ended)

    async def delete(self, principal: Principal, video_id: str) -> Video:
        """Forget a video, here and where it was made; one in the making is cancelled first. What it was.

        Raises GatewayError (`resource_not_found`).
        """
        job = await self._find(principal, video_id)
        if not job.has_ended:
            await self.cancel(principal, video_id)
            job = await self._find(principal, video_id)
        if not await self._store.delete(job.team_id, job.suffix):
            raise _not_found()
        await self._to_the_end(self._looks.delete(job))
        return seen(job)

    async def content(
        self, principal: Principal, video_id: str, variant: str = VARIANTS[0], byte_range: str | None = None
    ) -> Content:
        """What was made, or the part of it that `byte_range` (a `range` header) names; to be entered, and left.

        It comes from where the gateway keeps it, or else from its provider. What its `chunks` raises is a GatewayError.
        Raises GatewayError: `resource_not_found` where there is none, or no longer, `not_ready` before there is any.
        """
        limits.check_choice(variant, VARIANTS, "variant")
        wanted: Variant = next(one for one in VARIANTS if one == variant)
        job = await self._find(principal, video_id)
        if not job.has_ended:
            raise GatewayError(
                Reason.NOT_READY, f'The video is {job.status.value}: it has content once it is "completed".'
            )
        if job.status is not VideoStatus.COMPLETED:
            raise GatewayError(Reason.RESOURCE_NOT_FOUND, f"The video is {job.status.value}: it has no content.")
        if job.kept_until is not None and job.kept_until <= self._clock.now():
            raise GatewayError(Reason.RESOURCE_NOT_FOUND, "The content of this video has expired.")
        if self._contents is not None and (kept := await self._contents.open(job, wanted, byte_range)) is not None:
            return kept
        return await relayed(self._looks, job, wanted, byte_range)

    async def watch(self, principal: Principal, video_id: str) -> AsyncGenerator[Video, None]:
        """The video as it is, and again whenever it has changed, until it has ended. Raises GatewayError."""
        self._shutdown.check_leaving()
        video = await self.get(principal, video_id)
        yield video
        while not video.has_ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S):
                    await self._shutdown.leaving.wait()
            self._shutdown.check_leaving()
            newer = await self.get(principal, video_id)
            if newer != video:
                video = newer
                yield video

    async def close(self, grace_s: float) -> None:
        """Wait for what is being submitted, but not for longer; a job that is left is found by its lease."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _find(self, principal: Principal, video_id: str) -> VideoJob:
        match = _ID.fullmatch(video_id)
        job = match and await self._store.get(principal.team_id, match[1])
        if not job:
            raise _not_found()
        return job

    async def _begun(self, call: Call, request: VideoRequest) -> VideoJob | None:
        """The job of the same request, where its worker died before it had answered."""
        key = call.progress.key
        if key is None:
            return None
        job = await self._store.find(call.principal.team_id, key, call.arrival.created_at - KEY_S)
        return job if job is not None and _may_be_of(job.facts, request) else None

    def _route(self, call: Call, request: VideoRequest, catalog: Catalog) -> Route:
        """Raises GatewayError. A picture that is not there yet is taken for one that everybody takes."""
        if request.linked is not None:
            self._source.check(request.linked)
            request = replace(request, reference=HeldUpload(b"", "image/png"))
        policy, held_to = call.principal.policy, call.principal.restrictions
        return candidates(catalog, request, self._faces, self._rank, self._health.drained, policy, held_to)

    @property
    def _source(self) -> PictureSource:
        assert self._pictures is not None, "who takes addresses can fetch from them"
        return self._pictures

    async def _remixed(self, principal: Principal, request: VideoRequest) -> tuple[VideoRequest, JobFacts]:
        """The request with the provider's own id, for nobody but the provider that has the video."""
        assert request.remix_of is not None
        source = await self._find(principal, request.remix_of)
        if source.status is not VideoStatus.COMPLETED:
            raise GatewayError(
                Reason.NOT_READY, f'The video is {source.status.value}: it can be changed once it is "completed".'
            )
        wishes = request.routing
        if wishes.only and source.provider not in wishes.only:
            raise limits.invalid_value("provider.only", f"must have {source.provider}, which has the video")
        facts = JobFacts(
            request.prompt,
            request.seconds or source.expected_seconds,
            request.size or source.size or source.facts.size,
            source.suffix,
        )
        wishes = replace(wishes, only=(source.provider,), fallback_models=())
        model = request.model or source.model
        return replace(request, model=model, remix_of=source.native_id, routing=wishes), facts

    async def _create(
        self, call: Call, request: VideoRequest, facts: JobFacts, route: Route, catalog: Catalog
    ) -> Video:
        """Keep it, submit it, and keep what came of that."""
        asked = replace(request, seconds=facts.seconds)
        job = replace(self._opened(call, asked, facts, route), kept=await kept(request, route))
        await self._open(call, job)
        async with self._kept(job):
            came = await self._submitted(job, request, route, catalog.routing)
        if isinstance(came, Refused):
            await self._settle(call, request, came)
            raise came.error
        if came is None:
            raise _not_found()
        return seen(came)

    async def _open(self, call: Call, job: VideoJob) -> None:
        """Keep it; from then on its record is that of its end."""
        progress, held = call.progress, job.held_nanos
        hold = None if held is None else Hold(held, job.opening, call.principal.spend_limit)
        try:
            await self._store.open(job, hold, key=progress.key)
        except GatewayError as error:
            # It may be kept all the same. Who comes again with its key finds it; who has none begins another.
            if error.reason is Reason.DATABASE_UNAVAILABLE and progress.key is None:
                self._begin(self._insist(lambda: self._store.withdraw(job.suffix)))
            raise
        if not progress.defers:
            progress.settlement = Settlement(job.opening, hold is not None)

    async def _submitted(
        self, job: VideoJob, request: VideoRequest, route: Route, routing: Routing
    ) -> VideoJob | Refused | None:
        """The job as it is once that is done, or as it was last known to be; None where it has been deleted.

        It is there now: whoever was told of an error would have it made once more.
        """
        try:
            outcome = await self._submit(job, request, route, routing)
            match outcome:
                case Taken():
                    job = await self._taken(outcome) or job
                case Lost(job) if self._looks.can_ask_again(job):
                    await self._insist(lambda: self._looks.failed(job))
                case Lost(job):
                    job = await self._lost(job) or job
                case Refused(job):
                    if await self._insist(lambda: self._withdrawn(job)):
                        return outcome
                case Superseded():
                    pass
            return await self._store.get(job.team_id, job.suffix)
        except (GatewayError, asyncio.CancelledError):  # the database stays away, or this worker leaves
            return job

    async def _saved(self, job: VideoJob) -> bool:
        return await self._insist(lambda: self._store.save(job, leased=True))

    async def _lost(self, job: VideoJob) -> VideoJob | None:
        status, fault = VideoStatus.FAILED, OUTCOME_UNKNOWN
        return await self._insist(lambda: self._looks.end(job, status, fault=fault, unsubmitted=True))

    async def _withdrawn(self, job: VideoJob) -> bool:
        """Whether it is forgotten, now or by a time before of which no answer came."""
        return await self._store.withdraw(job.suffix) or await self._store.get(job.team_id, job.suffix) is None

    async def _taken(self, taken: Taken) -> VideoJob | None:
        """Keep what the provider says; where that is not to be, it need not go on either."""
        job, native_id = taken.job, taken.report.native_id
        try:
            known = await self._insist(lambda: self._looks.take(job, taken.report))
        except BaseException:
            if not self._looks.can_ask_again(job):
                await self._looks.cancel(replace(job, native_id=native_id))
            raise
        if known is None:
            await self._looks.let_go(job, native_id)
        return known

    def _opened(self, call: Call, request: VideoRequest, facts: JobFacts, route: Route) -> VideoJob:
        """The job as it is kept before anybody has heard of it."""
        candidate, now = route.candidates[0], self._clock.now()
        held = _bound(request, route) if is_billable(route) else None
        return VideoJob(
            opening=opening(call, request),
            model=candidate.model.id,
            status=VideoStatus.QUEUED,
            facts=facts,
            provider=candidate.offer.provider.id,
            provider_model=candidate.offer.provider_model,
            prices=candidate.offer.prices,
            held_nanos=held,
            expected_seconds=expected_seconds(candidate.offer, request),
            deadline_at=int(now) + self._deadline_s,
            due_at=now + self._lease_s,
        )

    async def _settle(self, call: Call, request: VideoRequest, refused: Refused) -> None:
        """The record of a job that no provider took."""
        job, record = refused.job, refusal(call, Endpoint.VIDEO, refused.error, model=request.model)
        record = replace(record, attempts=job.opening.attempts)
        settlement = Settlement(record, job.held_nanos is not None)
        call.progress.settlement = settlement
        if not call.progress.defers:
            with suppress(TimeoutError, GatewayError):
                async with asyncio.timeout(RECORD_WAIT_S):
                    await asyncio.shield(self._ledger.settle(settlement))

    @asynccontextmanager
    async def _kept(self, job: VideoJob) -> AsyncGenerator[None, None]:
        """Keep the lease for as long as it takes."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(self._lease_s / KEEPS_IN_LEASE)
                with suppress(GatewayError):
                    await self._store.keep(job.suffix, self._clock.now() + self._lease_s)

        keeper = asyncio.create_task(keep())
        try:
            yield
        finally:
            keeper.cancel()

    async def _insist(self, write: Callable[[], Awaitable[T]]) -> T:
        """Do what must be written, through an outage of the database. Raises GatewayError where that lasts."""
        give_up_s = self._clock.monotonic() + SAVE_S
        while True:
            try:
                return await write()
            except GatewayError as error:
                if error.reason is not Reason.DATABASE_UNAVAILABLE or self._clock.monotonic() >= give_up_s:
                    raise
                await asyncio.sleep(SAVE_PAUSE_S)

    async def _to_the_end(self, work: Coroutine[Any, Any, T], picture: Upload | None = None) -> T:
        """Have it done, even if the caller leaves, with the picture that it needs.

        Raises GatewayError (`shutting_down`) where this worker leaves.
        """
        task = self._begin(work)
        if picture is not None:
            release = picture.hold()
            task.add_done_callback(lambda _: release())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if task.cancelled() and caller is not None and not caller.cancelling():
                raise GatewayError(Reason.SHUTTING_DOWN, "This gateway is being stopped.") from None
            raise

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, GatewayError):
            _log.error("video_work_failed", cause=type(error).__name__)


class _Face:
    """An adapter as routing sees it."""

    endpoints: Final = frozenset({Endpoint.VIDEO})

    def __init__(self, adapter: VideoAdapter) -> None:
        self._adapter = adapter

    def supports(self, offer: Offer, request: Work) -> str | None:
        assert isinstance(request, VideoRequest), "it is given no other work"
        return self._adapter.unsupported(offer, request)


def _bound(request: VideoRequest, route: Route) -> int:
    """The most that it may cost on any candidate, in nano-dollars."""
    prompt = estimate_prompt(request)
    return max(
        upper_bound(one.offer.prices, prompt, 0, {"video_seconds": expected_seconds(one.offer, request)})
        for one in route.candidates
    )


def _may_be_of(facts: JobFacts, request: VideoRequest) -> bool:
    """Whether a job with the same key is of this request: a key that was let go of may come with another one."""
    if not facts.prompt:  # its team has deleted it
        return True
    is_same = request.remix_of is not None or (facts.seconds, facts.size) == (request.seconds, request.size)
    return is_same and facts.prompt == request.prompt


def _not_found() -> GatewayError:
    return GatewayError(Reason.RESOURCE_NOT_FOUND, "There is no such video.")
