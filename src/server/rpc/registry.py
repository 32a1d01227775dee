"""Which methods there are, and which keys may call them.

The generated `add_…Servicer_to_server` functions are given a `Collector` in place of a server; what it has collected is
guarded once and handed to the host as `Route`s. A method without a line in the table cannot be registered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import grpc
import msgspec
from google.protobuf import descriptor_pool

from server.domain.identity import Scope
from server.domain.request import Endpoint
from server.rpc.interceptors import Guard, Method, StreamEntry, UnaryEntry

__all__ = ["REST_SERVICE", "Collector", "Registration", "Route", "guarded_routes", "scopes_of"]

_PACKAGE: Final = "aistats.gateway.v1"
REST_SERVICE: Final = "RestService"
"""How the names of REST faces end. The bridge behind them asks for a key by itself."""
_INFERENCE: Final = (Scope.INFERENCE,)
_ANY_KEY: Final = (Scope.INFERENCE, Scope.MANAGEMENT)
_MANAGEMENT: Final = (Scope.MANAGEMENT,)
_NO_KEY: Final[tuple[Scope, ...]] = ()

SCOPES: Final[Mapping[str, tuple[Scope, ...]]] = {
    f"/{_PACKAGE}.{method}": scopes
    for method, scopes in {
        "ChatService/CreateChatCompletion": _INFERENCE,
        "ChatService/StreamChatCompletion": _INFERENCE,
        "ResponsesService/CreateResponse": _INFERENCE,
        "ResponsesService/StreamResponse": _INFERENCE,
        "ResponsesService/GetResponse": _INFERENCE,
        "ResponsesService/DeleteResponse": _INFERENCE,
        "MessagesService/CreateMessage": _INFERENCE,
        "MessagesService/StreamMessage": _INFERENCE,
        "MessagesService/CountTokens": _INFERENCE,
        "EmbeddingsService/CreateEmbeddings": _INFERENCE,
        "AudioService/CreateSpeech": _INFERENCE,
        "AudioService/CreateTranscription": _INFERENCE,
        "AudioService/StreamTranscription": _INFERENCE,
        "AudioService/CreateTranslation": _INFERENCE,
        "ImagesService/CreateImages": _INFERENCE,
        "ImagesService/StreamImages": _INFERENCE,
        "ImagesService/EditImages": _INFERENCE,
        "ImagesService/StreamImageEdits": _INFERENCE,
        "VideosService/CreateVideo": _INFERENCE,
        "VideosService/RemixVideo": _INFERENCE,
        "VideosService/GetVideo": _INFERENCE,
        "VideosService/WatchVideo": _INFERENCE,
        "VideosService/ListVideos": _INFERENCE,
        "VideosService/CancelVideo": _INFERENCE,
        "VideosService/DeleteVideo": _INFERENCE,
        "VideosService/DownloadVideo": _INFERENCE,
        "VideosService/CreateVideoDownloadUrl": _INFERENCE,
        "VideosService/ListVideoModels": _ANY_KEY,
        "GenerationsService/GetGeneration": _ANY_KEY,
        "GenerationsService/ListGenerations": _ANY_KEY,
        "ModelsService/ListModels": _ANY_KEY,
        "ModelsService/GetModel": _ANY_KEY,
        "ModelsService/ListModelEndpoints": _ANY_KEY,
        "ModerationService/CreateModeration": _INFERENCE,
        "CreditsService/GetCredits": _ANY_KEY,
        "CreditsService/ListActivity": _ANY_KEY,
        "PricingService/CalculatePricing": _ANY_KEY,
        "PricingService/ListPricingModels": _ANY_KEY,
        "ApiKeysService/ListApiKeys": _MANAGEMENT,
        "ApiKeysService/GetApiKey": _MANAGEMENT,
        "ApiKeysService/CreateApiKey": _MANAGEMENT,
        "ApiKeysService/UpdateApiKey": _MANAGEMENT,
        "ApiKeysService/DeleteApiKey": _MANAGEMENT,
        "ApiKeysService/RotateApiKey": _MANAGEMENT,
        "ApiKeysService/GetCurrentApiKey": _ANY_KEY,
        "ApiKeysService/ListAuditLog": _MANAGEMENT,
        "WebhooksService/ListWebhooks": _MANAGEMENT,
        "WebhooksService/GetWebhook": _MANAGEMENT,
        "WebhooksService/CreateWebhook": _MANAGEMENT,
        "WebhooksService/UpdateWebhook": _MANAGEMENT,
        "WebhooksService/DeleteWebhook": _MANAGEMENT,
        "WebhooksService/RotateWebhookSecret": _MANAGEMENT,
        "WebhooksService/TestWebhook": _MANAGEMENT,
        "WebhooksService/ListWebhookDeliveries": _MANAGEMENT,
        "WebhooksService/ReplayWebhookDelivery": _MANAGEMENT,
        "WebhooksService/ReplayDeadWebhookDeliveries": _MANAGEMENT,
        "HealthService/GetHealth": _ANY_KEY,
        "HealthService/WatchHealth": _ANY_KEY,
        "HealthService/GetLiveness": _NO_KEY,
    }.items()
}
"""By full name of a typed method, the scopes of which a key needs one."""

ENDPOINTS: Final[Mapping[str, Endpoint]] = {
    f"/{_PACKAGE}.{method}": endpoint
    for method, endpoint in {
        "ChatService/CreateChatCompletion": Endpoint.CHAT,
        "ChatService/StreamChatCompletion": Endpoint.CHAT,
        "ResponsesService/CreateResponse": Endpoint.RESPONSES,
        "ResponsesService/StreamResponse": Endpoint.RESPONSES,
        "MessagesService/CreateMessage": Endpoint.MESSAGES,
        "MessagesService/StreamMessage": Endpoint.MESSAGES,
        "EmbeddingsService/CreateEmbeddings": Endpoint.EMBEDDINGS,
        "AudioService/CreateSpeech": Endpoint.AUDIO,
        "AudioService/CreateTranscription": Endpoint.AUDIO,
        "AudioService/StreamTranscription": Endpoint.AUDIO,
        "AudioService/CreateTranslation": Endpoint.AUDIO,
        "ImagesService/CreateImages": Endpoint.IMAGES,
        "ImagesService/StreamImages": Endpoint.IMAGES,
        "ImagesService/EditImages": Endpoint.IMAGES,
        "ImagesService/StreamImageEdits": Endpoint.IMAGES,
        "ModerationService/CreateModeration": Endpoint.MODERATIONS,
        "VideosService/CreateVideo": Endpoint.VIDEO,
        "VideosService/RemixVideo": Endpoint.VIDEO,
    }.items()
}
"""The typed methods that generate."""


def scopes_of(service: str, method: str) -> tuple[Scope, ...]:
    """The scopes of which a call needs one before it reaches the servicer. Raises LookupError."""
    if service.endswith(REST_SERVICE):
        return _NO_KEY
    name = f"/{service}/{method}"
    if name not in SCOPES:
        raise LookupError(f"{name} has no line in the table of scopes")
    return SCOPES[name]


Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Registration: TypeAlias = tuple[Callable[[Any, Any], None], object]
"""A generated `add_…Servicer_to_server` function and the servicer for it."""


class Route(msgspec.Struct, frozen=True):
    """One guarded method: `unary` or `stream` is set, as the method is.

    `takes_stream`: its caller sends any number of messages. `sends_bodies`: the messages of the stream are pieces of an
    HTTP body, to which an empty one adds nothing.
    """

    service: str
    method: str
    unary: UnaryEntry | None = None
    stream: StreamEntry | None = None
    takes_stream: bool = False
    sends_bodies: bool = False


def guarded_routes(registrations: Iterable[Registration], guard: Guard) -> tuple[Route, ...]:
    """Every method of the servicers, guarded. Raises LookupError for a method that the table does not know."""
    collector = Collector()
    for add_to_server, servicer in registrations:
        add_to_server(servicer, collector)
    return collector.routes(guard)


class Collector:
    """Stands where the generated code expects a server, and keeps what it is given."""

    def __init__(self) -> None:
        self._collected: list[tuple[str, str, Handler]] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[object]) -> None:
        """The same methods come again, one by one, in `add_registered_method_handlers`."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        self._collected += [(service, method, handler) for method, handler in handlers.items()]

    def routes(self, guard: Guard) -> tuple[Route, ...]:
        """Raises LookupError as `guarded_routes` does."""
        return tuple(_route(service, method, handler, guard) for service, method, handler in self._collected)


def _route(service: str, method: str, handler: Handler, guard: Guard) -> Route:
    name = f"/{service}/{method}"
    guarded = Method(name, scopes_of(service, method), ENDPOINTS.get(name))
    # Its types are those of grpc's own servers; what the generated code has put in are our methods.
    made: Any = handler
    takes_stream: bool = made.request_streaming
    if made.response_streaming:
        behaviour = made.stream_stream if takes_stream else made.unary_stream
        stream = guard.stream(guarded, behaviour, made.request_deserializer)
        sends_bodies = _sends_bodies(service, method)
        return Route(service, method, stream=stream, takes_stream=takes_stream, sends_bodies=sends_bodies)
    behaviour = made.stream_unary if takes_stream else made.unary_unary
    unary = guard.unary(guarded, behaviour, made.request_deserializer)
    return Route(service, method, unary=unary, takes_stream=takes_stream)


def _sends_bodies(service: str, method: str) -> bool:
    described = descriptor_pool.Default().FindMethodByName(f"{service}.{method}")
    return bool(described.output_type.full_name == "google.api.HttpBody")
