"""Embeddings by an OpenAI-compatible upstream: `POST /embeddings`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import msgspec

from server.domain.catalog import Offer, Provider
from server.domain.embedding import INPUT, EmbeddingRequest
from server.domain.errors import ProviderFailure, UpstreamError, option_refused
from server.domain.events import ProviderStream, Started
from server.providers.decoding import UNREADABLE
from server.providers.embeddings import Call, Reply, calls, embed, in_order, vectors
from server.providers.exchange import Exchanges, FailureOfReply, Post
from server.providers.http_port import ResponseHeaders
from server.providers.openai_errors import failure_in_band, looks_like_error, protocol_failure
from server.providers.openai_usage import read_usage
from server.providers.provider_options import options_for

PATH: Final = "/embeddings"
_SAID: Final = frozenset({"dimensions", "user"})
_FORBIDDEN: Final = frozenset({"encoding_format", "dimensions"})
"""The gateway asks for what costs least and gives the client what it asked for; the length of vectors it checks."""
_TOO_LARGE: Final = re.compile(r"input \((\d+) tokens\) is too large to process.*batch size: (\d+)")
"""How llama.cpp tells its operator, and everybody else, that a text is too long."""
_NOTHING: Final = msgspec.Raw(b"")

_encode: Final = msgspec.json.Encoder().encode
_decode_any: Final = msgspec.json.Decoder().decode


class _Item(msgspec.Struct, gc=False):
    index: Any = None
    embedding: msgspec.Raw = _NOTHING


class _Reply(msgspec.Struct):
    data: list[_Item] | None = None
    id: Any = None
    model: Any = None
    usage: Any = None


_decode: Final = msgspec.json.Decoder(_Reply).decode


def unsupported(offer: Offer, request: EmbeddingRequest) -> str | None:
    """As `ProviderAdapter.supports`."""
    for key in options_for(request, offer.provider.id):
        name = key.strip().lower()
        if name in _FORBIDDEN:
            raise option_refused(offer.provider.id, key, instead="set it beside `input`")
        if name == offer.embeddings.dimensions_field:
            raise option_refused(offer.provider.id, key, instead="set `dimensions` beside `input`")
    if not offer.embeddings.token_input and not isinstance(request.inputs[0], str):
        return INPUT
    return next((spelling for name, spelling in request.parameters.items() if name not in _SAID), None)


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
            url=offer.provider.base_url + PATH,
            headers=headers,
            body=body(offer, part),
            wants_events=False,
            in_batches=False,
        )
        return Call(post, partial(read, request=part, provider=offer.provider))

    def told(status: int, headers: ResponseHeaders, body: bytes) -> ProviderFailure:
        failure = failure_of(status, headers, body)
        if found := _TOO_LARGE.search(failure.upstream.message or ""):
            said = f"A text of the input has {found[1]} tokens, and this model takes {found[2]} at most."
            failure.upstream = UpstreamError(failure.upstream.code, said, INPUT)
        return failure

    return embed(exchanges, list(calls(request, offer.embeddings)), call_for, told)


def body(offer: Offer, request: EmbeddingRequest) -> bytes:
    said: dict[str, Any] = {"model": offer.provider_model, "input": request.inputs}
    if offer.embeddings.encoding == "base64":
        said["encoding_format"] = "base64"
    if request.dimensions is not None:
        said[offer.embeddings.dimensions_field] = request.dimensions
    said |= {name: value for name, value in request.passthrough.items() if name in _SAID}
    return _encode({**said, **options_for(request, offer.provider.id)})


def read(body: bytes, *, request: EmbeddingRequest, provider: Provider) -> Reply:
    """The answer to a call. Raises ProviderFailure."""
    try:
        told = _decode(body)
    except UNREADABLE:
        raise _unreadable(body, provider) from None
    if told.data is None:
        raise _unreadable(body, provider)
    order = in_order([item.index for item in told.data])
    found, length = vectors([told.data[place].embedding for place in order], request)
    started = Started(native_response_id=_word(told.id), provider_model=_word(told.model))
    return Reply(found, length, read_usage(told.usage), started)


def _unreadable(body: bytes, provider: Provider) -> Exception:
    """What a 200 without vectors means."""
    try:
        told = _decode_any(body)
    except UNREADABLE:
        return protocol_failure("The provider sent something that is not JSON.")
    if isinstance(told, dict) and (told.get("error") or looks_like_error(told)):
        return failure_in_band(told, provider)
    return protocol_failure("The provider sent something that is no list of embeddings.")


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
