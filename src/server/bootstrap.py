"""The composition root of a worker: the one place where all parts meet."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

import structlog
import uvloop

from aistats.gateway.v1 import (
    api_keys_pb2_grpc,
    audio_pb2_grpc,
    chat_pb2_grpc,
    credits_pb2_grpc,
    embeddings_pb2_grpc,
    generations_pb2_grpc,
    health_pb2_grpc,
    images_pb2_grpc,
    messages_pb2_grpc,
    models_pb2_grpc,
    moderation_pb2_grpc,
    pricing_pb2_grpc,
    responses_pb2_grpc,
    videos_pb2_grpc,
    webhooks_pb2_grpc,
)
from rest_bridge.api_keys import ApiKeysRest
from rest_bridge.app import RestApp
from rest_bridge.audio import AudioRest
from rest_bridge.chat import ChatRest
from rest_bridge.credits import CreditsRest
from rest_bridge.documents import Documents
from rest_bridge.embeddings import EmbeddingsRest
from rest_bridge.errors import rest_error
from rest_bridge.generations import GenerationsRest
from rest_bridge.health import HealthRest
from rest_bridge.idempotency import IdempotentRunner
from rest_bridge.images import ImagesRest
from rest_bridge.messages import MessagesRest
from rest_bridge.models import ModelsRest
from rest_bridge.moderations import ModerationsRest
from rest_bridge.pricing import PricingRest
from rest_bridge.responses import ResponsesRest
from rest_bridge.servicer import rest_services
from rest_bridge.videos import VideosRest
from rest_bridge.videos_encode import encode_video
from rest_bridge.webhooks import WebhooksRest
from server.catalogue.load import read_catalog
from server.catalogue.problems import CatalogError
from server.catalogue.watch import ReloadingCatalog
from server.clock import SystemClock, UuidV7
from server.domain.catalog import Dialect
from server.domain.errors import GatewayError
from server.domain.health import HealthExchange, HealthView
from server.domain.ports import CatalogSource, Clock, ProviderAdapter
from server.domain.video import VideoAdapter
from server.hosts.grpc_aio import GrpcAioHost
from server.hosts.host import Host, ListenError
from server.metrics.figures import Figure, Sampled
from server.metrics.meter import Meter, MeteredLedger, breakers
from server.metrics.serve import figures_socket, telling
from server.picture_fetch import PictureFetch
from server.pipeline.api_keys import ApiKeys
from server.pipeline.authenticate import Authenticate
from server.pipeline.count_tokens import TokenEstimate
from server.pipeline.drain import Drains
from server.pipeline.draw import Draw
from server.pipeline.embed import Embed
from server.pipeline.generate import Generator
from server.pipeline.generations import Generations
from server.pipeline.guard import Guarded
from server.pipeline.health.drained import FollowDrained
from server.pipeline.health.feed import Feed
from server.pipeline.health.offers import Health
from server.pipeline.health.report import HealthReport
from server.pipeline.health.share import Sharing
from server.pipeline.health.view import MeasuredHealth
from server.pipeline.moderate import Moderate
from server.pipeline.refusals import RecordRefusals
from server.pipeline.respond import Respond
from server.pipeline.shutdown import Shutdown
from server.pipeline.speak import Speak
from server.pipeline.transcribe import Transcribe
from server.pipeline.video_account import seen
from server.pipeline.video_contents import KeptContents
from server.pipeline.video_goodbyes import Goodbyes
from server.pipeline.video_jobs import VideoRunner
from server.pipeline.video_keeping import ContentKeeper, KeepLimits
from server.pipeline.video_links import VideoLinks
from server.pipeline.video_looks import Looks
from server.pipeline.video_models import VideoModels
from server.pipeline.videos import Videos
from server.pipeline.webhook_delivery import WebhookRunner
from server.pipeline.webhooks import Webhooks
from server.processes import LEAVE, RECORDS_LOST
from server.providers.anthropic import AnthropicAdapter
from server.providers.cohere import CohereAdapter
from server.providers.exchange import Deadlines
from server.providers.gemini import GeminiAdapter
from server.providers.gemini_videos import GeminiVideos
from server.providers.openai import OpenAIAdapter
from server.providers.openai_videos import OpenAIVideos
from server.reception import FrontDesk
from server.rpc.api_keys import ApiKeysServicer
from server.rpc.audio import AudioServicer
from server.rpc.chat import ChatServicer
from server.rpc.credits import CreditsServicer
from server.rpc.embeddings import EmbeddingsServicer
from server.rpc.generations import GenerationsServicer
from server.rpc.health import HealthServicer
from server.rpc.images import ImagesServicer
from server.rpc.interceptors import MAX_CONCURRENT_CALLS, Guard
from server.rpc.messages import MessagesServicer
from server.rpc.models import ModelsServicer
from server.rpc.moderation import ModerationServicer
from server.rpc.pricing import PricingServicer
from server.rpc.readiness import endpoints_served, is_ready
from server.rpc.registry import Registration, Route, guarded_routes
from server.rpc.responses import ResponsesServicer
from server.rpc.videos import VideosServicer
from server.rpc.webhooks import WebhooksServicer
from server.settings import Settings
from server.spool import Spool
from server.storage.api_keys import SqlApiKeys
from server.storage.audit import purge_audit
from server.storage.credits import SqlCredits
from server.storage.database import Database, DatabaseUnusable
from server.storage.deployment_secrets import SqlSecrets
from server.storage.drained import SqlDrained
from server.storage.generations import SqlRecords
from server.storage.group_commit import GroupCommit
from server.storage.health_reports import SqlHealthExchange
from server.storage.idempotency import SqlIdempotencyStore
from server.storage.keys import SqlKeyStore
from server.storage.last_used import LastUsed
from server.storage.ledger import SqlLedger
from server.storage.months import Months
from server.storage.objects import Objects
from server.storage.responses import SqlResponseStore
from server.storage.schema import require_current_schema, verify
from server.storage.sweeper import Sweeper
from server.storage.valkey_health import ValkeyHealthExchange
from server.storage.video_contents import SqlVideoContents
from server.storage.video_jobs import SqlVideoJobs
from server.storage.webhook_events import Outbox, purge_events
from server.storage.webhook_queue import SqlWebhookQueue
from server.storage.webhooks import SqlWebhooks
from server.transport import OwnLookups, Transport
from server.tuning import collect_seldom
from server.webhook_post import WebhookPost

READINESS_S: Final = 0.5
"""How often it is looked which services can do their work."""
GOODBYE_S: Final = 3.0
"""How long calls that were told to end may take to say so."""
PURGE_INTERVAL_S: Final = 3600.0
PURGE_PAUSE_S: Final = 1.0

log = structlog.get_logger("server.worker")


class RecordsLost(Exception):
    """Settlements were given up, `count` of them."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


def run_worker(settings: Settings, *, socket_path: Path, grpc_port: int | None, index: int) -> int:
    """Serve until told to stop; the exit code.

    SIGTERM lets the calls under way end for as long as the settings say. SIGINT, or the end of that time, ends each of
    them with an error that says why.
    """
    structlog.contextvars.bind_contextvars(worker=index)
    try:
        uvloop.run(_run(settings, socket_path, grpc_port))
    except (DatabaseUnusable, ListenError, CatalogError) as error:
        log.error("cannot serve", problem=str(error))
        return 1
    except RecordsLost as lost:
        log.error("records_lost", count=lost.count)
        return RECORDS_LOST
    return 0


async def _run(settings: Settings, socket_path: Path, grpc_port: int | None) -> None:
    loop, stop, shutdown = asyncio.get_running_loop(), asyncio.Event(), Shutdown()

    def end_calls() -> None:
        stop.set()
        shutdown.begin()

    loop.add_signal_handler(LEAVE, shutdown.leaving.set)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, end_calls)
    tcp = None if grpc_port is None else (settings.grpc_host, grpc_port)
    make_host = partial(GrpcAioHost, unix_socket=socket_path, tcp=tcp)
    async with worker(settings, socket_path, make_host, shutdown) as host:
        collect_seldom()
        log.info("serving", pid=os.getpid())
        await stop.wait()
        shutdown.leaving.set()
        # Not taken back: what goes on without a client ends by it as well.
        loop.call_later(settings.drain_timeout_s, shutdown.begin)
        await host.stop(settings.drain_timeout_s + GOODBYE_S)
    log.info("stopped")


@asynccontextmanager
async def worker(
    settings: Settings, socket_path: Path, make_host: Callable[[Sequence[Route]], Host], shutdown: Shutdown
) -> AsyncGenerator[Host, None]:
    """A serving worker; leaving ends it. Raises DatabaseUnusable, ListenError, CatalogError, RecordsLost.

    Its figures are told beside `socket_path`.
    """
    clock, ids = SystemClock(), UuidV7()
    await _require_schema(settings.database_url)
    async with AsyncExitStack() as stack:
        catalog = ReloadingCatalog(lambda: read_catalog(settings.config, os.environ))
        database = Database.open(settings.database_url, first=require_current_schema)
        stack.push_async_callback(database.close)
        commits = GroupCommit(database)
        stack.push_async_callback(commits.close)
        transport = await stack.enter_async_context(Transport())
        store = SqlResponseStore(database, commits, clock)
        records = SqlRecords(database, commits, clock, record_days=settings.record_days)
        purges: Sequence[Callable[[], Awaitable[int]]] = (
            *(store.purge, records.purge_contents, records.purge_records, Months(database, clock).prepare),
            partial(purge_audit, commits, clock),
            partial(purge_events, commits, clock),
        )
        await stack.enter_async_context(_running(catalog.watch(), *map(_purging, purges)))

        deadlines = Deadlines(connect_s=catalog.current.routing.connect_timeout_s)
        adapters: dict[Dialect, ProviderAdapter] = {
            "openai": OpenAIAdapter(transport, clock, ids, deadlines),
            "anthropic": AnthropicAdapter(transport, clock, ids, deadlines),
            "gemini": GeminiAdapter(transport, clock, ids, deadlines),
            "cohere": CohereAdapter(transport, clock, deadlines),
        }
        ledger = SqlLedger(database, clock, ids.new())
        sweeper = Sweeper(database, clock, ledger.worker_id, lease_s=settings.worker_lease_s)
        stack.push_async_callback(sweeper.end)
        outcomes = SqlIdempotencyStore(
            database,
            commits,
            clock,
            ledger.worker_id,
            lease_s=settings.worker_lease_s,
            can_judge=lambda: sweeper.can_judge,
        )
        await stack.enter_async_context(_running(sweeper.run(), _purging(outcomes.purge)))
        stack.push_async_callback(_close_books, ledger)
        meter = None if settings.metrics_port is None else Meter(clock)
        accounts = ledger if meter is None else MeteredLedger(ledger, meter)
        health = Health(clock, random.random)
        exchange = await stack.enter_async_context(_exchange(settings, database, commits, clock, ledger.worker_id))
        sharing = Sharing(health, exchange, catalog, clock)
        stack.push_async_callback(sharing.close)
        drained = FollowDrained(health, SqlDrained(database, clock))
        await drained.start()
        await stack.enter_async_context(_running(sharing.run(), drained.run()))
        drains = Drains()
        stack.push_async_callback(drains.close)
        generate = Generator(catalog, adapters, accounts, clock, shutdown, drains, health)
        moderate = Moderate(generate, catalog)
        guarded = Guarded(generate, moderate, clock, ids)
        respond = Respond(guarded, store, clock)
        embed = Embed(generate)
        speak, transcribe = Speak(generate), Transcribe(generate)
        draw = Draw(generate)
        outbox = Outbox(ids, clock, lambda job: encode_video(seen(job)))
        keep_s = None if settings.content_address is None else settings.content_max_age_s
        jobs = SqlVideoJobs(database, commits, clock, ledger.worker_id, keep_s=keep_s, outbox=outbox)
        film_makers: dict[Dialect, VideoAdapter] = {
            "openai": OpenAIVideos(transport, clock, deadlines),
            "gemini": GeminiVideos(transport, clock, deadlines),
        }
        looks = Looks(jobs, film_makers, catalog, clock, random.random, *(() if meter is None else (meter.settled,)))
        lease_s = settings.worker_lease_s
        contents = await _contents(stack, settings, database, commits, clock, ledger.worker_id, looks)
        spool = Spool(settings.data_dir)
        pictures = PictureFetch(
            await stack.enter_async_context(Transport(lookup=OwnLookups())),
            spool,
            allow_http=settings.picture_urls_allow_http,
            allow_private=settings.picture_urls_allow_private,
        )
        videos = Videos(
            *(catalog, film_makers, jobs, accounts, looks, clock, shutdown, health),
            lease_s=lease_s,
            deadline_s=settings.video_deadline_s,
            contents=contents,
            pictures=pictures,
        )
        runner_of_jobs = VideoRunner(jobs, looks, clock, lease_s=lease_s)
        stack.push_async_callback(runner_of_jobs.close)
        stack.push_async_callback(videos.close, GOODBYE_S)
        goodbyes = Goodbyes(jobs.goodbyes, looks, clock)
        await stack.enter_async_context(_running(runner_of_jobs.run(), goodbyes.run(), _purging(jobs.purge)))
        to_teams = await stack.enter_async_context(Transport(lookup=OwnLookups()))
        post = WebhookPost(to_teams, clock, allow_private=settings.webhooks_allow_private)
        queue = SqlWebhookQueue(database, commits, clock, ledger.worker_id)
        deliveries = WebhookRunner(queue, post, clock, random.random, lease_s=lease_s)
        stack.push_async_callback(deliveries.close)
        await stack.enter_async_context(_running(deliveries.run()))
        webhooks = Webhooks(
            SqlWebhooks(database, clock, ids),
            clock,
            allow_http=settings.webhooks_allow_http,
            allow_private=settings.webhooks_allow_private,
        )
        video_models = VideoModels(catalog, film_makers)
        video_links = VideoLinks(
            videos,
            jobs,
            SqlSecrets(database, clock),
            clock,
            public_url=settings.public_url,
            local_url=settings.http_url,
        )
        count_tokens = TokenEstimate(catalog, adapters)
        last_used = LastUsed(database, clock)
        stack.push_async_callback(last_used.flush)
        await stack.enter_async_context(_running(last_used.run()))
        reception = FrontDesk(Authenticate(SqlKeyStore(database, clock), last_used.note), ids, clock)
        api_keys = ApiKeys(SqlApiKeys(database, clock), catalog, clock)
        credits = SqlCredits(database)
        generations = Generations(records, jobs)
        measured = MeasuredHealth(catalog, health, clock)
        report = HealthReport(measured, clock, version("aistats-gateway"))
        faces = (
            ChatRest(guarded),
            ResponsesRest(respond),
            MessagesRest(guarded, count_tokens),
            EmbeddingsRest(embed),
            AudioRest(speak, transcribe),
            ImagesRest(draw),
            ModerationsRest(moderate),
            VideosRest(videos, video_models, video_links),
            WebhooksRest(webhooks),
            CreditsRest(credits, clock),
            PricingRest(catalog),
            ApiKeysRest(api_keys),
            GenerationsRest(generations),
            ModelsRest(catalog, measured),
            HealthRest(report),
        )
        refusals = RecordRefusals(accounts)
        runner = IdempotentRunner(outcomes, accounts, clock, max_runs=MAX_CONCURRENT_CALLS)
        stack.push_async_callback(runner.close, settings.drain_timeout_s + GOODBYE_S)
        routes = [route for face in faces for route in face.routes()]
        bridge = RestApp(reception, routes, refusals, runner, spool)
        documents = Documents(routes, version("aistats-gateway"))
        registrations: Sequence[Registration] = (
            (chat_pb2_grpc.add_ChatServiceServicer_to_server, ChatServicer(guarded)),
            (responses_pb2_grpc.add_ResponsesServiceServicer_to_server, ResponsesServicer(respond)),
            (messages_pb2_grpc.add_MessagesServiceServicer_to_server, MessagesServicer(guarded, count_tokens)),
            (moderation_pb2_grpc.add_ModerationServiceServicer_to_server, ModerationServicer(moderate)),
            (embeddings_pb2_grpc.add_EmbeddingsServiceServicer_to_server, EmbeddingsServicer(embed)),
            (audio_pb2_grpc.add_AudioServiceServicer_to_server, AudioServicer(speak, transcribe, spool)),
            (images_pb2_grpc.add_ImagesServiceServicer_to_server, ImagesServicer(draw, spool)),
            (videos_pb2_grpc.add_VideosServiceServicer_to_server, VideosServicer(videos, video_models, video_links)),
            (webhooks_pb2_grpc.add_WebhooksServiceServicer_to_server, WebhooksServicer(webhooks)),
            (credits_pb2_grpc.add_CreditsServiceServicer_to_server, CreditsServicer(credits, clock)),
            (api_keys_pb2_grpc.add_ApiKeysServiceServicer_to_server, ApiKeysServicer(api_keys)),
            (pricing_pb2_grpc.add_PricingServiceServicer_to_server, PricingServicer(catalog)),
            (generations_pb2_grpc.add_GenerationsServiceServicer_to_server, GenerationsServicer(generations)),
            (models_pb2_grpc.add_ModelsServiceServicer_to_server, ModelsServicer(catalog, measured)),
            (
                health_pb2_grpc.add_HealthServiceServicer_to_server,
                HealthServicer(report, Feed(measured, clock, shutdown)),
            ),
        )
        guard = Guard(reception, clock, rest_error, refusals=refusals, observe=None if meter is None else meter.called)
        host = make_host(guarded_routes((*registrations, *rest_services(bridge, documents)), guard))
        stack.push_async_callback(host.stop, 0.0)
        await host.start()
        await stack.enter_async_context(_running(_tell_ready(host, shutdown, catalog, health, drained)))
        if meter is not None:
            meter.add(*_sampled(guard, ledger, database, measured))
            await stack.enter_async_context(telling(figures_socket(socket_path), meter.snapshot))
            await stack.enter_async_context(_running(meter.watch_loop()))
        yield host


async def _contents(
    stack: AsyncExitStack,
    settings: Settings,
    database: Database,
    commits: GroupCommit,
    clock: Clock,
    worker_id: str,
    looks: Looks,
) -> KeptContents | None:
    """What is kept of videos, with the keeper at work; None where nothing is."""
    address = settings.content_address
    if address is None:
        return None
    rows, objects = SqlVideoContents(database, commits, clock, worker_id), Objects(address, clock)
    limits = KeepLimits(settings.content_max_bytes, settings.content_max_age_s, settings.content_total_bytes)
    lease_s = settings.worker_lease_s
    keeper = ContentKeeper(rows, objects, looks, clock, limits, random.random, lease_s=lease_s)
    stack.push_async_callback(keeper.close)
    await stack.enter_async_context(_running(keeper.run(), _purging(keeper.purge)))
    return KeptContents(rows, objects)


async def _close_books(ledger: SqlLedger) -> None:
    """Raises RecordsLost, so that nobody takes the end for a good one."""
    await ledger.close()
    if ledger.lost:
        raise RecordsLost(ledger.lost)


def _sampled(guard: Guard, ledger: SqlLedger, database: Database, health: HealthView) -> Sequence[Figure]:
    """What parts of a worker know of themselves."""
    return (
        Sampled("aistats_requests_in_flight", "Calls under way.", read=lambda: {(): guard.under_way}),
        Sampled(
            "aistats_ledger_queue_length",
            "Reservations and settlements that wait for the database.",
            read=lambda: {(): ledger.queued},
        ),
        Sampled(
            "aistats_ledger_lost_total",
            "Settlements that were given up, and their records with them.",
            read=lambda: {(): ledger.lost},
            kind="counter",
        ),
        Sampled("aistats_database_up", "0 while the database does not answer.", read=lambda: {(): int(database.is_up)}),
        Sampled(
            "aistats_database_failures_total",
            "Reads and transactions that failed because the database did not answer.",
            read=lambda: {(): database.failures},
            kind="counter",
        ),
        Sampled(
            "aistats_breaker_state",
            "Of the provider's route that is worst off: 0 closed, 1 half open, 2 open.",
            "provider",
            read=lambda: breakers(health),
        ),
    )


async def _require_schema(url: str) -> None:
    """Refuse a schema that is not this release's; a database that is down is waited for by each call instead."""
    try:
        await verify(url)
    except GatewayError:
        log.warning("the database does not answer; calls are refused until it does")


@asynccontextmanager
async def _exchange(
    settings: Settings, database: Database, commits: GroupCommit, clock: Clock, worker_id: str
) -> AsyncGenerator[HealthExchange, None]:
    """Where workers tell each other how providers are: Valkey if there is one, or else the database."""
    if settings.valkey is not None:
        exchange = ValkeyHealthExchange(settings.valkey, database, clock, worker_id)
        try:
            yield exchange
        finally:
            exchange.close()
    else:
        reports = SqlHealthExchange(database, commits, clock, worker_id)
        async with _running(_purging(reports.purge)):
            yield reports


async def _tell_ready(
    host: Host, shutdown: Shutdown, catalog: CatalogSource, health: Health, drained: FollowDrained
) -> None:
    """Keep `grpc.health.v1` up to date, until the worker leaves."""
    while not shutdown.leaving.is_set():
        endpoints, has_database = endpoints_served(catalog.current, health.drained), drained.answers
        host.tell_ready(partial(is_ready, endpoints=endpoints, has_database=has_database))
        with suppress(TimeoutError):
            async with asyncio.timeout(READINESS_S):
                await shutdown.leaving.wait()
    host.leave()


@asynccontextmanager
async def _running(*jobs: Coroutine[None, None, None]) -> AsyncGenerator[None, None]:
    """Jobs that run as long as the worker serves."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _purging(purge: Callable[[], Awaitable[int]]) -> None:
    """Forget what has expired, in bounded batches, about once an hour."""
    while True:
        await asyncio.sleep(PURGE_INTERVAL_S * random.uniform(0.5, 1.5))  # noqa: S311 - spreads workers, guards nothing
        try:
            while await purge():  # noqa: ASYNC110 - a pause between batches, not a wait for an event
                await asyncio.sleep(PURGE_PAUSE_S)
        except GatewayError as error:
            log.warning("purge failed", reason=error.reason)
