"""A worker: every service, behind its guard and on its host."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path

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
from rest_bridge.webhooks import WebhooksRest
from server.bootstrap.background import running
from server.bootstrap.base import GOODBYE_S, lay
from server.bootstrap.figures import sampled
from server.bootstrap.health import follow_health, tell_ready
from server.bootstrap.videos import make_videos
from server.bootstrap.webhooks import make_webhooks
from server.domain.catalog import Dialect
from server.domain.ports import ProviderAdapter
from server.hosts.host import Host
from server.metrics.serve import figures_socket, telling
from server.pipeline.api_keys import ApiKeys
from server.pipeline.authenticate import Authenticate
from server.pipeline.count_tokens import TokenEstimate
from server.pipeline.drain import Drains
from server.pipeline.draw import Draw
from server.pipeline.embed import Embed
from server.pipeline.generate import Generator
from server.pipeline.generations import Generations
from server.pipeline.guard import Guarded
from server.pipeline.health.feed import Feed
from server.pipeline.health.report import HealthReport
from server.pipeline.moderate import Moderate
from server.pipeline.refusals import RecordRefusals
from server.pipeline.respond import Respond
from server.pipeline.shutdown import Shutdown
from server.pipeline.speak import Speak
from server.pipeline.transcribe import Transcribe
from server.providers.anthropic import AnthropicAdapter
from server.providers.cohere import CohereAdapter
from server.providers.gemini import GeminiAdapter
from server.providers.openai import OpenAIAdapter
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
from server.rpc.registry import Registration, Route, guarded_routes
from server.rpc.responses import ResponsesServicer
from server.rpc.videos import VideosServicer
from server.rpc.webhooks import WebhooksServicer
from server.settings import Settings
from server.storage.api_keys import SqlApiKeys
from server.storage.credits import SqlCredits
from server.storage.keys import SqlKeyStore
from server.storage.last_used import LastUsed

__all__ = ["worker"]


@asynccontextmanager
async def worker(
    settings: Settings, socket_path: Path, make_host: Callable[[Sequence[Route]], Host], shutdown: Shutdown
) -> AsyncGenerator[Host, None]:
    """A serving worker; leaving ends it. Raises DatabaseUnusable, ListenError, CatalogError, RecordsLost.

    Its figures are told beside `socket_path`.
    """
    async with AsyncExitStack() as stack:
        base = await lay(stack, settings, shutdown)
        clock, ids, catalog, stores, meter = base.clock, base.ids, base.catalog, base.stores, base.meter
        knowledge = await follow_health(stack, base)
        drains = Drains()
        stack.push_async_callback(drains.close)
        adapters: dict[Dialect, ProviderAdapter] = {
            "openai": OpenAIAdapter(base.transport, clock, ids, base.deadlines),
            "anthropic": AnthropicAdapter(base.transport, clock, ids, base.deadlines),
            "gemini": GeminiAdapter(base.transport, clock, ids, base.deadlines),
            "cohere": CohereAdapter(base.transport, clock, base.deadlines),
        }
        generate = Generator(catalog, adapters, base.accounts, clock, shutdown, drains, knowledge.health)
        moderate = Moderate(generate, catalog)
        guarded = Guarded(generate, moderate, clock, ids)
        respond = Respond(guarded, stores.responses, clock)
        count_tokens = TokenEstimate(catalog, adapters)
        embed = Embed(generate)
        speak, transcribe = Speak(generate), Transcribe(generate)
        draw = Draw(generate)
        film = await make_videos(stack, base, knowledge.health)
        webhooks = await make_webhooks(stack, base)
        last_used = LastUsed(stores.database, clock)
        stack.push_async_callback(last_used.flush)
        await stack.enter_async_context(running(last_used.run()))
        reception = FrontDesk(Authenticate(SqlKeyStore(stores.database, clock), last_used.note), ids, clock)
        api_keys = ApiKeys(SqlApiKeys(stores.database, clock), catalog, clock)
        credits = SqlCredits(stores.database)
        generations = Generations(stores.records, film.jobs)
        report = HealthReport(knowledge.measured, clock, version("aistats-gateway"))
        faces = (
            ChatRest(guarded),
            ResponsesRest(respond),
            MessagesRest(guarded, count_tokens),
            EmbeddingsRest(embed),
            AudioRest(speak, transcribe),
            ImagesRest(draw),
            ModerationsRest(moderate),
            VideosRest(film.videos, film.models, film.links),
            WebhooksRest(webhooks),
            CreditsRest(credits, clock),
            PricingRest(catalog),
            ApiKeysRest(api_keys),
            GenerationsRest(generations),
            ModelsRest(catalog, knowledge.measured),
            HealthRest(report),
        )
        refusals = RecordRefusals(base.accounts)
        runner = IdempotentRunner(stores.outcomes, base.accounts, clock, max_runs=MAX_CONCURRENT_CALLS)
        stack.push_async_callback(runner.close, settings.drain_timeout_s + GOODBYE_S)
        routes = [route for face in faces for route in face.routes()]
        bridge = RestApp(reception, routes, refusals, runner, base.spool)
        documents = Documents(routes, version("aistats-gateway"))
        registrations: Sequence[Registration] = (
            (chat_pb2_grpc.add_ChatServiceServicer_to_server, ChatServicer(guarded)),
            (responses_pb2_grpc.add_ResponsesServiceServicer_to_server, ResponsesServicer(respond)),
            (messages_pb2_grpc.add_MessagesServiceServicer_to_server, MessagesServicer(guarded, count_tokens)),
            (moderation_pb2_grpc.add_ModerationServiceServicer_to_server, ModerationServicer(moderate)),
            (embeddings_pb2_grpc.add_EmbeddingsServiceServicer_to_server, EmbeddingsServicer(embed)),
            (audio_pb2_grpc.add_AudioServiceServicer_to_server, AudioServicer(speak, transcribe, base.spool)),
            (images_pb2_grpc.add_ImagesServiceServicer_to_server, ImagesServicer(draw, base.spool)),
            (videos_pb2_grpc.add_VideosServiceServicer_to_server, VideosServicer(film.videos, film.models, film.links)),
            (webhooks_pb2_grpc.add_WebhooksServiceServicer_to_server, WebhooksServicer(webhooks)),
            (credits_pb2_grpc.add_CreditsServiceServicer_to_server, CreditsServicer(credits, clock)),
            (api_keys_pb2_grpc.add_ApiKeysServiceServicer_to_server, ApiKeysServicer(api_keys)),
            (pricing_pb2_grpc.add_PricingServiceServicer_to_server, PricingServicer(catalog)),
            (generations_pb2_grpc.add_GenerationsServiceServicer_to_server, GenerationsServicer(generations)),
            (models_pb2_grpc.add_ModelsServiceServicer_to_server, ModelsServicer(catalog, knowledge.measured)),
            (
                health_pb2_grpc.add_HealthServiceServicer_to_server,
                HealthServicer(report, Feed(knowledge.measured, clock, shutdown)),
            ),
        )
        guard = Guard(reception, clock, rest_error, refusals=refusals, observe=None if meter is None else meter.called)
        host = make_host(guarded_routes((*registrations, *rest_services(bridge, documents)), guard))
        stack.push_async_callback(host.stop, 0.0)
        await host.start()
        await stack.enter_async_context(running(tell_ready(host, base, knowledge)))
        if meter is not None:
            meter.add(*sampled(guard, stores, knowledge.measured))
            await stack.enter_async_context(telling(figures_socket(socket_path), meter.snapshot))
            await stack.enter_async_context(running(meter.watch_loop()))
        yield host
