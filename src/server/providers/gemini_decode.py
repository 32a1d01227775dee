"""Answers of `generateContent`, streamed or whole, as events.

Every chunk of a stream is a whole reply of its own; what it brings is added to what came before.
"""

from __future__ import annotations

from typing import Any, Final

from server.domain.catalog import Provider
from server.domain.errors import FailureCategory, ProviderFailure, UpstreamError
from server.domain.events import ChoiceEnded, Completed, FinishReason, ProviderEvent, Started, UsageReported
from server.domain.ports import IdSource
from server.domain.usage import Usage
from server.providers.decoding import MAX_CHOICES, UNREADABLE
from server.providers.gemini_choice import GeminiChoice
from server.providers.gemini_errors import (
    blocked_failure,
    cut_failure,
    failure_in_band,
    protocol_failure,
    read_status,
)
from server.providers.gemini_usage import UsageCount
from server.providers.gemini_wire import WireCandidate, WireReply, decode_any, decode_replies, decode_reply, words
from server.providers.scrub import scrubbed

FINISH_REASONS: Final = {
    "STOP": FinishReason.STOP,
    "MAX_TOKENS": FinishReason.LENGTH,
    "SAFETY": FinishReason.CONTENT_FILTER,
    "RECITATION": FinishReason.CONTENT_FILTER,
    "BLOCKLIST": FinishReason.CONTENT_FILTER,
    "PROHIBITED_CONTENT": FinishReason.CONTENT_FILTER,
    "SPII": FinishReason.CONTENT_FILTER,
    "IMAGE_SAFETY": FinishReason.CONTENT_FILTER,
    "IMAGE_PROHIBITED_CONTENT": FinishReason.CONTENT_FILTER,
    "IMAGE_RECITATION": FinishReason.CONTENT_FILTER,
    "MODEL_ARMOR": FinishReason.CONTENT_FILTER,
    "JAILBREAK": FinishReason.CONTENT_FILTER,
}
"""Google's word to ours; any other is `FinishReason.OTHER`."""

FAILED_REASONS: Final = {
    "MALFORMED_FUNCTION_CALL": FailureCategory.SERVER_ERROR,
    "UNEXPECTED_TOOL_CALL": FailureCategory.SERVER_ERROR,
    "TOO_MANY_TOOL_CALLS": FailureCategory.SERVER_ERROR,
    "MALFORMED_RESPONSE": FailureCategory.SERVER_ERROR,
    "MISSING_THOUGHT_SIGNATURE": FailureCategory.PROTOCOL,
}
"""Finish reasons that are failures: the model wrote something that is no answer, and asking again may mend it."""


class GeminiDecoder:
    """Decodes one answer. See `decoding.StreamDecoder`; there is no terminator, so that `done` is never true before
    the end of the stream.
    """

    def __init__(self, provider: Provider, ids: IdSource) -> None:
        self.done = False
        self._provider = provider
        self._ids = ids
        self._started = False
        self._choices: dict[int, GeminiChoice] = {}
        self._count = UsageCount()
        self._usage: Usage | None = None
        self._blocked = ""

    @property
    def complete(self) -> bool:
        choices = self._choices.values()
        return self.done or (bool(choices) and all(choice.native_reason or self._blocked for choice in choices))

    def feed(self, event: str | None, data: bytes, out: list[ProviderEvent]) -> None:
        if not data or data.isspace() or self.done:
            return
        try:
            if event == "error":
                raise failure_in_band(decode_any(data), self._provider)
            self._take(decode_reply(data), data, out)
        except UNREADABLE:
            raise self._unreadable(data) from None

    def whole(self, body: bytes, out: list[ProviderEvent]) -> None:
        """A reply, or an array of them: a stream without `alt=sse`."""
        try:
            replies = decode_replies(body) if body.lstrip().startswith(b"[") else [decode_reply(body)]
            for reply in replies:
                self._take(reply, body, out)
        except UNREADABLE:
            raise self._unreadable(body) from None
        if not self.complete:
            raise protocol_failure("The provider's answer does not say how it ended.")
        self.finish(out)

    def finish(self, out: list[ProviderEvent]) -> None:
        if not self.complete:
            raise cut_failure()
        self.done = True
        if not any(choice.has_spoken or choice.native_reason != "STOP" for choice in self._choices.values()):
            raise protocol_failure("The provider ended its answer without saying anything.")
        for index in sorted(self._choices):
            choice = self._choices[index]
            choice.end(out)
            native = choice.native_reason or self._blocked
            reason = FINISH_REASONS.get(native, FinishReason.OTHER)
            if not choice.native_reason:
                reason = FinishReason.CONTENT_FILTER
            elif reason is FinishReason.STOP and choice.has_calls:
                reason = FinishReason.TOOL_CALLS
            out.append(ChoiceEnded(index, reason, native))
        out.append(Completed())

    def _unreadable(self, data: bytes) -> ProviderFailure:
        """What is not a reply may still be an error of a strange shape."""
        try:
            value = decode_any(data)
        except UNREADABLE:
            return protocol_failure("The provider sent something that is not JSON.")
        if read_status(value) is not None:
            return failure_in_band(value, self._provider)
        return protocol_failure("The provider sent something that is not a generateContent reply.")

    def _take(self, reply: WireReply, data: bytes, out: list[ProviderEvent]) -> None:
        if reply.error:
            value = decode_any(data)
            found = next((one for one in value if read_status(one)), value) if isinstance(value, list) else value
            raise failure_in_band(found, self._provider)
        self._feedback(reply)
        if not self._started and (reply.response_id or reply.model_version or reply.candidates or reply.usage_metadata):
            self._started = True
            out.append(Started(words(reply.response_id) or None, words(reply.model_version) or None))
        if reply.usage_metadata is not None:
            self._report(reply.usage_metadata, out)
        for position, candidate in enumerate(reply.candidates or ()):
            self._choice(candidate, position).take(candidate, out)
            self._check(candidate)

    def _report(self, metadata: Any, out: list[ProviderEvent]) -> None:
        usage = self._count.add(metadata)
        if usage is not None and usage != self._usage:
            self._usage = usage
            out.append(UsageReported(usage))

    def _choice(self, candidate: WireCandidate, position: int) -> GeminiChoice:
        index = candidate.index if type(candidate.index) is int and candidate.index >= 0 else position
        choice = self._choices.get(index)
        if choice is None:
            if index >= MAX_CHOICES:
                raise protocol_failure("The provider sent too many candidates.")
            choice = self._choices[index] = GeminiChoice(index, self._ids)
        return choice

    def _check(self, candidate: WireCandidate) -> None:
        reason = words(candidate.finish_reason)
        if (category := FAILED_REASONS.get(reason)) is not None:
            message = words(candidate.finish_message) or None
            raise ProviderFailure(category, upstream=scrubbed(UpstreamError(reason, message), self._provider))

    def _feedback(self, reply: WireReply) -> None:
        """A prompt that is blocked has cost nothing; what is blocked in mid-answer ends there."""
        feedback = reply.prompt_feedback
        if not isinstance(feedback, dict) or not feedback.get("blockReason"):
            return
        if not self._choices and not reply.candidates:
            raise blocked_failure(feedback, self._provider)
        self._blocked = words(feedback.get("blockReason")) or "blocked"
