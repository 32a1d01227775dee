"""The adapter of the `openai` dialect: any upstream with one of OpenAI's APIs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from server.domain.audio import SpeechRequest, TranscriptionRequest
from server.domain.catalog import Offer, Provider
from server.domain.embedding import EmbeddingRequest
from server.domain.errors import ProviderFailure
from server.domain.events import ProviderStream
from server.domain.images import ImageRequest
from server.domain.moderation import ModerationRequest
from server.domain.ports import Clock, IdSource
from server.domain.request import GENERATING, Endpoint, GenerationRequest, Request
from server.domain.work import Work
from server.providers import openai_embeddings, openai_images, openai_speech, openai_transcriptions
from server.providers.decoding import StreamDecoder
from server.providers.exchange import DEADLINES, USER_AGENT, Deadlines, Exchanges, Post
from server.providers.http_port import HttpTransport, ResponseHeaders
from server.providers.openai_apis import PATHS, Api, api_for, unsupported
from server.providers.openai_chat_decode import ChatDecoder
from server.providers.openai_chat_encode import encode_chat
from server.providers.openai_errors import failure_of_reply
from server.providers.openai_moderations import moderate
from server.providers.openai_responses_decode import ResponsesDecoder
from server.providers.openai_responses_encode import encode_responses
from server.providers.pictures import Pictures
from server.providers.provider_options import options_for
from server.providers.tool_call_start import no_function

_ENCODERS: Final[dict[Api, Callable[[Offer, GenerationRequest], bytes]]] = {
    "chat": encode_chat,
    "responses": encode_responses,
}
_DECODERS: Final[dict[Api, Callable[[Provider, IdSource], StreamDecoder]]] = {
    "chat": ChatDecoder,
    "responses": ResponsesDecoder,
}


class OpenAIAdapter:
    """See `server.domain.ports.ProviderAdapter`."""

    endpoints: Final = GENERATING | {Endpoint.EMBEDDINGS, Endpoint.MODERATIONS, Endpoint.AUDIO, Endpoint.IMAGES}

    def __init__(
        self,
        transport: HttpTransport,
        clock: Clock,
        ids: IdSource,
        deadlines: Deadlines = DEADLINES,
    ) -> None:
        self._exchanges = Exchanges(transport, clock, deadlines)
        self._pictures = Pictures(transport, deadlines)
        self._clock = clock
        self._ids = ids

    def supports(self, offer: Offer, request: Work) -> str | None:
        """As the port says. Raises GatewayError where `provider_options` holds what no client may set."""
        options_for(request, offer.provider.id)
        if isinstance(request, ModerationRequest):
            return None
        if isinstance(request, EmbeddingRequest):
            return openai_embeddings.unsupported(offer, request)
        if isinstance(request, ImageRequest):
            return openai_images.unsupported(offer, request)
        if isinstance(request, SpeechRequest):
            return openai_speech.unsupported(offer, request)
        if isinstance(request, TranscriptionRequest):
            return openai_transcriptions.unsupported(offer, request)
        assert isinstance(request, GenerationRequest), "routed by endpoints"
        profile = offer.provider.profile
        return unsupported(request, api_for(request.endpoint, profile), profile) or no_function(request, profile)

    def stream(self, offer: Offer, request: Work) -> ProviderStream:
        provider = offer.provider

        def failure_of(status: int, headers: ResponseHeaders, body: bytes) -> ProviderFailure:
            return failure_of_reply(status, headers, body, provider, self._clock.now())

        headers = _headers(provider, request)
        if isinstance(request, ModerationRequest):
            return moderate(self._exchanges, offer, request, headers, failure_of)
        if isinstance(request, EmbeddingRequest):
            return openai_embeddings.stream(self._exchanges, offer, request, headers, failure_of)
        if isinstance(request, ImageRequest):
            return openai_images.stream(self._exchanges, self._pictures, offer, request, headers, failure_of)
        if isinstance(request, SpeechRequest):
            return openai_speech.stream(self._exchanges, offer, request, headers, failure_of)
        if isinstance(request, TranscriptionRequest):
            return openai_transcriptions.stream(self._exchanges, offer, request, headers, failure_of)
        assert isinstance(request, GenerationRequest), "routed by endpoints"
        api = api_for(request.endpoint, provider.profile)
        post = Post(
            provider=provider,
            url=provider.base_url + PATHS[api],
            headers=headers,
            body=_ENCODERS[api](offer, request),
            wants_events=request.stream,
            in_batches=request.stream,
        )
        return self._exchanges.run(post, _DECODERS[api](provider, self._ids), failure_of)


def _headers(provider: Provider, request: Request) -> dict[str, str]:
    headers = {
        "content-type": "application/json",
        "accept": "text/event-stream, application/json" if request.stream else "application/json",
        "user-agent": USER_AGENT,
    }
    if provider.api_key:
        headers["authorization"] = f"Bearer {provider.api_key}"
    return headers
