"""Embeddings by the Gemini API: `batchEmbedContents`, which has one request for each text."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from server.domain.catalog import Offer, Provider
from server.domain.embedding import INPUT, EmbeddingRequest
from server.domain.errors import option_refused
from server.domain.events import ProviderStream
from server.domain.usage import Usage
from server.providers.decoding import UNREADABLE
from server.providers.embeddings import Call, Reply, calls, embed, vectors
from server.providers.exchange import Exchanges, FailureOfReply, Post
from server.providers.gemini_errors import failure_in_band, protocol_failure, read_status
from server.providers.gemini_wire import NOTHING, counted, decode_any
from server.providers.provider_options import options_for

MAX_INPUTS: Final = 100
"""Of one call, where the catalogue knows of no other limit."""
_FORBIDDEN: Final = frozenset({"content", "contents", "requests"})
_DIMENSIONS: Final = "outputdimensionality"

_encode: Final = msgspec.json.Encoder().encode


class _Embedding(msgspec.Struct, gc=False):
    values: msgspec.Raw = NOTHING


class _Reply(msgspec.Struct, rename="camel"):
    embeddings: list[_Embedding] | None = None
    usage_metadata: Any = None


_decode: Final = msgspec.json.Decoder(_Reply).decode


def unsupported(offer: Offer, request: EmbeddingRequest) -> str | None:
    """As `ProviderAdapter.supports`."""
    _options(offer, request)
    if not isinstance(request.inputs[0], str):
        return INPUT
    return next((spelling for name, spelling in request.parameters.items() if name != "dimensions"), None)


def stream(
    exchanges: Exchanges,
    offer: Offer,
    request: EmbeddingRequest,
    headers: Mapping[str, str],
    failure_of: FailureOfReply,
) -> ProviderStream:
    """As `ProviderAdapter.stream`."""

    def call_for(part: EmbeddingRequest) -> Call:
        post = Post(
            provider=offer.provider,
            url=f"{offer.provider.base_url}/{quote(_name(offer), safe='/-._~')}:batchEmbedContents",
            headers=headers,
            body=body(offer, part),
            wants_events=False,
            in_batches=False,
        )
        return Call(post, partial(read, request=part, provider=offer.provider))

    facts = replace(offer.embeddings, max_inputs=offer.embeddings.max_inputs or MAX_INPUTS)
    return embed(exchanges, list(calls(request, facts)), call_for, failure_of)


def body(offer: Offer, request: EmbeddingRequest) -> bytes:
    """What a client adds for this provider (`taskType`, `title`) goes into the request of every text."""
    common: dict[str, Any] = {"model": _name(offer)}
    if request.dimensions is not None:
        common["outputDimensionality"] = request.dimensions
    common |= _options(offer, request)
    return _encode({"requests": [{**common, "content": {"parts": [{"text": text}]}} for text in request.inputs]})


def read(body: bytes, *, request: EmbeddingRequest, provider: Provider) -> Reply:
    """The answer to a call. Raises ProviderFailure."""
    try:
        told = _decode(body)
    except UNREADABLE:
        raise _unreadable(body, provider) from None
    if told.embeddings is None:
        raise _unreadable(body, provider)
    found, length = vectors([embedding.values for embedding in told.embeddings], request)
    return Reply(found, length, _usage(told.usage_metadata))


def _usage(told: Any) -> Usage | None:
    """Most models tell none."""
    tokens = counted(told.get("promptTokenCount")) if isinstance(told, dict) else None
    return None if tokens is None else Usage(input_tokens=tokens)


def _unreadable(body: bytes, provider: Provider) -> Exception:
    """What a 200 without vectors means."""
    try:
        told = decode_any(body)
    except UNREADABLE:
        return protocol_failure("The provider sent something that is not JSON.")
    if read_status(told) is not None:
        return failure_in_band(told, provider)
    return protocol_failure("The provider sent something that is no list of embeddings.")


def _name(offer: Offer) -> str:
    model = offer.provider_model
    return model if "/" in model else f"models/{model}"


def _options(offer: Offer, request: EmbeddingRequest) -> Mapping[str, msgspec.Raw]:
    """Raises GatewayError for one that no client may set."""
    provider_id = offer.provider.id
    options = options_for(request, provider_id)
    for key in options:
        name = key.strip().replace("_", "").lower()
        if name in _FORBIDDEN or name == _DIMENSIONS:
            raise option_refused(provider_id, key, instead="set `dimensions`" if name == _DIMENSIONS else "")
    return options
