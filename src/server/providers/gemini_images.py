"""Pictures by the Gemini API: `generateContent` of a model whose answers are pictures, once for each that is wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from server.domain.catalog import Offer, Provider
from server.domain.errors import FailureCategory, ProviderFailure, UpstreamError
from server.domain.events import (
    Completed,
    FinishReason,
    Produced,
    ProviderEvent,
    ProviderStream,
    Started,
    UsageReported,
)
from server.domain.images import ImageRequest, Images, MadeImage
from server.domain.upload import Upload
from server.domain.usage import Usage
from server.providers.decoding import UNREADABLE
from server.providers.exchange import Exchanges, FailureOfReply, Post
from server.providers.gemini_decode import FINISH_REASONS
from server.providers.gemini_errors import blocked_failure, failure_in_band, protocol_failure, read_status
from server.providers.gemini_image_sizes import image_config
from server.providers.gemini_models import takes_levels
from server.providers.gemini_options import gemini_options, merge
from server.providers.gemini_usage import image_usage
from server.providers.gemini_wire import WireCandidate, WireReply, decode_any, decode_reply, words
from server.providers.http_port import SizedBody
from server.providers.inline_body import InlineBody, base64_size
from server.providers.openai_images_decode import added
from server.providers.pictures import made_image, true_type
from server.providers.scrub import scrubbed
from server.providers.several import as_they_end

MAX_AT_ONCE: Final = 4
"""Calls of one request that are under way at a time."""
MAX_INLINE_BYTES: Final = 100_000_000
"""Of all pictures that go with a request, in base64: what the API takes in a body."""

_TAKEN: Final = frozenset({"image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"})
_SAID: Final = frozenset({"n", "size"})
_ASKS_FOR_NOTHING: Final = {
    "quality": ("auto",),
    "background": ("auto",),
    "moderation": ("auto",),
    "partial_images": (0,),
}
"""Values of what Gemini does not have which only ask for what it does anyway."""
_REFUSED: Final = frozenset({"NO_IMAGE", "LANGUAGE", "ESCALATION", "PUP_LIMITED_DISABLED"})
"""Reasons for making no picture that lie in what was asked for, beside those that `FINISH_REASONS` knows."""

_encode: Final = msgspec.json.Encoder().encode


class _Answer(msgspec.Struct, frozen=True):
    """What one call came to: `pictures`, or a `failure` that has been paid for."""

    pictures: tuple[MadeImage, ...] = ()
    usage: Usage | None = None
    started: Started = Started()
    failure: ProviderFailure | None = None


def unsupported(offer: Offer, request: ImageRequest) -> str | None:
    """As `ProviderAdapter.supports`."""
    gemini_options(request, offer.provider.id)
    return next(_problems(offer, request), None)


def _problems(offer: Offer, request: ImageRequest) -> Iterator[str]:
    spelled = request.parameters
    if image_config(request.size, has_sizes=takes_levels(offer.provider_model)) is None:
        yield spelled.get("size", "size")
    for name, spelling in spelled.items():
        if name not in _SAID and _value(request, name) not in _ASKS_FOR_NOTHING.get(name, ()):
            yield spelling
    if request.mask is not None:
        yield "mask"
    if any(true_type(image) not in _TAKEN for image in request.images):
        yield "image"
    if sum(base64_size(image.size) for image in request.images) > MAX_INLINE_BYTES:
        yield "image"


def _value(request: ImageRequest, name: str) -> Any:
    match name:
        case "quality":
            return request.quality
        case "partial_images":
            return request.partials
        case _:
            return decode_any(request.passthrough.get(name, b"null"))


async def stream(
    exchanges: Exchanges,
    offer: Offer,
    request: ImageRequest,
    headers: Mapping[str, str],
    failure_of: FailureOfReply,
) -> ProviderStream:
    """As `ProviderAdapter.stream`: what all calls used so far is told as they end.

    A picture that the content filter has kept back is left out where there are others; any other failure ends them all.
    """
    post = Post(
        provider=offer.provider,
        url=f"{offer.provider.base_url}/{quote(_name(offer), safe='/-._~')}:generateContent",
        headers={**headers, "accept": "application/json"},
        body=body(offer, request),
        wants_events=False,
        in_batches=False,
    )

    async def ask() -> _Answer:
        decoder, started = _ReplyDecoder(offer.provider), Started()
        async with aclosing(exchanges.run(post, decoder, failure_of)) as batches:
            async for batch in batches:
                started = next((event for event in batch if isinstance(event, Started)), started)
        return replace(decoder.answer, started=started)

    answers: dict[int, _Answer] = {}
    used: Usage | None = None
    async with aclosing(as_they_end([ask] * request.n, MAX_AT_ONCE)) as ended:
        async for number, answer in ended:
            events: list[ProviderEvent] = [] if answers else [answer.started]
            answers[number] = answer
            if answer.usage is not None:
                used = answer.usage if used is None else added(used, answer.usage)
                events.append(UsageReported(used))
            yield events
            if answer.failure is not None and not answer.failure.is_final:
                raise answer.failure
    made = [picture for number in sorted(answers) for picture in answers[number].pictures]
    if not made:
        raise next(answer.failure for answer in answers.values() if answer.failure is not None)
    yield (Produced(Images(tuple(made[: request.n]))), Completed())


def body(offer: Offer, request: ImageRequest) -> bytes | SizedBody:
    """Of each of the calls."""
    shape = image_config(request.size, has_sizes=True)
    config: dict[str, Any] = {"responseModalities": ["IMAGE"], **({"imageConfig": shape} if shape else {})}
    rest: dict[str, Any] = {"generationConfig": config}
    merge(rest, gemini_options(request, offer.provider.id))
    parts: list[bytes | Upload] = [b'{"contents":[{"role":"user","parts":[' + _encode({"text": request.prompt})]
    for image in request.images:
        parts += [b',{"inlineData":{"mimeType":' + _encode(true_type(image)) + b',"data":"', image, b'"}}']
    parts.append(b"]}]," + _encode(rest)[1:])
    return InlineBody(parts) if request.images else b"".join(part for part in parts if isinstance(part, bytes))


class _ReplyDecoder:
    """Reads a whole answer. See `decoding.StreamDecoder`."""

    done = False
    complete = False

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.answer = _Answer()

    def whole(self, body: bytes, out: list[ProviderEvent]) -> None:
        reply = _read(body, self._provider)
        out.append(Started(words(reply.response_id) or None, words(reply.model_version) or None))
        candidates = reply.candidates or []
        pictures = tuple(picture for candidate in candidates for picture in _pictures(candidate))
        failure = None if pictures else self._failure(candidates)
        self.answer = _Answer(pictures, image_usage(reply.usage_metadata), failure=failure)

    def feed(self, event: str | None, data: bytes, out: list[ProviderEvent]) -> None:
        raise protocol_failure("The provider sent a stream where none was asked for.")

    def finish(self, out: list[ProviderEvent]) -> None:
        raise protocol_failure("The provider sent a stream where none was asked for.")

    def _failure(self, candidates: list[WireCandidate]) -> ProviderFailure:
        """Why there is no picture."""
        found = next((one for one in candidates if words(one.finish_reason) not in ("", "STOP")), None)
        if found is None:
            return protocol_failure("The provider answered without a picture.")
        reason = words(found.finish_reason)
        is_refusal = FINISH_REASONS.get(reason) is FinishReason.CONTENT_FILTER or reason in _REFUSED
        message = words(found.finish_message) or f"The provider made no picture ({reason})."
        return ProviderFailure(
            FailureCategory.CONTENT_POLICY if is_refusal else FailureCategory.SERVER_ERROR,
            upstream=scrubbed(UpstreamError(reason, message), self._provider),
        )


def _read(body: bytes, provider: Provider) -> WireReply:
    """Raises ProviderFailure for what is no answer, or says that the prompt was blocked."""
    try:
        reply = decode_reply(body)
    except UNREADABLE:
        try:
            told = decode_any(body)
        except UNREADABLE:
            raise protocol_failure("The provider sent something that is not JSON.") from None
        if read_status(told) is not None:
            raise failure_in_band(told, provider) from None
        raise protocol_failure("The provider sent something that is not a generateContent reply.") from None
    if reply.error:
        raise failure_in_band(decode_any(body), provider)
    feedback = reply.prompt_feedback
    if isinstance(feedback, dict) and feedback.get("blockReason") and not reply.candidates:
        raise blocked_failure(feedback, provider)
    return reply


def _pictures(candidate: WireCandidate) -> Iterator[MadeImage]:
    """Those of the answer; what the model drew while it thought is none of it."""
    for part in candidate.content.parts or () if candidate.content is not None else ():
        data = part.inline_data
        if isinstance(data, dict) and not part.thought:
            declared = words(data.get("mimeType"))
            if not declared or declared.startswith("image/"):
                yield made_image(data.get("data"), declared or None)


def _name(offer: Offer) -> str:
    model = offer.provider_model
    return model if "/" in model else f"models/{model}"
