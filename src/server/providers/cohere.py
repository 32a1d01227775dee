"""The adapter of the `cohere` dialect: Cohere's own API, for embeddings (`POST <base_url>/embed`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from server.domain.catalog import Offer, Provider
from server.domain.embedding import INPUT, EmbeddingRequest
from server.domain.errors import ProviderFailure, option_refused
from server.domain.events import ProviderStream, Started
from server.domain.ports import Clock
from server.domain.request import Endpoint
from server.domain.usage import Usage
from server.domain.work import Work
from server.providers.decoding import UNREADABLE
from server.providers.embeddings import Call, Reply, calls, embed, vectors
from server.providers.exchange import DEADLINES, USER_AGENT, Deadlines, Exchanges, Post
from server.providers.gemini_wire import counted
from server.providers.http_port import HttpTransport, ResponseHeaders
from server.providers.openai_errors import failure_in_band, failure_of_reply, protocol_failure
from server.providers.provider_options import options_for

MAX_INPUTS: Final = 96
"""Of one call, where the catalogue knows of no other limit."""
INPUT_TYPE: Final = "search_document"
"""What texts are taken for where the client does not say: Cohere wants to know."""
_FORBIDDEN: Final = frozenset({"texts", "images", "inputs", "embedding_types", "output_dimension"})

_encode: Final = msgspec.json.Encoder().encode
_decode_any: Final = msgspec.json.Decoder().decode


class _Vectors(msgspec.Struct):
    base64: list[msgspec.Raw] | None = None
    float: list[msgspec.Raw] | None = None


class _Reply(msgspec.Struct):
    id: Any = None
    embeddings: _Vectors | None = None
    meta: Any = None


_decode: Final = msgspec.json.Decoder(_Reply).decode


class CohereAdapter:
    """See `server.domain.ports.ProviderAdapter`."""

    endpoints: Final = frozenset({Endpoint.EMBEDDINGS})

    def __init__(
        self,
        transport: HttpTransport,
        clock: Clock,
        deadlines: Deadlines = DEADLINES,
    ) -> None:
        self._exchanges = Exchanges(transport, clock, deadlines)
        self._clock = clock

    def supports(self, offer: Offer, request: Work) -> str | None:
        """As the port says. Raises GatewayError where `provider_options` holds what no client may set."""
        assert isinstance(request, EmbeddingRequest), "routed by endpoints"
        _options(offer, request)
        if not isinstance(request.inputs[0], str):
            return INPUT
        return next((spelling for name, spelling in request.parameters.items() if name != "dimensions"), None)

    def stream(self, offer: Offer, request: Work) -> ProviderStream:
        assert isinstance(request, EmbeddingRequest), "routed by endpoints"
        provider = offer.provider

        def failure_of(status: int, headers: ResponseHeaders, body: bytes) -> ProviderFailure:
            return failure_of_reply(status, headers, body, provider, self._clock.now())

        def call_for(part: EmbeddingRequest) -> Call:
            post = Post(
                provider=provider,
                url=f"{provider.base_url}/embed",
                headers=_headers(provider),
                body=body(offer, part),
                wants_events=False,
                in_batches=False,
            )
            return Call(post, partial(read, request=part, provider=provider))

        facts = replace(offer.embeddings, max_inputs=offer.embeddings.max_inputs or MAX_INPUTS)
        return embed(self._exchanges, list(calls(request, facts)), call_for, failure_of)


def body(offer: Offer, request: EmbeddingRequest) -> bytes:
    """A text beyond the model's context is an error, as with everybody else, unless the client has it cut."""
    said: dict[str, Any] = {
        "model": offer.provider_model,
        "texts": request.inputs,
        "input_type": INPUT_TYPE,
        "embedding_types": [offer.embeddings.encoding],
        "truncate": "NONE",
    }
    if request.dimensions is not None:
        said["output_dimension"] = request.dimensions
    return _encode({**said, **_options(offer, request)})


def read(body: bytes, *, request: EmbeddingRequest, provider: Provider) -> Reply:
    """The answer to a call. Raises ProviderFailure."""
    try:
        told = _decode(body)
    except UNREADABLE:
        raise _unreadable(body, provider) from None
    raws: Sequence[msgspec.Raw] | None = None
    if told.embeddings is not None:
        raws = told.embeddings.base64 or told.embeddings.float
    if raws is None:
        raise _unreadable(body, provider)
    found, length = vectors(raws, request)
    return Reply(found, length, _usage(told.meta), Started(told.id if isinstance(told.id, str) else None))


def _usage(meta: Any) -> Usage | None:
    """What is billed, which is not always what was counted."""
    billed = meta.get("billed_units") if isinstance(meta, dict) else None
    tokens = counted(billed.get("input_tokens")) if isinstance(billed, dict) else None
    return None if tokens is None else Usage(input_tokens=tokens)


def _unreadable(body: bytes, provider: Provider) -> Exception:
    """What a 200 without vectors means."""
    try:
        told = _decode_any(body)
    except UNREADABLE:
        return protocol_failure("The provider sent something that is not JSON.")
    if isinstance(told, dict) and "embeddings" not in told and isinstance(told.get("message"), str):
        return failure_in_band(told, provider)
    return protocol_failure("The provider sent something that is no list of embeddings.")


def _options(offer: Offer, request: EmbeddingRequest) -> Mapping[str, msgspec.Raw]:
    """Raises GatewayError for one that no client may set."""
    provider_id = offer.provider.id
    options = options_for(request, provider_id)
    for key in options:
        if key.strip().lower() in _FORBIDDEN:
            raise option_refused(provider_id, key)
    return options


def _headers(provider: Provider) -> Mapping[str, str]:
    headers = {"content-type": "application/json", "accept": "application/json", "user-agent": USER_AGENT}
    if provider.api_key:
        headers["authorization"] = f"Bearer {provider.api_key}"
    return headers
