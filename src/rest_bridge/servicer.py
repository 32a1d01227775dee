"""The REST faces of the services: `google.api.HttpBody` in and out, over `RestApp`.

Envoy's transcoder cannot be told an HTTP status by a call that succeeds, so it goes as `x-gw-status` in the initial
metadata, where Envoy's response filter finds it. An error is an ordinary body to gRPC: no limit of its own applies.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Final
from urllib.parse import quote

from google.api.httpbody_pb2 import HttpBody  # type: ignore[import-untyped]  # the package has no stubs
from google.protobuf.message import Message

from aistats.gateway.v1 import (
    api_keys_pb2,
    credits_pb2,
    description_pb2,
    generations_pb2,
    health_pb2,
    messages_pb2,
    models_pb2,
    pricing_pb2,
    responses_pb2,
    videos_pb2,
    webhooks_pb2,
)
from rest_bridge.app import RestApp
from rest_bridge.documents import Documents
from rest_bridge.http import EVENT_STREAM, RestRequest, RestResponse
from rest_bridge.idempotency import REPLAYED
from rest_bridge.videos import POLL_AFTER
from server.domain.errors import GatewayError
from server.rpc.context import CallContext
from server.rpc.status import REST_MARK_KEY

STATUS_KEY: Final = "x-gw-status"
LENGTH_KEY: Final = "x-gw-content-length"
GENERATION_KEY: Final = "x-gw-generation-id"
"""The generation that the response tells of, where that is not the one that the call was named after."""

_QUERY_NAMES: Final = {"from_date": "from", "to_date": "to"}
"""Of fields that have another name in a query."""
_OF_THE_MESSAGE: Final = "content-type"
_OF_THE_HOST: Final = frozenset({"x-generation-id", "x-request-id"})
"""Headers that whoever carries the call adds to every call by itself."""
_LENGTH: Final = "content-length"
"""Of a body that has not come yet, or that a HEAD does not want."""
_OWN: Final = frozenset({"etag", _LENGTH, "accept-ranges", "content-disposition", POLL_AFTER})
"""Headers of a 200 that Envoy does not know by itself."""
_HIDDEN: Final = frozenset({*_OF_THE_HOST, _OF_THE_MESSAGE, _LENGTH})


class _Unreadable:
    """What no HttpBody is: Envoy's transcoder resets the client's stream at it, the one way to say that it is cut."""

    def SerializeToString(self) -> bytes:
        return b"\xff"


class _Face:
    def __init__(self, app: RestApp | Documents) -> None:
        self._app = app

    async def _serve(
        self,
        context: CallContext,
        method: str,
        path: str,
        body: HttpBody | AsyncIterator[HttpBody] | None = None,
        query: Mapping[str, tuple[str, ...]] | None = None,
    ) -> AsyncGenerator[HttpBody, None]:
        """One call of any method: the request that it stands for, the response, and its body message by message.

        A body that comes in as messages is pulled no faster than it is read.
        """
        whole = body if isinstance(body, HttpBody) else None
        sent = None if body is None or isinstance(body, HttpBody) else _SentBody(body)
        request = RestRequest(
            method=method,
            path=path,
            headers=_headers(context.metadata, whole),
            body=sent or _once(whole.data if whole is not None else b""),
            arrival=context.arrival,
            query=query or {},
            content_type=sent.content_type if sent is not None else None,
        )
        response = await self._app(request)
        if response.reason is not None:
            context.answers_error(response.reason)
        if isinstance(response.body, bytes):
            await _send_metadata(context, response)
            context.announce_last_message()
            # Of a HEAD, Envoy would write a body that it is given behind the head, where nobody expects one.
            yield HttpBody(content_type=_content_type(response), data=b"" if method == "HEAD" else response.body)
            return
        async with aclosing(response.body) as pieces:
            await _send_metadata(context, response)
            content_type = _content_type(response)
            try:
                async for piece in pieces:
                    if pieces.ended:
                        context.announce_last_message()
                    yield HttpBody(content_type=content_type, data=piece)
                    content_type = ""
            except GatewayError as error:
                if _can_tell(response) or context.metadata.get(REST_MARK_KEY) != "1":
                    raise
                context.answers_error(error.reason)
                yield _Unreadable()


class ChatRestServicer(_Face):
    """`aistats.gateway.v1.ChatRestService`."""

    def CreateChatCompletion(self, request: HttpBody, context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", "/v1/chat/completions", request)


class ResponsesRestServicer(_Face):
    """`aistats.gateway.v1.ResponsesRestService`."""

    def CreateResponse(self, request: HttpBody, context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", "/v1/responses", request)

    def GetResponse(
        self, request: responses_pb2.GetResponseRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        query: dict[str, tuple[str, ...]] = {}
        if request.include:
            query["include"] = tuple(request.include)
        if request.HasField("stream"):
            query["stream"] = ("true" if request.stream else "false",)
        return self._serve(context, "GET", _response_path(request.response_id), query=query)

    def DeleteResponse(
        self, request: responses_pb2.DeleteResponseRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "DELETE", _response_path(request.response_id))


class MessagesRestServicer(_Face):
    """`aistats.gateway.v1.MessagesRestService`."""

    def CreateMessage(
        self, request: messages_pb2.MessagesRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", "/v1/messages", request.body)

    def CountTokens(
        self, request: messages_pb2.MessagesRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", "/v1/messages/count_tokens", request.body)


class ModerationRestServicer(_Face):
    """`aistats.gateway.v1.ModerationRestService`."""

    def CreateModeration(self, request: HttpBody, context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", "/v1/moderations", request)


class EmbeddingsRestServicer(_Face):
    """`aistats.gateway.v1.EmbeddingsRestService`."""

    def CreateEmbeddings(self, request: HttpBody, context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", "/v1/embeddings", request)


class ImagesRestServicer(_Face):
    """`aistats.gateway.v1.ImagesRestService`."""

    def CreateImages(self, request: HttpBody, context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", "/v1/images/generations", request)

    def EditImages(self, requests: AsyncIterator[HttpBody], context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", "/v1/images/edits", requests)


class VideosRestServicer(_Face):
    """`aistats.gateway.v1.VideosRestService`. An alias of a route is the route."""

    def CreateVideo(self, request: AsyncIterator[HttpBody], context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", "/v1/videos", request)

    def ListVideos(
        self, request: videos_pb2.ListVideosRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", "/v1/videos", query=_query(request))

    def ListVideoModels(
        self, request: videos_pb2.ListVideoModelsRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", "/v1/videos/models")

    def GetVideo(self, request: videos_pb2.GetVideoRequest, context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", _video_path(request.video_id))

    def DeleteVideo(
        self, request: videos_pb2.DeleteVideoRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "DELETE", _video_path(request.video_id))

    def CancelVideo(self, request: videos_pb2.VideoRestRequest, context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", f"{_video_path(request.video_id)}/cancel", request.body)

    def RemixVideo(self, request: videos_pb2.VideoRestRequest, context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", f"{_video_path(request.video_id)}/remix", request.body)

    def DownloadVideo(
        self, request: videos_pb2.DownloadVideoRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._content(request, context, "GET")

    def DescribeContent(
        self, request: videos_pb2.DownloadVideoRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._content(request, context, "HEAD")

    def CreateVideoDownloadUrl(
        self, request: videos_pb2.VideoRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", f"{_video_path(request.video_id)}/download_url", request.body)

    def DownloadSignedVideo(
        self, request: videos_pb2.SignedVideoRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._content(request, context, "GET", "download")

    def DescribeSignedContent(
        self, request: videos_pb2.SignedVideoRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._content(request, context, "HEAD", "download")

    def _content(
        self,
        request: videos_pb2.DownloadVideoRestRequest | videos_pb2.SignedVideoRestRequest,
        context: CallContext,
        method: str,
        last: str = "content",
    ) -> AsyncGenerator[HttpBody, None]:
        query = {name: value for name, value in _query(request).items() if name != "video_id"}
        return self._serve(context, method, f"{_video_path(request.video_id)}/{last}", query=query)


class AudioRestServicer(_Face):
    """`aistats.gateway.v1.AudioRestService`."""

    def CreateAudio(self, request: AsyncIterator[HttpBody], context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", "/v1/audio", request)

    def CreateSpeech(self, request: HttpBody, context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", "/v1/audio/speech", request)

    def CreateTranscription(
        self, request: AsyncIterator[HttpBody], context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", "/v1/audio/transcriptions", request)

    def CreateTranslation(
        self, request: AsyncIterator[HttpBody], context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", "/v1/audio/translations", request)


class CreditsRestServicer(_Face):
    """`aistats.gateway.v1.CreditsRestService`."""

    def GetCredits(
        self, request: credits_pb2.GetCreditsRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", "/v1/credits")

    def ListActivity(
        self, request: credits_pb2.ListActivityRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", "/v1/activity", query=_query(request))


class PricingRestServicer(_Face):
    """`aistats.gateway.v1.PricingRestService`."""

    def CalculatePricing(self, request: HttpBody, context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", "/v1/pricing/calculate", request)

    def ListPricingModels(
        self, request: pricing_pb2.ListPricingModelsRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", "/v1/pricing/models", query=_query(request))


class HealthRestServicer(_Face):
    """`aistats.gateway.v1.HealthRestService`."""

    def GetHealth(self, request: health_pb2.GetHealthRequest, context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", "/v1/health")


class ModelsRestServicer(_Face):
    """`aistats.gateway.v1.ModelsRestService`."""

    def ListModels(self, request: models_pb2.ListModelsRequest, context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", "/v1/models", query=_query(request))

    def GetModel(self, request: models_pb2.GetModelRequest, context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._one(request, context)

    def ListModelEndpoints(
        self, request: models_pb2.ListModelEndpointsRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._one(request, context, "/endpoints")

    def _one(
        self,
        request: models_pb2.GetModelRequest | models_pb2.ListModelEndpointsRequest,
        context: CallContext,
        rest: str = "",
    ) -> AsyncGenerator[HttpBody, None]:
        query = {name: value for name, value in _query(request).items() if name != "model_id"}
        return self._serve(context, "GET", f"/v1/models/{quote(request.model_id, safe='')}{rest}", query=query)


class DescriptionRestServicer(_Face):
    """`aistats.gateway.v1.DescriptionRestService`, over `Documents`."""

    def GetOpenApiYaml(
        self, request: description_pb2.GetOpenApiYamlRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", "/openapi.yaml")

    def GetOpenApiJson(
        self, request: description_pb2.GetOpenApiJsonRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", "/openapi.json")

    def GetDocsPage(
        self, request: description_pb2.GetDocsPageRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", "/docs")

    def GetDocsFile(
        self, request: description_pb2.GetDocsFileRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", f"/docs/{request.name}")


class ApiKeysRestServicer(_Face):
    """`aistats.gateway.v1.ApiKeysRestService`. An alias of a route is the route."""

    def ListApiKeys(
        self, request: api_keys_pb2.ListApiKeysRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", "/v1/api-keys", query=_query(request))

    def CreateApiKey(self, request: HttpBody, context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", "/v1/api-keys", request)

    def GetApiKey(self, request: api_keys_pb2.GetApiKeyRequest, context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", _key_path(request.key_id))

    def UpdateApiKey(
        self, request: api_keys_pb2.ApiKeyRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "PATCH", _key_path(request.key_id), request.body)

    def DeleteApiKey(
        self, request: api_keys_pb2.DeleteApiKeyRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "DELETE", _key_path(request.key_id))

    def RotateApiKey(
        self, request: api_keys_pb2.ApiKeyRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", f"{_key_path(request.key_id)}/rotate", request.body)

    def GetCurrentApiKey(
        self, request: api_keys_pb2.GetCurrentApiKeyRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", "/v1/key")

    def ListAuditLog(
        self, request: api_keys_pb2.ListAuditLogRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", "/v1/audit-log", query=_query(request))


class WebhooksRestServicer(_Face):
    """`aistats.gateway.v1.WebhooksRestService`."""

    def ListWebhooks(
        self, request: webhooks_pb2.ListWebhooksRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", "/v1/webhooks")

    def CreateWebhook(self, request: HttpBody, context: CallContext) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", "/v1/webhooks", request)

    def GetWebhook(
        self, request: webhooks_pb2.GetWebhookRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", _webhook_path(request.webhook_id))

    def UpdateWebhook(
        self, request: webhooks_pb2.WebhookRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "PATCH", _webhook_path(request.webhook_id), request.body)

    def DeleteWebhook(
        self, request: webhooks_pb2.DeleteWebhookRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "DELETE", _webhook_path(request.webhook_id))

    def RotateWebhookSecret(
        self, request: webhooks_pb2.WebhookRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", f"{_webhook_path(request.webhook_id)}/rotate_secret", request.body)

    def TestWebhook(
        self, request: webhooks_pb2.WebhookRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", f"{_webhook_path(request.webhook_id)}/test", request.body)

    def ListWebhookDeliveries(
        self, request: webhooks_pb2.ListWebhookDeliveriesRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        query = {name: value for name, value in _query(request).items() if name != "webhook_id"}
        return self._serve(context, "GET", f"{_webhook_path(request.webhook_id)}/deliveries", query=query)

    def ReplayWebhookDelivery(
        self, request: webhooks_pb2.WebhookDeliveryRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        delivery = quote(request.delivery_id, safe="")
        path = f"{_webhook_path(request.webhook_id)}/deliveries/{delivery}/replay"
        return self._serve(context, "POST", path, request.body)

    def ReplayDeadWebhookDeliveries(
        self, request: webhooks_pb2.WebhookRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "POST", f"{_webhook_path(request.webhook_id)}/replay", request.body)


class GenerationsRestServicer(_Face):
    """`aistats.gateway.v1.GenerationsRestService`."""

    def GetGeneration(
        self, request: generations_pb2.GetGenerationRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", f"/v1/generation/{quote(request.generation_id, safe='')}")

    def FindGeneration(
        self, request: generations_pb2.FindGenerationRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", "/v1/generation", query=_query(request))

    def ListGenerations(
        self, request: generations_pb2.ListGenerationsRestRequest, context: CallContext
    ) -> AsyncGenerator[HttpBody, None]:
        return self._serve(context, "GET", "/v1/generations", query=_query(request))


def _query(request: Message) -> Mapping[str, tuple[str, ...]]:
    """The query parameters that a message was filled from; a field that is not set is none."""
    query: dict[str, tuple[str, ...]] = {}
    for field, value in request.ListFields():
        name = _QUERY_NAMES.get(field.name, field.name)
        query[name] = (str(value),) if isinstance(value, str | int) else tuple(map(str, value))
    return query


def _key_path(key_id: str) -> str:
    return f"/v1/api-keys/{quote(key_id, safe='')}"


def _video_path(video_id: str) -> str:
    return f"/v1/videos/{quote(video_id, safe='')}"


def _webhook_path(webhook_id: str) -> str:
    return f"/v1/webhooks/{quote(webhook_id, safe='')}"


def _response_path(response_id: str) -> str:
    return f"/v1/responses/{quote(response_id, safe='')}"


def _headers(metadata: Mapping[str, str], body: HttpBody | None) -> Mapping[str, str]:
    """The request's headers. The transcoder moves its content-type into the message; the call has gRPC's own."""
    headers = {name: value for name, value in metadata.items() if name != _OF_THE_MESSAGE}
    if body is not None and body.content_type:
        headers[_OF_THE_MESSAGE] = body.content_type
    return headers


async def _send_metadata(context: CallContext, response: RestResponse) -> None:
    """Headers of their own cost a write to the socket more; those of a 200 Envoy knows by itself (envoy.yaml)."""
    if response.status != 200 or REPLAYED in response.headers or any(name in _OWN for name, _ in response.headers):
        await context.send_initial_metadata(_metadata(response))


def _metadata(response: RestResponse) -> tuple[tuple[str, str], ...]:
    metadata = [(name, value) for name, value in response.headers if name not in _HIDDEN]
    metadata.append((STATUS_KEY, str(response.status)))
    if REPLAYED in response.headers:
        metadata += [(GENERATION_KEY, value) for name, value in response.headers if name == "x-generation-id"]
    own = [(LENGTH_KEY, value) for name, value in response.headers if name == _LENGTH]
    if isinstance(response.body, bytes):
        own = own or [(LENGTH_KEY, str(len(response.body)))]
    return (*metadata, *own)


def _content_type(response: RestResponse) -> str:
    return next((value for name, value in response.headers if name == _OF_THE_MESSAGE), "")


def _can_tell(response: RestResponse) -> bool:
    """Whether clients see by themselves that the body has not come to its end."""
    return _content_type(response) == EVENT_STREAM


class _SentBody:
    """A request's body, message by message. The first of them has its content type."""

    def __init__(self, messages: AsyncIterator[HttpBody]) -> None:
        self._messages = messages
        self._first: HttpBody | None = None
        self._has_begun = False

    async def content_type(self) -> str:
        await self._begin()
        return self._first.content_type if self._first is not None else ""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await self._begin()
        if self._first is not None:
            data, self._first = self._first.data, None
            return bytes(data)
        return bytes((await anext(self._messages)).data)

    async def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._first = await anext(self._messages, None)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
