"""Answers of OpenAI's image API, whole or as events, from OpenAI itself and from those who follow it."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec.structs import replace

from server.domain.catalog import Provider
from server.domain.errors import FailureCategory, ProviderFailure, UpstreamError
from server.domain.events import ImagePartial, ProviderEvent, Started, UsageReported
from server.domain.images import MadeImage
from server.domain.usage import Usage
from server.providers.decoding import UNREADABLE
from server.providers.openai_errors import cut_failure, failure_in_band, looks_like_error, protocol_failure
from server.providers.openai_usage import read_usage
from server.providers.pictures import LinkedImage, made_image, media_type_of

__all__ = ["ImagesDecoder", "read_image_usage"]

_DONE: Final = b"[DONE]"
_FILTERED: Final = UpstreamError("content_filter", "The provider's content filter let no picture through.")

_decode_any: Final = msgspec.json.Decoder().decode


class _Item(msgspec.Struct, gc=False):
    """One picture, where there is one. `respect_moderation` is xAI's, `content_filter_results` Azure's."""

    b64_json: Any = None
    url: Any = None
    mime_type: Any = None
    revised_prompt: Any = None
    respect_moderation: Any = None
    content_filter_results: Any = None


class _Reply(_Item):
    """A whole answer, or an event: which holds a picture itself, or, from some, a whole answer."""

    data: Any = None
    type: Any = None
    partial_image_index: Any = None
    index: Any = None
    id: Any = None
    model: Any = None
    size: Any = None
    quality: Any = None
    background: Any = None
    output_format: Any = None
    usage: Any = None
    svg_usage: Any = None
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Reply).decode


class ImagesDecoder:
    """Decodes one answer of `count` pictures at the most. See `decoding.StreamDecoder`.

    It leaves `Produced` and `Completed` to its caller, since some of `pictures` may have to be fetched first; where
    there is none of them, `nothing` says why.
    """

    def __init__(self, provider: Provider, count: int) -> None:
        self._provider = provider
        self._count = count
        self._has_ended = False
        self._started = False
        self._has_answered = False
        self._is_filtered = False
        self._partials = 0
        self._usage: Usage | None = None
        self.pictures: list[MadeImage | LinkedImage] = []
        self.chosen: dict[str, str] = {}
        """What the provider says of them all, by the names of `Images`."""

    @property
    def done(self) -> bool:
        return self._has_ended or self.complete

    @property
    def complete(self) -> bool:
        return len(self.pictures) >= self._count

    def feed(self, event: str | None, data: bytes, out: list[ProviderEvent]) -> None:
        if self.done or not data or data.isspace():
            return
        if data.strip() == _DONE:
            self._has_ended = True
            return
        told = self._read(data)
        kind = told.type if isinstance(told.type, str) else event or ""
        if told.error or kind == "error" or kind.endswith(".failed"):
            raise failure_in_band(_decode_any(data), self._provider)
        self._start(told, out)
        if kind.endswith("partial_image"):
            self._partial(told, out)
        elif kind.endswith("completed"):
            self._note(told)
            self._add(told, told.output_format)
            self._partials = 0
            self._count_usage(told, out)
        elif isinstance(told.data, list):
            self._take(told, out)

    def whole(self, body: bytes, out: list[ProviderEvent]) -> None:
        told = self._read(body)
        if told.error or not isinstance(told.data, list):
            raise self._no_list(body)
        self._start(told, out)
        self._take(told, out)

    def finish(self, out: list[ProviderEvent]) -> None:
        if not self._has_answered:
            raise cut_failure()
        self._has_ended = True

    def nothing(self) -> ProviderFailure:
        if self._is_filtered:
            return ProviderFailure(FailureCategory.CONTENT_POLICY, upstream=_FILTERED)
        return protocol_failure("The provider answered without a picture.")

    def _read(self, data: bytes) -> _Reply:
        try:
            return _decode(data)
        except UNREADABLE:
            raise self._no_list(data) from None

    def _no_list(self, data: bytes) -> ProviderFailure:
        """What is no list of pictures may still be an error."""
        try:
            told = _decode_any(data)
        except UNREADABLE:
            return protocol_failure("The provider sent something that is not JSON.")
        if isinstance(told, dict) and (told.get("error") or looks_like_error(told)):
            return failure_in_band(told, self._provider)
        return protocol_failure("The provider sent something that is no list of pictures.")

    def _start(self, told: _Reply, out: list[ProviderEvent]) -> None:
        if not self._started:
            self._started = True
            out.append(Started(native_response_id=_word(told.id), provider_model=_word(told.model)))

    def _partial(self, told: _Reply, out: list[ProviderEvent]) -> None:
        picture = made_image(told.b64_json, media_type_of(told.output_format))
        index, number = told.index, told.partial_image_index
        out.append(
            ImagePartial(
                index if type(index) is int and 0 <= index < self._count else len(self.pictures),
                number if type(number) is int and number >= 0 else self._partials,
                picture.data,
                picture.media_type,
            )
        )
        self._partials += 1

    def _take(self, told: _Reply, out: list[ProviderEvent]) -> None:
        """A whole answer; more pictures than were asked for are none of it."""
        self._note(told)
        for value in told.data:
            if self.complete:
                break
            if not isinstance(value, dict):
                raise protocol_failure("The provider sent a picture that is none.")
            self._add(msgspec.convert(value, _Item), told.output_format)
        self._count_usage(told, out)

    def _add(self, item: _Item, output_format: Any) -> None:
        """One more picture, unless a filter has taken it out."""
        self._has_answered = True
        declared, prompt = _word(item.mime_type) or media_type_of(output_format), _word(item.revised_prompt)
        if item.b64_json:
            self.pictures.append(made_image(item.b64_json, declared, prompt))
        elif isinstance(item.url, str) and item.url.startswith("data:"):
            self.pictures.append(made_image(item.url, declared, prompt))
        elif url := _word(item.url):
            self.pictures.append(LinkedImage(url, declared, prompt))
        elif item.respect_moderation is False or _has_filtered(item.content_filter_results):
            self._is_filtered = True

    def _note(self, told: _Reply) -> None:
        for name in ("size", "quality", "background", "output_format"):
            if value := _word(getattr(told, name)):
                self.chosen[name] = value

    def _count_usage(self, told: _Reply, out: list[ProviderEvent]) -> None:
        """What a stream tells with each picture is of that picture."""
        usage = read_image_usage(told.usage, told.svg_usage)
        if usage is not None:
            self._usage = usage if self._usage is None else added(self._usage, usage)
            out.append(UsageReported(self._usage))


def read_image_usage(told: Any, authoring: Any = None) -> Usage | None:
    """The usage object of the image API, None where it counts nothing: its output is pictures, but for what it says to
    be text. `authoring`: tokens of the model that wrote an SVG, which are text.
    """
    usage = read_usage(told)
    if usage is not None:
        inputs, outputs = _details(told, "input_tokens_details"), _details(told, "output_tokens_details")
        made = _count(outputs.get("image_tokens"))
        if made is None:
            made = usage.output_tokens - (_count(outputs.get("text_tokens")) or 0)
        usage = replace(
            usage,
            input_image_tokens=min(_count(inputs.get("image_tokens")) or 0, usage.input_tokens),
            output_image_tokens=max(0, min(made, usage.output_tokens)),
        )
    written = read_usage(authoring)
    return usage if written is None else written if usage is None else added(usage, written)


def added(one: Usage, other: Usage) -> Usage:
    return Usage(
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        cached_input_tokens=one.cached_input_tokens + other.cached_input_tokens,
        reasoning_tokens=one.reasoning_tokens + other.reasoning_tokens,
        input_image_tokens=one.input_image_tokens + other.input_image_tokens,
        output_image_tokens=one.output_image_tokens + other.output_image_tokens,
    )


def _has_filtered(results: Any) -> bool:
    if not isinstance(results, dict):
        return False
    return any(isinstance(result, dict) and result.get("filtered") is True for result in results.values())


def _details(told: Any, name: str) -> dict[str, Any]:
    value = told.get(name) if isinstance(told, dict) else None
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**53 else None


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
