"""Moderation by an OpenAI-compatible upstream: `POST /moderations`, as OpenAI and Mistral have it.

One call takes many texts, or one picture with its text. What is more than that, or longer than the model's context,
goes in several calls, one after another; the verdicts of a content's pieces are merged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

import msgspec

from server.domain.catalog import Offer
from server.domain.events import Completed, Produced, ProviderEvent, ProviderStream, Started, UsageReported
from server.domain.moderation import Content, InputType, ModerationRequest, Moderations, Verdict, merged
from server.domain.request import Image, Text
from server.domain.usage import Usage
from server.providers.decoding import UNREADABLE
from server.providers.exchange import Exchanges, FailureOfReply, Post
from server.providers.openai_errors import failure_in_band, looks_like_error, protocol_failure
from server.providers.openai_usage import read_usage
from server.providers.pieces import pieces
from server.providers.provider_options import options_for

PATH: Final = "/moderations"
TEXTS_PER_CALL: Final = 32
"""No provider of this dialect documents a limit; what is told of theirs is more."""

SAME_AS: Final[Mapping[str, str]] = {
    "selfharm": "self-harm",
    "hate_and_discrimination": "hate",
    "violence_and_threats": "violence",
    "dangerous_and_criminal_content": "illicit",
    "dangerous": "illicit",
    "criminal": "illicit",
}
"""Mistral's categories that mean what one of OpenAI's does. `health`, `financial`, `law`, `pii` and `jailbreaking` have
no counterpart and keep their names, as does whatever another upstream may call its own."""

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode

_Call = tuple[tuple[int, ...], Any]
"""The numbers of the contents that a call's results belong to, one after another, and its `input`."""


async def moderate(
    exchanges: Exchanges,
    offer: Offer,
    request: ModerationRequest,
    headers: Mapping[str, str],
    failure_of: FailureOfReply,
) -> ProviderStream:
    """As `ProviderAdapter.stream`. What the calls used so far is told after each of them."""
    found: list[list[Verdict]] = [[] for _ in request.inputs]
    usage: Usage | None = None
    for number, (owners, given) in enumerate(calls(request.inputs, offer.context_length)):
        decoder = ModerationDecoder(len(owners), failure_of_error=lambda body: failure_in_band(body, offer.provider))
        post = Post(
            provider=offer.provider,
            url=offer.provider.base_url + PATH,
            headers=headers,
            body=_encode({"model": offer.provider_model, "input": given, **options_for(request, offer.provider.id)}),
            wants_events=False,
            in_batches=False,
        )
        async with aclosing(exchanges.run(post, decoder, failure_of)) as batches:
            async for batch in batches:
                if number == 0:
                    yield batch
        for owner, verdict in zip(owners, decoder.verdicts, strict=True):
            found[owner].append(verdict)
        if decoder.usage is not None:
            usage = decoder.usage if usage is None else _sum(usage, decoder.usage)
            yield (UsageReported(usage),)
    yield (Produced(Moderations(tuple(map(merged, found)))), Completed())


def calls(inputs: Sequence[Content], limit: int | None) -> Iterator[_Call]:
    """What to ask, in which calls. `limit`: the model's context, for each text and for all texts of a call.

    A token is one character at the least.
    """
    texts: list[tuple[int, str]] = []
    pictures: list[_Call] = []
    for number, content in enumerate(inputs):
        images = [part for part in content if isinstance(part, Image)]
        own = [piece for part in content if isinstance(part, Text) for piece in pieces(part.text, limit or _WHOLE)]
        if len(images) == 1 and len(own) + 1 == len(content):
            pictures.append(((number,), [_wire(part) for part in content]))
            continue
        texts += [(number, piece) for piece in own]
        pictures += [((number,), [_wire(image)]) for image in images]
    for some in _batches(texts, limit or _WHOLE):
        yield tuple(number for number, _ in some), [text for _, text in some]
    yield from pictures


def _batches(texts: Sequence[tuple[int, str]], limit: int) -> Iterator[Sequence[tuple[int, str]]]:
    start = chars = 0
    for place, (_, text) in enumerate(texts):
        if place > start and (place - start >= TEXTS_PER_CALL or chars + len(text) > limit):
            yield texts[start:place]
            start, chars = place, 0
        chars += len(text)
    if texts:
        yield texts[start:]


_WHOLE: Final = 1 << 62


def _wire(part: Text | Image) -> Mapping[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    url = part.url if part.url is not None else f"data:{part.media_type};base64,{part.data}"
    return {"type": "image_url", "image_url": {"url": url}}


class ModerationDecoder:
    """Reads the answer of one call, which has `expected` results. See `decoding.StreamDecoder`."""

    done = False
    complete = False

    def __init__(self, expected: int, failure_of_error: Callable[[Any], Exception]) -> None:
        self._expected = expected
        self._failure_of_error = failure_of_error
        self.verdicts: list[Verdict] = []
        self.usage: Usage | None = None

    def whole(self, body: bytes, out: list[ProviderEvent]) -> None:
        try:
            told = _decode(body)
        except UNREADABLE:
            raise protocol_failure("The provider sent something that is not JSON.") from None
        if not isinstance(told, dict):
            raise protocol_failure("The provider sent something that is not a moderation.")
        if told.get("error") or looks_like_error(told):
            raise self._failure_of_error(told)
        results = told.get("results")
        if not isinstance(results, list) or len(results) != self._expected:
            raise protocol_failure("The provider did not send one result for each input.")
        self.verdicts = [verdict(result) for result in results]
        self.usage = read_usage(told.get("usage"))
        out.append(Started(native_response_id=_word(told.get("id")), provider_model=_word(told.get("model"))))

    def feed(self, event: str | None, data: bytes, out: list[ProviderEvent]) -> None:
        raise protocol_failure("The provider sent a stream where none was asked for.")

    def finish(self, out: list[ProviderEvent]) -> None:
        raise protocol_failure("The provider sent a stream where none was asked for.")


def verdict(result: Any) -> Verdict:
    """One result in our categories. Where two of the provider's are one of ours, it is what either of them is.

    A category that is null was not looked for. Raises ProviderFailure for what is no result.
    """
    if not isinstance(result, dict) or not isinstance(told := result.get("categories"), dict):
        raise protocol_failure("The provider sent a result without categories.")
    told_scores, told_types = (
        _object(result.get("category_scores")),
        _object(result.get("category_applied_input_types")),
    )
    categories: dict[str, bool] = {}
    scores: dict[str, float] = {}
    applied: dict[str, tuple[InputType, ...]] = {}
    for theirs, belongs in told.items():
        if not isinstance(belongs, bool):
            continue
        name = SAME_AS.get(theirs, theirs)
        categories[name] = categories.get(name, False) or belongs
        scores[name] = max(scores.get(name, 0.0), _score(told_scores.get(theirs), belongs))
        applied[name] = tuple(dict.fromkeys((*applied.get(name, ()), *_types(told_types.get(theirs)))))
    flagged = result.get("flagged")
    return Verdict(flagged if isinstance(flagged, bool) else any(categories.values()), categories, scores, applied)


def _score(value: Any, belongs: bool) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)
    return 1.0 if belongs else 0.0


def _types(value: Any) -> tuple[InputType, ...]:
    """Where a provider does not say, it is one that sees text only."""
    return tuple(kind for kind in value if kind in ("text", "image")) if isinstance(value, list) else ("text",)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        cached_input_tokens=one.cached_input_tokens + other.cached_input_tokens,
    )
