"""One candidate under way: its parts as they come, each signature sealed with the place that it belongs to."""

from __future__ import annotations

from typing import Any

import msgspec

from server.domain.events import (
    AnnotationAdded,
    PartKind,
    ProviderEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from server.domain.ports import IdSource
from server.providers.decoding import Parts
from server.providers.gemini_errors import protocol_failure
from server.providers.gemini_extras import sources, token_objects
from server.providers.gemini_partial_args import PartialArgs
from server.providers.gemini_seals import Place, Seal, outward_id
from server.providers.gemini_wire import WireCandidate, WireFunctionCall, WirePart, words

_EMPTY_ARGS = (b"", b"null")


class GeminiChoice:
    """Text and thoughts are parts that stay open until something else begins; a call comes whole."""

    __slots__ = (
        "_calls",
        "_citations",
        "_grounding",
        "_ids",
        "_open",
        "_partial",
        "_partial_call",
        "_pieces",
        "_said",
        "_thought",
        "_used_ids",
        "has_spoken",
        "native_reason",
        "parts",
    )

    def __init__(self, index: int, ids: IdSource) -> None:
        self.parts = Parts(index)
        self.native_reason = ""
        self.has_spoken = False
        self._used_ids: set[str] = set()
        self._ids = ids
        self._open: tuple[PartKind, int] | None = None
        self._said = 0  # characters of text, and of thoughts below
        self._thought = 0
        self._calls = 0
        self._pieces: list[str] = []
        self._citations: Any = None
        self._grounding: Any = None
        self._partial: PartialArgs | None = None
        self._partial_call: tuple[str, str, str] = ("", "", "")

    @property
    def has_calls(self) -> bool:
        return self._calls > 0

    def take(self, candidate: WireCandidate, out: list[ProviderEvent]) -> None:
        tokens = None if candidate.logprobs_result is None else token_objects(candidate.logprobs_result)
        if candidate.content is not None:
            for part in candidate.content.parts or ():
                if tokens is not None and not part.thought and words(part.text):
                    self._part(part, tokens, out)
                    tokens = None
                else:
                    self._part(part, None, out)
        if tokens is not None:
            self._say("", tokens, out)
        self._citations = candidate.citation_metadata or self._citations
        self._grounding = candidate.grounding_metadata or self._grounding
        if candidate.finish_reason and not self.native_reason:
            self.native_reason = words(candidate.finish_reason) or "OTHER"

    def end(self, out: list[ProviderEvent]) -> None:
        """Nothing more will come of it."""
        self._end_partial(out)
        if self._citations or self._grounding:
            for annotation in sources(self._citations, self._grounding, "".join(self._pieces)):
                part = self._into(PartKind.TEXT, out)
                out.append(AnnotationAdded(self.parts.choice, part, annotation))
        self.parts.end_all(out)

    def _part(self, part: WirePart, tokens: msgspec.Raw | None, out: list[ProviderEvent]) -> None:
        self.has_spoken = True
        signature = words(part.thought_signature)
        text = words(part.text)
        if part.function_call is not None:
            self._call(part.function_call, signature, out)
        elif part.inline_data or part.file_data:
            raise protocol_failure("The provider answered with media, which this surface cannot carry.")
        elif part.executable_code or part.code_execution_result:
            self._say(_shown(part.executable_code, part.code_execution_result), None, out)
        elif part.thought:
            start, self._thought = self._thought, self._thought + len(text)
            if text:
                number = self._into(PartKind.REASONING_SUMMARY, out)
                out.append(ReasoningDelta(self.parts.choice, number, text))
            self._seal("r", start, self._thought, signature, out)
        else:
            start = self._said
            self._say(text, tokens, out)
            self._seal("t", start, self._said, signature, out)

    def _say(self, text: str, tokens: msgspec.Raw | None, out: list[ProviderEvent]) -> None:
        if not text and tokens is None:
            return
        number = self._into(PartKind.TEXT, out)
        self._said += len(text)
        self._pieces.append(text)
        out.append(TextDelta(self.parts.choice, number, text, tokens))

    def _seal(self, place: Place, start: int, end: int, signature: str, out: list[ProviderEvent]) -> None:
        """A signature goes out as reasoning, which is what clients send back; text that is open stays so."""
        if not signature:
            return
        seal = str(Seal(place, start, end, signature))
        if self._open is not None and self._open[0] is PartKind.REASONING_SUMMARY:
            number = self._open[1]
            out.append(ReasoningDelta(self.parts.choice, number, "", seal))
            return
        number = self._start(PartKind.REASONING_SUMMARY, out)
        out.append(ReasoningDelta(self.parts.choice, number, "", seal))
        self.parts.end(number, out)

    def _call(self, call: WireFunctionCall, signature: str, out: list[ProviderEvent]) -> None:
        name = words(call.name)
        if self._partial is not None and not name:
            self._add_partial(call, out)
            return
        self._end_partial(out)
        if not name:
            raise protocol_failure("The provider called a function without a name.")
        if call.will_continue or call.partial_args:
            self._partial = PartialArgs()
            self._partial_call = (words(call.id), name, signature)
            self._add_partial(call, out)
        else:
            raw = bytes(call.args).strip()
            self._whole_call(words(call.id), name, "{}" if raw in _EMPTY_ARGS else raw.decode(), signature, out)

    def _add_partial(self, call: WireFunctionCall, out: list[ProviderEvent]) -> None:
        assert self._partial is not None
        try:
            self._partial.add(call.partial_args)
        except ValueError:
            raise protocol_failure("The provider sent arguments that belong nowhere.") from None
        if not call.will_continue and not call.partial_args:
            self._end_partial(out)

    def _end_partial(self, out: list[ProviderEvent]) -> None:
        if self._partial is not None:
            native, name, signature = self._partial_call
            arguments = self._partial.json()
            self._partial = None
            self._whole_call(native, name, arguments, signature, out)

    def _whole_call(self, native: str, name: str, arguments: str, signature: str, out: list[ProviderEvent]) -> None:
        self._seal("c", self._calls, self._calls, signature, out)
        self._calls += 1
        self._close(out)
        if native in self._used_ids:
            native = ""
        self._used_ids.add(native)
        call_id = outward_id(native, "" if native else self._ids.new())
        number = self._start(PartKind.TOOL_CALL, out, call_id=call_id, name=name)
        out.append(ToolCallDelta(self.parts.choice, number, arguments))
        self.parts.end(number, out)

    def _into(self, kind: PartKind, out: list[ProviderEvent]) -> int:
        """The open part of that kind, which is begun where another one is open."""
        if self._open is not None and self._open[0] is kind:
            return self._open[1]
        self._close(out)
        number = self._start(kind, out)
        self._open = (kind, number)
        return number

    def _close(self, out: list[ProviderEvent]) -> None:
        if self._open is not None:
            self.parts.end(self._open[1], out)
            self._open = None

    def _start(self, kind: PartKind, out: list[ProviderEvent], *, call_id: str = "", name: str = "") -> int:
        if self.parts.full:
            raise protocol_failure("The provider sent too many parts.")
        return self.parts.start(kind, out, call_id=call_id, name=name)


def _shown(code: Any, result: Any) -> str:
    """Code that Google ran, and what came of it, as a client would see them in text."""
    if isinstance(code, dict):
        return f"\n```{words(code.get('language')).lower()}\n{words(code.get('code'))}\n```\n"
    output = words(result.get("output")) if isinstance(result, dict) else ""
    return f"\n```\n{output}\n```\n" if output else ""
