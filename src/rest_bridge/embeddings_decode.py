"""An embeddings request: OpenAI's JSON, and how it becomes an `EmbeddingRequest`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from rest_bridge.extras import ExtrasBody
from rest_bridge.json import ABSENT, decode_body, decode_value, encode_raw, invalid, is_set
from server.domain import limits
from server.domain.embedding import INPUT, EmbeddingRequest, Tokens
from server.domain.embedding_limits import MAX_TOKEN_ID, MAX_USER_CHARS, check_dimensions, check_inputs
from server.domain.request import Endpoint, RawJson

_TokenId = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKEN_ID)]


class EmbeddingsBody(ExtrasBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/embeddings`. `input`: a string, an array of strings, of tokens, or of arrays of tokens."""

    model: str
    input: RawJson = ABSENT
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


_BODY: Final = msgspec.json.Decoder(EmbeddingsBody)
_TEXT: Final = msgspec.json.Decoder(str)
_TEXTS: Final = msgspec.json.Decoder(tuple[str, ...])
_TOKENS: Final = msgspec.json.Decoder(tuple[_TokenId, ...])
_ARRAYS: Final = msgspec.json.Decoder(tuple[tuple[_TokenId, ...], ...])
_ITEMS: Final = msgspec.json.Decoder(tuple[msgspec.Raw, ...])
_KINDS: Final = "a string, an array of strings, an array of tokens, or an array of arrays of tokens"


class EmbeddingsOrder(msgspec.Struct, frozen=True):
    """What is to be embedded, and whether the client wants to be told who did it."""

    request: EmbeddingRequest
    wants_meta: bool


def decode_embeddings(body: bytes) -> EmbeddingsOrder:
    """The order that a request's body holds. Raises GatewayError naming the field that is wrong."""
    asked = decode_body(_BODY, body)
    if not asked.model:
        raise limits.missing_field("model")
    inputs = _inputs(asked.input)
    if asked.dimensions is not None:
        check_dimensions(asked.dimensions)
    limits.check_length(asked.user or "", MAX_USER_CHARS, "user")
    parameters = {name: name for name in ("dimensions", "user") if getattr(asked, name) is not None}
    request = EmbeddingRequest(
        endpoint=Endpoint.EMBEDDINGS,
        model=asked.model,
        inputs=inputs,
        dimensions=asked.dimensions,
        form="packed" if asked.encoding_format == "base64" else "numbers",
        parameters=parameters,
        passthrough={} if asked.user is None else {"user": encode_raw(asked.user)},
        provider_options=asked.options(),
        routing=asked.routing(),
        trace=asked.wants_trace(),
    )
    return EmbeddingsOrder(request, bool(asked.meta))


def _inputs(raw: RawJson) -> tuple[str, ...] | tuple[Tokens, ...]:
    """What the first entry of an array is, all the others have to be."""
    if not is_set(raw):
        raise limits.missing_field(INPUT)
    inputs: tuple[str, ...] | tuple[Tokens, ...]
    single = False
    match _first(raw):
        case b'"':
            inputs, single = (decode_value(_TEXT, raw, INPUT),), True
        case b"[":
            items = decode_value(_ITEMS, raw, INPUT)
            match _first(items[0]) if items else b"":
                case b"":
                    inputs = ()
                case b'"':
                    inputs = decode_value(_TEXTS, raw, INPUT)
                case b"[":
                    inputs = decode_value(_ARRAYS, raw, INPUT)
                case first if first == b"-" or first.isdigit():
                    inputs, single = (decode_value(_TOKENS, raw, INPUT),), True
                case _:
                    raise invalid(f"{INPUT}[0]", f"`{INPUT}` must be {_KINDS}: see its first entry.")
        case _:
            raise invalid(INPUT, f"`{INPUT}` must be {_KINDS}.")
    check_inputs(inputs, single=single)
    return inputs


def _first(raw: RawJson) -> bytes:
    """The first character of a value tells its kind."""
    return memoryview(raw)[:1].tobytes()
