"""Every maker's sealed reasoning before every other dialect: only its own goes back, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.catalog import Offer, Provider
from server.domain.events import ProviderEvent, ReasoningDelta
from server.domain.request import Endpoint, GenerationRequest, Reasoning, Role, Text, Turn
from server.domain.seals import SealingApi, is_claudes, made_by, own_seals
from server.providers.anthropic_decode import MessagesDecoder
from server.providers.anthropic_encode import encode_messages
from server.providers.decoding import StreamDecoder
from server.providers.gemini_decode import GeminiDecoder
from server.providers.gemini_encode import encode as encode_gemini
from server.providers.openai_chat_decode import ChatDecoder
from server.providers.openai_chat_encode import encode_chat
from server.providers.openai_responses_decode import ResponsesDecoder
from server.providers.openai_responses_encode import encode_responses
from tests.fakes import anthropic_wire, gemini_wire
from tests.fakes.chat_wire import completion
from tests.fakes.replies import compact
from tests.fakes.responses_wire import message_item, response_object
from tests.unit.openai_cases import CHAT, RESPONSES, CountingIds, ask, turn

FIRST, SECOND = "EqQBCkYIBxgCKkDnOYH9+/a==", "EuYBCkQYAiJAgCs1le4/e0==+"
OPENAI_FIRST, OPENAI_SECOND = "gAAAAABo-first_Zz8==", "gAAAAABo-second_Yy7=="

Decode = Callable[[Provider, CountingIds], StreamDecoder]


def thoughts(decode: Decode, provider: Provider, body: dict[str, Any]) -> list[Reasoning]:
    """A reply's sealed thoughts, one a part."""
    out: list[ProviderEvent] = []
    decode(provider, CountingIds()).whole(compact(body), out)
    found: dict[int, Reasoning] = {}
    for event in out:
        if isinstance(event, ReasoningDelta):
            before = found.get(event.part, Reasoning())
            found[event.part] = Reasoning(before.text + event.text, signature=before.signature + event.signature)
    return list(found.values())


def responses_reply(*seals: str) -> dict[str, Any]:
    items = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": seal}
        for seal in seals
    ]
    return response_object([*items, message_item("Hi")])


def chat_reply(seal: str) -> dict[str, Any]:
    details = [{"type": "reasoning.text", "text": "Hm.", "signature": seal}]
    body = completion("Hi")
    body["choices"][0]["message"]["reasoning_details"] = details
    return body


def openai(id_: str, *, responses: bool) -> Provider:
    return Provider(id_, "openai", "http://127.0.0.1:9/v1", profile=RESPONSES if responses else CHAT)


CLAUDE = Provider("anthropic", "anthropic", "http://127.0.0.1:9/v1")
GEMINI = Provider("google", "gemini", "http://127.0.0.1:9/v1beta")
ACME, OTHER = openai("acme", responses=True), openai("acme-2", responses=True)
TALK = openai("acme", responses=False)

MAKERS: dict[str, tuple[list[Reasoning], Sequence[str]]] = {
    "responses": (
        thoughts(ResponsesDecoder, ACME, responses_reply(OPENAI_FIRST, OPENAI_SECOND)),
        (OPENAI_FIRST, OPENAI_SECOND),
    ),
    "responses, other account": (thoughts(ResponsesDecoder, OTHER, responses_reply(OPENAI_FIRST)), (OPENAI_FIRST,)),
    "responses, other maker": (thoughts(ResponsesDecoder, ACME, responses_reply(FIRST, SECOND)), (FIRST, SECOND)),
    "chat": (thoughts(ChatDecoder, TALK, chat_reply(FIRST)), (FIRST,)),
    "chat, sealed by OpenAI": (thoughts(ChatDecoder, TALK, chat_reply(OPENAI_FIRST)), (OPENAI_FIRST,)),
    "claude": (
        thoughts(
            MessagesDecoder,
            CLAUDE,
            anthropic_wire.message(
                anthropic_wire.thinking("Hm.", FIRST), anthropic_wire.thinking("Ah.", SECOND), anthropic_wire.text("Hi")
            ),
        ),
        (FIRST, SECOND),
    ),
    "claude, redacted": (
        thoughts(
            MessagesDecoder, CLAUDE, anthropic_wire.message(anthropic_wire.redacted(FIRST), anthropic_wire.text("Hi"))
        ),
        (FIRST,),
    ),
    "gemini": (
        thoughts(
            GeminiDecoder,
            GEMINI,
            gemini_wire.reply(
                gemini_wire.candidate(
                    gemini_wire.text("Hm.", thought=True, signature=FIRST), gemini_wire.text("Hi", signature=SECOND)
                )
            ),
        ),
        (FIRST, SECOND),
    ),
    "a stranger": ([Reasoning("Hm.", signature=OPENAI_FIRST)], (OPENAI_FIRST,)),
}


def to(provider: Provider, model: str = "test-1") -> Offer:
    return Offer(provider, model, frozenset(Endpoint), max_output_tokens=8192)


TAKERS: dict[str, Callable[[GenerationRequest], bytes]] = {
    "responses": lambda request: encode_responses(to(ACME), request),
    "responses, other account": lambda request: encode_responses(to(OTHER), request),
    "chat": lambda request: encode_chat(to(TALK), request),
    "claude": lambda request: encode_messages(to(CLAUDE, "claude-opus-4-1"), request)[0],
    "gemini": lambda request: encode_gemini(to(GEMINI, "gemini-3-pro-preview"), request),
}
OPENS = {
    ("responses", "responses"),
    ("responses, other maker", "responses"),
    ("responses, other account", "responses, other account"),
    ("claude", "claude"),
    ("claude, redacted", "claude"),
    ("gemini", "gemini"),
    ("a stranger", "responses"),
    ("a stranger", "responses, other account"),
}
"""Whose seals go to whom; what a client brings that looks like OpenAI's goes to any account."""


def sent_back(found: Sequence[Reasoning], surface: Endpoint) -> GenerationRequest:
    """The next request of a client of that surface, with what it was given of the thoughts."""
    match surface:
        case Endpoint.CHAT:
            text, seal = "".join(part.text for part in found), "".join(part.signature for part in found)
            back = [Turn(Role.ASSISTANT, (Reasoning(text, signature=seal), Text("Hi")))]
        case Endpoint.MESSAGES:
            back = [Turn(Role.ASSISTANT, (*found, Text("Hi")))]
        case _:
            items = [Reasoning(part.text, encrypted=part.signature or None) for part in found]
            back = [turn(Role.ASSISTANT, item) for item in items] + [turn(Role.ASSISTANT, "Hi")]
    return ask(turn(Role.USER, "?"), *back, turn(Role.USER, "Go on."), endpoint=surface)


def strings(value: Any) -> list[str]:
    """Every string in parsed JSON."""
    if isinstance(value, dict):
        return [found for inner in value.values() for found in strings(inner)]
    if isinstance(value, list):
        return [found for inner in value for found in strings(inner)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("surface", [Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES])
@pytest.mark.parametrize(("maker", "taker"), list(product(MAKERS, TAKERS)))
def test_p6_only_who_sealed_a_thought_gets_the_seal_back(maker: str, taker: str, surface: Endpoint) -> None:
    found, seals = MAKERS[maker]
    sent = strings(msgspec.json.decode(TAKERS[taker](sent_back(found, surface))))

    if (maker, taker) in OPENS:
        assert [text for text in sent if text in seals] == list(seals)
    else:
        assert not [text for text in sent if any(seal in text for seal in seals)]


def test_p8_a_foreign_thought_without_text_leaves_nothing_behind() -> None:
    found, _ = MAKERS["claude, redacted"]
    sent = msgspec.json.decode(encode_responses(to(ACME), sent_back(found, Endpoint.CHAT)))

    assert [item["type"] for item in sent["input"]] == ["message", "message", "message"]


SEALS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)
IDS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
APIS: Any = st.sampled_from(["chat", "responses"])


@given(st.lists(st.tuples(APIS, IDS, SEALS), max_size=6), APIS, IDS)
def test_joined_seals_are_told_apart_by_their_owners(
    made: list[tuple[SealingApi, str, str]], api: SealingApi, provider: str
) -> None:
    value = "".join(made_by(*one) for one in made)

    for owner in {(by, whose) for by, whose, _ in made} | {(api, provider)}:
        assert own_seals(owner[0], owner[1], value) == [seal for by, whose, seal in made if (by, whose) == owner]
    assert not is_claudes(value)


@given(st.text(), APIS, IDS)
def test_whatever_a_client_sends_is_read(value: str, api: SealingApi, provider: str) -> None:
    for seal in own_seals(api, provider, value):
        assert seal in value
