"""Chat completions, streamed or whole, as events.

A whole body is decoded as a stream of one chunk, so that both give the same content and the same usage.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from server.domain.catalog import Provider
from server.domain.errors import FailureCategory, ProviderFailure, UpstreamError
from server.domain.events import (
    AnnotationAdded,
    ChoiceEnded,
    Completed,
    FinishReason,
    PartKind,
    ProviderEvent,
    ReasoningDelta,
    Started,
    TextDelta,
    UsageReported,
)
from server.domain.ports import IdSource
from server.domain.seals import made_by
from server.domain.usage import Usage
from server.providers.decoding import MAX_CHOICES, UNREADABLE, Parts
from server.providers.openai_annotations import citation, flat_annotation
from server.providers.openai_chat_wire import (
    NOTHING,
    NULL,
    WireChoice,
    WireChunk,
    WireDelta,
    decode_any,
    decode_chunk,
    logprob_tokens,
    words,
)
from server.providers.openai_errors import cut_failure, failure_in_band, looks_like_error, protocol_failure
from server.providers.openai_tool_calls import ToolCalls
from server.providers.openai_usage import read_usage

FINISH_REASONS: Final = {
    "stop": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "eos_token": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "end_turn": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "tool_use": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
    "safety": FinishReason.CONTENT_FILTER,
}
"""A provider's word, in lower case, to ours; any other is `FinishReason.OTHER`."""

FAILED_REASONS: Final = {
    "error": FailureCategory.SERVER_ERROR,
    "insufficient_system_resource": FailureCategory.OVERLOADED,
}
"""Finish reasons that are failures."""


class ChatDecoder:
    """Decodes one answer of a chat completions upstream. See `decoding.StreamDecoder`."""

    def __init__(self, provider: Provider, ids: IdSource) -> None:
        self.done = False
        self._provider = provider
        self._reasoning_beside = provider.profile.reasoning_tokens == "beside"
        self._ids = ids
        self._started = False
        self._choices: dict[int, _Choice] = {}
        self._usage: Usage | None = None
        self._service_tier: str | None = None
        self._citations: tuple[Any, Any] = (None, None)

    @property
    def complete(self) -> bool:
        choices = self._choices.values()
        return self.done or (bool(choices) and all(choice.native_reason for choice in choices))

    def feed(self, event: str | None, data: bytes, out: list[ProviderEvent]) -> None:
        if self.done or not data:
            return
        if data.startswith(b"[DONE]"):
            self.done = True
            return
        try:
            if event == "error":
                raise failure_in_band(decode_any(data), self._provider)
            self._take(decode_chunk(data), data, out, whole=False)
        except UNREADABLE:
            if not data.isspace():
                raise self._unreadable(data) from None

    def whole(self, body: bytes, out: list[ProviderEvent]) -> None:
        try:
            self._take(decode_chunk(body), body, out, whole=True)
        except UNREADABLE:
            raise self._unreadable(body) from None
        self.done = True
        self.finish(out)

    def finish(self, out: list[ProviderEvent]) -> None:
        choices = [self._choices[index] for index in sorted(self._choices)]
        if not self.complete:
            raise cut_failure()
        counted = self._usage is not None and self._usage.output_tokens > 0
        if all(choice.is_silent(counted=counted) for choice in choices):
            raise protocol_failure("The provider ended its answer without saying anything.")
        for choice in choices:
            choice.end(self._citations if choice is choices[0] else (None, None), out)
        out.append(Completed())

    def _unreadable(self, data: bytes) -> ProviderFailure:
        """What is not a chunk may still be an error of a strange shape."""
        try:
            value = decode_any(data)
        except UNREADABLE:
            return protocol_failure("The provider sent something that is not JSON.")
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, dict) and (first.get("error") or looks_like_error(first)):
            return failure_in_band(value, self._provider)
        return protocol_failure("The provider sent something that is not a chat completion.")

    def _take(self, chunk: WireChunk, data: bytes, out: list[ProviderEvent], *, whole: bool) -> None:
        """What a chunk counts is told after all that it says, failures included: the provider bills for it."""
        if chunk.choices is None and chunk.usage is None and looks_like_error(value := decode_any(data)):
            raise failure_in_band(value, self._provider)
        if not self._started:
            self._start(chunk, out)
        try:
            if chunk.error:
                raise failure_in_band(decode_any(data), self._provider)
            if chunk.citations or chunk.search_results:
                self._citations = (chunk.citations, chunk.search_results)
            if chunk.choices:
                for position, wire in enumerate(chunk.choices):
                    choice = self._choices.get(wire.index) if type(wire.index) is int else None
                    (choice or self._begin(wire, position)).take(wire, self._provider, out, whole=whole)
            if isinstance(chunk.x_groq, dict) and chunk.x_groq.get("error"):
                raise failure_in_band(chunk.x_groq, self._provider)
        finally:
            if chunk.x_groq is not None or chunk.usage is not None:
                self._count(chunk, out)

    def _start(self, chunk: WireChunk, out: list[ProviderEvent]) -> None:
        """Azure's first chunk says nothing of who answers; the one after it does."""
        if not chunk.id and not chunk.choices and not chunk.usage:
            return
        self._started = True
        out.append(
            Started(words(chunk.id) or None, words(chunk.model) or None, words(chunk.system_fingerprint) or None)
        )

    def _begin(self, wire: WireChoice, position: int) -> _Choice:
        """The choice that a piece without a proper number, or the first with it, belongs to."""
        index = wire.index if type(wire.index) is int and wire.index >= 0 else position
        choice = self._choices.get(index)
        if choice is None:
            if index >= MAX_CHOICES:
                raise protocol_failure("The provider sent too many choices.")
            choice = self._choices[index] = _Choice(index, self._ids, self._provider.id)
        return choice

    def _count(self, chunk: WireChunk, out: list[ProviderEvent]) -> None:
        counted = chunk.usage
        if isinstance(chunk.x_groq, dict):
            counted = counted or chunk.x_groq.get("usage")
        usage = read_usage(counted, reasoning_beside=self._reasoning_beside)
        self._service_tier = words(chunk.service_tier) or self._service_tier
        if usage is not None and usage != self._usage:
            self._usage = usage
            out.append(UsageReported(usage, self._service_tier))


class _Choice:
    """One choice under way. Its text part stays open to the end; reasoning closes when text or a tool begins."""

    __slots__ = ("_annotations", "_provider_id", "_reasoning", "_refusal", "_text", "_tools", "native_reason", "parts")

    def __init__(self, index: int, ids: IdSource, provider_id: str) -> None:
        self.parts = Parts(index)
        self._provider_id = provider_id
        self.native_reason = ""
        self._text = -1
        self._refusal = -1
        self._reasoning = -1
        self._tools = ToolCalls(self.parts, ids)
        self._annotations: dict[bytes, None] = {}

    def take(self, wire: WireChoice, provider: Provider, out: list[ProviderEvent], *, whole: bool) -> None:
        if wire.error:
            raise failure_in_band({"error": wire.error}, provider)
        delta = wire.message if whole else wire.delta
        if delta is None:
            # A whole message in the place of deltas; beside deltas it only repeats them.
            delta = wire.delta or (None if self.parts.any else wire.message)
        if delta is not None:
            self._delta(delta, wire.logprobs, out, whole=whole or delta is wire.message)
        reason = wire.finish_reason
        if reason and not self.native_reason:
            self.native_reason = words(reason) or "other"
            failed = FAILED_REASONS.get(self.native_reason.lower())
            if failed is not None:
                raise ProviderFailure(failed, upstream=UpstreamError(code=self.native_reason[:200]))

    def is_silent(self, *, counted: bool) -> bool:
        """Whether nothing was said, nor a reason given for that; a mere `stop` is one where output was `counted`."""
        if self.parts.any or self._tools.any:
            return False
        stopped = FINISH_REASONS.get(self.native_reason.lower()) is FinishReason.STOP
        return not self.native_reason or (stopped and not counted)

    def end(self, citations: tuple[Any, Any], out: list[ProviderEvent]) -> None:
        """Nothing more will come of this choice."""
        self._tools.finish(out)
        for annotation in self._citations(citations):
            self._annotate(annotation, out)
        self.parts.end_all(out)
        reason = FINISH_REASONS.get(self.native_reason.lower(), FinishReason.OTHER)
        if self.native_reason == "STOP" and self._tools.any:
            reason = FinishReason.TOOL_CALLS  # Gemini's word for the end of anything
        out.append(ChoiceEnded(self.parts.choice, reason, self.native_reason))

    def _delta(self, delta: WireDelta, logprobs: msgspec.Raw, out: list[ProviderEvent], *, whole: bool) -> None:
        if delta.reasoning_content or delta.reasoning or delta.reasoning_details:
            self._think(delta, out)
        tokens = None if logprobs is NOTHING or logprobs == NULL else logprob_tokens(logprobs)
        content = delta.content
        if type(content) is str:
            if content or (tokens is not None and not delta.refusal):
                self._say(content, tokens, out)
        elif type(content) is list:
            self._blocks(content, out)
        if delta.refusal:
            self._refuse(words(delta.refusal), None if content else tokens, out)
        if delta.tool_calls:
            self._close_reasoning(out)
            self._tools.add(delta.tool_calls, out, whole=whole)
        if delta.annotations:
            for annotation in delta.annotations if isinstance(delta.annotations, list) else ():
                if isinstance(annotation, dict):
                    self._annotations.setdefault(msgspec.json.encode(flat_annotation(annotation)))

    def _think(self, delta: WireDelta, out: list[ProviderEvent]) -> None:
        text = delta.reasoning_content
        if type(text) is not str or not text:
            text = words(delta.reasoning)
        signature = ""
        if delta.reasoning_details:
            spelled, signature = _details(delta.reasoning_details)
            text = text or spelled
        if text or signature:
            self._reason(text, signature, out)

    def _blocks(self, blocks: list[Any], out: list[ProviderEvent]) -> None:
        """Mistral's content: a list of typed blocks, some of them thoughts."""
        for block in blocks:
            if isinstance(block, str):
                self._say(block, None, out)
            elif isinstance(block, dict) and block.get("type") == "thinking":
                self._reason("".join(_texts(block.get("thinking"))), words(block.get("signature")), out)
            elif isinstance(block, dict):
                self._say("".join(_texts(block.get("text"))), None, out)

    def _say(self, text: str, logprobs: msgspec.Raw | None, out: list[ProviderEvent]) -> None:
        if not text and logprobs is None:
            return
        if self._reasoning >= 0:
            self._close_reasoning(out)
        if self._text < 0:
            self._text = self.parts.start(PartKind.TEXT, out)
        out.append(TextDelta(self.parts.choice, self._text, text, logprobs))

    def _refuse(self, text: str, logprobs: msgspec.Raw | None, out: list[ProviderEvent]) -> None:
        if text:
            self._close_reasoning(out)
            if self._refusal < 0:
                self._refusal = self.parts.start(PartKind.REFUSAL, out)
            out.append(TextDelta(self.parts.choice, self._refusal, text, logprobs))

    def _reason(self, text: str, signature: str, out: list[ProviderEvent]) -> None:
        if not text and not signature:
            return
        if self._reasoning < 0:
            if self.parts.full:
                raise protocol_failure("The provider sent too many parts.")
            self._reasoning = self.parts.start(PartKind.REASONING, out)
        seal = made_by("chat", self._provider_id, signature)
        out.append(ReasoningDelta(self.parts.choice, self._reasoning, text, seal))

    def _close_reasoning(self, out: list[ProviderEvent]) -> None:
        if self._reasoning >= 0:
            self.parts.end(self._reasoning, out)
            self._reasoning = -1

    def _citations(self, citations: tuple[Any, Any]) -> Iterator[bytes]:
        """What the choice's own annotations and the answer's list of sources say, each once."""
        urls, results = citations
        for url in urls if isinstance(urls, list) else ():
            if isinstance(url, str):
                self._annotations.setdefault(msgspec.json.encode(citation(url, results)))
        yield from self._annotations

    def _annotate(self, annotation: bytes, out: list[ProviderEvent]) -> None:
        if self._text < 0:
            self._close_reasoning(out)
            self._text = self.parts.start(PartKind.TEXT, out)
        out.append(AnnotationAdded(self.parts.choice, self._text, msgspec.Raw(annotation)))


def _texts(value: Any) -> Iterator[str]:
    """The strings in a block's text: a string, or a list of strings and text blocks."""
    if isinstance(value, str):
        yield value
    for piece in value if isinstance(value, list) else ():
        yield piece if isinstance(piece, str) else words(piece.get("text")) if isinstance(piece, dict) else ""


def _details(details: Any) -> tuple[str, str]:
    """The text, and the signature or encrypted data, in OpenRouter's `reasoning_details`."""
    text, signature = "", ""
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict):
            text += words(detail.get("text")) or words(detail.get("summary"))
            signature = words(detail.get("signature")) or words(detail.get("data")) or signature
    return text, signature
