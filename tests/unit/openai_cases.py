"""What the tests of the openai dialect share: offers, requests, and folding events into what a client would see."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.domain.catalog import Offer, Provider, ProviderProfile
from server.domain.events import (
    AnnotationAdded,
    ChoiceEnded,
    Completed,
    FinishReason,
    OpaqueItem,
    PartEnded,
    PartKind,
    PartStarted,
    ProviderEvent,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from server.domain.request import Endpoint, GenerationRequest, Part, Role, Text, Turn
from server.domain.seals import own_seals
from server.domain.usage import Usage
from server.providers.decoding import StreamDecoder
from server.providers.openai_chat_decode import ChatDecoder
from server.providers.openai_responses_decode import ResponsesDecoder
from tests.fakes.replies import compact

KEY = "sk-acme-canary0123456789"
CHAT = ProviderProfile()
RESPONSES = ProviderProfile(apis=frozenset({"responses"}))
BOTH = ProviderProfile(apis=frozenset({"chat", "responses"}))


class CountingIds:
    def __init__(self) -> None:
        self.count = 0

    def new(self) -> str:
        self.count += 1
        return f"{self.count:032x}"


class FixedClock:
    """Noon, 1 October 2026."""

    def now(self) -> float:
        return 1_790_856_000.0

    def monotonic(self) -> float:
        return 1.0


def provider(profile: ProviderProfile = CHAT, **fields: Any) -> Provider:
    given = {"api_key": KEY, "base_url": "http://127.0.0.1:9/v1", **fields}
    return Provider(id="acme", dialect="openai", profile=profile, **given)


def offer(profile: ProviderProfile = CHAT, **fields: Any) -> Offer:
    endpoints = frozenset({Endpoint.CHAT, Endpoint.RESPONSES})
    return Offer(provider=provider(profile, **fields), provider_model="test-1", endpoints=endpoints)


def turn(role: Role, *parts: Part | str, name: str | None = None) -> Turn:
    return Turn(role, tuple(Text(part) if isinstance(part, str) else part for part in parts), name)


def ask(*turns: Turn, endpoint: Endpoint = Endpoint.CHAT, **fields: Any) -> GenerationRequest:
    asked = turns or (turn(Role.USER, "Hi"),)
    return GenerationRequest(endpoint=endpoint, model="acme/test-1", turns=asked, **fields)


@dataclass
class Tool:
    call_id: str
    name: str
    arguments: str = ""
    custom: bool = False


@dataclass
class Choice:
    text: str = ""
    refusal: str = ""
    reasoning: str = ""
    summaries: list[str] = field(default_factory=list)
    signature: str = ""
    tools: list[Tool] = field(default_factory=list)
    annotations: list[Any] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    reason: FinishReason | None = None
    native_reason: str = ""


@dataclass
class Answer:
    """Everything that a stream of events adds up to."""

    started: list[Started] = field(default_factory=list)
    choices: dict[int, Choice] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list)
    usage: Usage | None = None
    service_tier: str | None = None
    completed: bool = False

    @property
    def only(self) -> Choice:
        assert list(self.choices) == [0]
        return self.choices[0]


def fold(events: Iterable[ProviderEvent]) -> Answer:
    """Add events up, and insist on their grammar meanwhile."""
    answer = Answer()
    open_parts: dict[tuple[int, int], PartStarted] = {}
    seen: set[tuple[int, int]] = set()
    tools: dict[tuple[int, int], Tool] = {}
    for event in events:
        assert not answer.completed, "nothing may follow Completed"
        match event:
            case Started():
                assert not answer.started
                assert not answer.choices
                answer.started.append(event)
            case UsageReported():
                answer.usage, answer.service_tier = event.usage, event.service_tier
            case OpaqueItem():
                answer.items.append(json.loads(bytes(event.item)))
            case Completed():
                assert not open_parts
                assert all(choice.reason for choice in answer.choices.values())
                answer.completed = True
            case ChoiceEnded():
                assert not [part for part in open_parts if part[0] == event.choice]
                choice = answer.choices.setdefault(event.choice, Choice())
                assert choice.reason is None, "a choice ends once"
                choice.reason, choice.native_reason = event.reason, event.native_reason
            case PartStarted():
                key = (event.choice, event.part)
                choice = answer.choices.setdefault(event.choice, Choice())
                assert key not in seen
                assert choice.reason is None
                assert event.part == len([part for part in seen if part[0] == event.choice])
                seen.add(key)
                open_parts[key] = event
                if event.kind in (PartKind.TOOL_CALL, PartKind.CUSTOM_TOOL_CALL):
                    assert event.call_id
                    assert event.name
                    tools[key] = Tool(event.call_id, event.name, "", event.kind is PartKind.CUSTOM_TOOL_CALL)
                    choice.tools.append(tools[key])
                if event.kind is PartKind.REASONING_SUMMARY:
                    choice.summaries.append("")
            case PartEnded():
                del open_parts[event.choice, event.part]
            case TextDelta() | ReasoningDelta() | ToolCallDelta() | AnnotationAdded():
                _add(event, open_parts, tools, answer)
    return answer


def _bare(value: str) -> str:
    """The seal as the upstream gave it."""
    return "".join(own_seals("chat", "acme", value) + own_seals("responses", "acme", value)) or value


def _add(
    event: TextDelta | ReasoningDelta | ToolCallDelta | AnnotationAdded,
    open_parts: dict[tuple[int, int], PartStarted],
    tools: dict[tuple[int, int], Tool],
    answer: Answer,
) -> None:
    key = (event.choice, event.part)
    kind, choice = open_parts[key].kind, answer.choices[event.choice]
    match event:
        case TextDelta() if kind is PartKind.REFUSAL:
            choice.refusal += event.text
        case TextDelta():
            assert kind is PartKind.TEXT
            choice.text += event.text
            choice.logprobs += json.loads(bytes(event.logprobs)) if event.logprobs is not None else []
        case ReasoningDelta():
            choice.signature += _bare(event.signature)
            if kind is PartKind.REASONING_SUMMARY:
                choice.summaries[-1] += event.text
            else:
                assert kind is PartKind.REASONING
                choice.reasoning += event.text
        case ToolCallDelta():
            tools[key].arguments += event.arguments
        case AnnotationAdded():
            assert kind is PartKind.TEXT
            choice.annotations.append(json.loads(bytes(event.annotation)))


def feed(decoder: StreamDecoder, events: Iterable[Any], *, done: bool = True) -> list[ProviderEvent]:
    """Stream values (dicts are encoded, bytes go as they are), then the terminator if `done`, then the end."""
    out: list[ProviderEvent] = []
    for value in events:
        name, data = value if isinstance(value, tuple) else (None, value)
        decoder.feed(name, data if isinstance(data, bytes) else compact(data), out)
    if done:
        decoder.feed(None, b"[DONE]", out)
    decoder.finish(out)
    return out


def chat_stream(chunks: Sequence[Any], *, profile: ProviderProfile = CHAT, done: bool = True) -> Answer:
    return fold(feed(ChatDecoder(provider(profile), CountingIds()), chunks, done=done))


def chat_whole(body: Any, *, profile: ProviderProfile = CHAT) -> Answer:
    out: list[ProviderEvent] = []
    ChatDecoder(provider(profile), CountingIds()).whole(body if isinstance(body, bytes) else compact(body), out)
    return fold(out)


def responses_stream(events: Sequence[Any]) -> Answer:
    return fold(feed(ResponsesDecoder(provider(RESPONSES), CountingIds()), events, done=False))


def responses_whole(body: Any) -> Answer:
    out: list[ProviderEvent] = []
    decoder = ResponsesDecoder(provider(RESPONSES), CountingIds())
    decoder.whole(body if isinstance(body, bytes) else compact(body), out)
    return fold(out)
