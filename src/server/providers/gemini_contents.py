"""A conversation as Gemini's `contents`: roles `user` and `model`, every signature on the part that had it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from server.domain.request import (
    Audio,
    File,
    Image,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
    Turn,
)
from server.providers.gemini_media import audio_part, blob, file_part, image_part
from server.providers.gemini_models import takes_levels
from server.providers.gemini_seals import Seal, native_id, seals

NO_SIGNATURE: Final = "skip_thought_signature_validator"
"""Google's own word for a call in the history that another model made, or whose signature the client has lost."""

_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])

_SYSTEM: Final = (Role.SYSTEM, Role.DEVELOPER)


def instruction(turns: Iterable[Turn]) -> list[dict[str, Any]]:
    """The parts of `systemInstruction`: all that system and developer turns say."""
    texts = (part.text for turn in turns if turn.role in _SYSTEM for part in turn.parts if isinstance(part, Text))
    return [{"text": text} for text in texts]


def contents(turns: Sequence[Turn], model: str) -> list[dict[str, Any]]:
    """All other turns. A model's turns that follow each other are one, and so are the results of its calls."""
    found: list[dict[str, Any]] = []
    calls: dict[str, ToolCall] = {}
    order: dict[str, int] = {}
    for role, group in _grouped(turn for turn in turns if turn.role not in _SYSTEM):
        if role is Role.ASSISTANT:
            parts = _ModelTurn(group, model).parts()
            for part in group:
                if isinstance(part, ToolCall):
                    calls[part.call_id] = part
                    order.setdefault(part.call_id, len(order))
        elif role is Role.TOOL:
            parts = _results([part for part in group if isinstance(part, ToolResult)], calls, order)
        else:
            parts = [_user_part(part) for part in group]
        if parts:
            found.append({"role": "model" if role is Role.ASSISTANT else "user", "parts": parts})
    return found


def _grouped(turns: Iterable[Turn]) -> Iterator[tuple[Role, list[Part]]]:
    """The turns' parts by role; those of users stay apart, as they were said."""
    role, group = Role.USER, list[Part]()
    for turn in turns:
        if group and (turn.role is not role or role is Role.USER):
            yield role, group
            group = []
        role = turn.role
        group.extend(turn.parts)
    if group:
        yield role, group


def _user_part(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return {"text": part.text}
        case Image():
            return image_part(part)
        case Audio():
            return audio_part(part)
        case File():
            return file_part(part)
        case _:
            raise ValueError(f"a user's turn cannot hold {type(part).__name__}")


def _results(
    results: list[ToolResult], calls: Mapping[str, ToolCall], order: Mapping[str, int]
) -> list[dict[str, Any]]:
    """What functions returned, in the order of the calls: without ids Gemini pairs them by it."""
    results.sort(key=lambda result: order.get(result.call_id, len(order)))
    return [_result(result, calls[result.call_id].name) for result in results]


def _result(result: ToolResult, name: str) -> dict[str, Any]:
    texts = [part.text for part in result.content if isinstance(part, Text)]
    media = [{"inlineData": blob(part)} for part in result.content if not isinstance(part, Text)]
    response: dict[str, Any] = {"name": name, "response": _response("".join(texts), failed=result.is_error)}
    if media:
        response["parts"] = media
    if (native := native_id(result.call_id)) is not None:
        response["id"] = native
    return {"functionResponse": response}


def _response(text: str, *, failed: bool) -> Any:
    """An object as it is, and any other text under the name that Gemini reads it from."""
    if failed:
        return {"error": text}
    return msgspec.Raw(text.encode()) if is_object(text) else {"output": text}


def is_object(text: str) -> bool:
    """Whether `text` is a JSON object, which arguments and what functions return must be."""
    try:
        _object.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


class _ModelTurn:
    """One turn of the model. Text and thoughts are cut where the seals say that the parts of old were."""

    def __init__(self, parts: Sequence[Part], model: str) -> None:
        self._source = parts
        self._wants_signature = takes_levels(model)
        opaque = (text for part in parts if isinstance(part, Reasoning) for text in (part.signature, part.encrypted))
        found = list(seals(text for text in opaque if text))
        self._signed_calls = {seal.start: seal.signature for seal in found if seal.place == "c"}
        self._seals: dict[str, deque[Seal]] = {"t": deque(), "c": deque(), "r": deque()}
        for seal in sorted(found, key=_interval):
            if seal.start <= seal.end:
                self._seals[seal.place].append(seal)
        self._alone = [seal for seal in found if seal.place != "c" and seal.start == seal.end == 0]
        self._said = 0  # characters
        self._thought = 0
        self._calls = 0
        self._out: list[dict[str, Any]] = []

    def parts(self) -> list[dict[str, Any]]:
        for part in self._source:
            match part:
                case Text() | Refusal():
                    self._said = self._cut("t", part.text, self._said, _text)
                case Reasoning():
                    text = part.text or "".join(part.summary)
                    self._thought = self._cut("r", text, self._thought, _thought)
                case ToolCall():
                    self._call(part)
                case _:
                    raise ValueError(f"a model's turn cannot hold {type(part).__name__}")
        unsaid = {"t": not self._said, "r": not self._thought}
        alone = [  # parts of a signature alone, about which nothing else was said
            _signed((_text if seal.place == "t" else _thought)(""), seal.signature)
            for seal in reversed(self._alone)
            if unsaid[seal.place]
        ]
        return alone + self._out

    def _cut(self, place: str, text: str, start: int, made: Callable[[str], dict[str, Any]]) -> int:
        """Add `text`, which begins `start` characters into all of its kind; the end of it."""
        at, end, left = start, start + len(text), self._seals[place]
        while text and left and (left[0].start < end or left[0].start == left[0].end == end):
            seal = left.popleft()
            if not at <= seal.start <= seal.end <= end:
                continue  # nor will it be of any text that is yet to come
            if seal.start > at:
                self._out.append(made(text[at - start : seal.start - start]))
            self._out.append(_signed(made(text[seal.start - start : seal.end - start]), seal.signature))
            at = seal.end
        if at < end:
            self._out.append(made(text[at - start :]))
        return end

    def _call(self, call: ToolCall) -> None:
        function: dict[str, Any] = {"name": call.name, "args": msgspec.Raw(call.arguments.strip().encode() or b"{}")}
        if (native := native_id(call.call_id)) is not None:
            function["id"] = native
        part = {"functionCall": function}
        signature = self._signed_calls.get(self._calls)
        if signature is None and self._wants_signature and self._calls == 0:
            signature = NO_SIGNATURE
        self._out.append(part if signature is None else _signed(part, signature))
        self._calls += 1


def _interval(seal: Seal) -> tuple[int, int]:
    return seal.start, seal.end


def _text(text: str) -> dict[str, Any]:
    return {"text": text}


def _thought(text: str) -> dict[str, Any]:
    return {"text": text, "thought": True}


def _signed(part: dict[str, Any], signature: str) -> dict[str, Any]:
    return {**part, "thoughtSignature": signature}
