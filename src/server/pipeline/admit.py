"""The door to the providers: what a request may cost at most is held from its team's credit before any is called."""

from __future__ import annotations

from typing import Final

import msgspec

from server.domain.audio import SpeechRequest, TranscriptionRequest
from server.domain.identity import Call
from server.domain.images import ImageRequest
from server.domain.ledger import Hold, Ledger
from server.domain.limits import invalid_value
from server.domain.moderation import ModerationRequest
from server.domain.pricing import upper_bound
from server.domain.record import GenerationRecord
from server.domain.request import (
    Audio,
    BuiltInTool,
    File,
    GenerationRequest,
    Image,
    Opaque,
    Request,
    Text,
    ToolResult,
)
from server.domain.routing import Candidate, Route
from server.domain.work import Work
from server.pipeline.counting import count_prompt, count_sound, media_of
from server.pipeline.units import LEAST_BYTES_PER_SECOND, most_units

DEFAULT_OUTPUT_TOKENS: Final = 16_384
"""The longest output of a choice where neither the request nor the catalogue knows of a limit."""
TOKENS_PER_IMAGE: Final = 1_600
BASE64_CHARS_PER_TOKEN: Final = 16
"""Of an inline file: generous, so that its share of the hold is not too small. Text has three times as many."""
LEAST_BYTES_PER_SECOND_OF_WAV: Final = 8_000
TOKENS_PER_MADE_IMAGE: Final = 8_192
"""More than OpenAI and Google count for the largest and finest picture that they make."""
TOKENS_PER_SPOKEN_SECOND: Final = 32
"""Heard or spoken; nobody counts more."""
TOKENS_PER_LINK: Final = 8_000
"""A file of which only the address is known."""

_LIMITS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")


def is_billable(route: Route) -> bool:
    """Whether any candidate may cost something."""
    return not all(candidate.model.is_free for candidate in route.candidates)


async def admit(ledger: Ledger, call: Call, request: Work, route: Route, *, at_once: int = 1) -> None:
    """Hold the credit that `request` may cost on the dearest candidates, of which so many may be called `at_once`.

    Raises GatewayError where the team has not enough of it. A caller that is cancelled settles all the same, for the
    hold may have been made.
    """
    await ledger.reserve(Hold(bound(request, route, at_once), opening(call, request), call.principal.spend_limit))


def opening(call: Call, request: Request) -> GenerationRecord:
    """The record of a request that has only begun."""
    return GenerationRecord(
        suffix=call.suffix,
        request_id=call.arrival.request_id,
        created_at=call.arrival.created_at,
        team_id=call.principal.team_id,
        key_id=call.principal.key_id,
        endpoint=request.endpoint.value,
        model_id=request.model,
        stream=request.stream,
        parent_id=call.parent_id,
        moderation=call.progress.moderation,
    )


def bound(request: Work, route: Route, at_once: int = 1) -> int:
    """The most that a request may cost on so many candidates, in nano-dollars; its prompt is estimated."""
    prompt, units = estimate_prompt(request), most_units(request)
    bounds = [
        upper_bound(
            candidate.offer.prices, _input_bound(request, prompt, candidate), output_bound(request, candidate), units
        )
        for candidate in route.candidates
    ]
    return max(bounds) if at_once == 1 else sum(sorted(bounds)[-at_once:])


def estimate_prompt(request: Work) -> int:
    """Tokens of everything in the prompt, media included."""
    return count_prompt(request) + _tokens_of_media(request)


def _input_bound(request: Work, prompt: int, candidate: Candidate) -> int:
    """No model is shown more than it has room for, however much was estimated."""
    length = candidate.offer.context_length
    return min(prompt, length) if length is not None and isinstance(request, GenerationRequest) else prompt


def _tokens_of_media(request: Work) -> int:
    match request:
        case GenerationRequest(turns=turns, tools=tools):
            shown = sum(_media_tokens(part) for turn in turns for part in turn.parts)
            return shown + sum(_media_tokens(tool) for tool in tools)
        case ModerationRequest(inputs=inputs):
            return sum(_media_tokens(part) for content in inputs for part in content)
        case ImageRequest(images=images):
            return TOKENS_PER_IMAGE * len(images)
        case TranscriptionRequest():
            return count_sound(most_units(request)["input_audio_seconds"])
        case _:
            return 0


def _media_tokens(part: object) -> int:
    match part:
        case Text():
            return 0
        case Image():
            return TOKENS_PER_IMAGE
        case Audio(data=data, format=kind):
            rate = LEAST_BYTES_PER_SECOND_OF_WAV if kind == "wav" else LEAST_BYTES_PER_SECOND
            return TOKENS_PER_SPOKEN_SECOND * (len(data) * 3 // 4 // rate + 1)
        case File(data=str() as data, media_type=kind):
            return len(data) * (3 if kind and kind.startswith("text/") else 1) // BASE64_CHARS_PER_TOKEN
        case File():
            return TOKENS_PER_LINK
        case ToolResult(content=content):
            return sum(map(_media_tokens, content))
        case Opaque(type=kind, item=item) | BuiltInTool(type=kind, tool=item):
            return sum(map(_media_tokens, media_of(kind, item)))
        case _:
            return 0


def output_bound(request: Work, candidate: Candidate) -> int:
    """The most tokens that a candidate may put out, over all choices; limits in `provider_options` count.

    Raises GatewayError for one that is no limit.
    """
    match request:
        case GenerationRequest():
            return _text_bound(request, candidate)
        case ImageRequest(n=n):
            return TOKENS_PER_MADE_IMAGE * n
        case SpeechRequest():
            return TOKENS_PER_SPOKEN_SECOND * most_units(request)["output_audio_seconds"]
        case TranscriptionRequest():
            return candidate.model.max_output_tokens or DEFAULT_OUTPUT_TOKENS
        case _:
            return 0


def _text_bound(request: GenerationRequest, candidate: Candidate) -> int:
    """What stands in `provider_options` counts where it is more: a provider may pass over what it does not know."""
    provider, model, sampling = candidate.offer.provider.id, candidate.model, request.sampling
    options = request.provider_options.get(provider, {})
    own = [_at_least_one(options[name], f"provider_options.{provider}.{name}") for name in _LIMITS if name in options]
    choices = _at_least_one(options["n"], f"provider_options.{provider}.n") if "n" in options else 1
    most, asked = model.max_output_tokens or model.context_length, sampling.max_output_tokens
    longest = max((most or DEFAULT_OUTPUT_TOKENS if asked is None else asked, *own))
    return min(longest, most or longest) * max(choices, sampling.n or 1)


def _at_least_one(raw: msgspec.Raw, param: str) -> int:
    try:
        value = msgspec.json.decode(raw, type=int)
    except msgspec.ValidationError:
        value = 0
    if value < 1:
        raise invalid_value(param, "must be a whole number of at least 1")
    return value
