"""What went wrong in the mapping of others' gateways, tried on every surface before every dialect that it concerns."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.dialects.asked import ASKED, BONN, OSLO, SAID, SEAL
from tests.dialects.cells import DIALECTS, FOLLOWING, SURFACES, model_of, said_of
from tests.fakes import anthropic_wire, chat_wire, deviations, gemini_wire, responses_wire
from tests.fakes.dialects import REPLIES, Called, DialectName, Said
from tests.fakes.surfaces import SurfaceName
from tests.fakes.wire import Reply
from tests.integration.dialect_stage import Stage, at, whole_stage

__all__ = ["at", "whole_stage"]

together = pytest.mark.asyncio(loop_scope="module")
on_every_surface = pytest.mark.parametrize("surface", SURFACES)
in_every_dialect = pytest.mark.parametrize("dialect", DIALECTS)
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
PATHS = {"chat": "/chat/completions", "responses": "/responses", "messages": "/messages"}


async def post(at: Stage, surface: SurfaceName, dialect: DialectName, **fields: Any) -> Any:
    """The response to a plain request with these fields, its body read."""
    body = {"model": model_of(dialect), **ASKED[surface]["stream"], **fields}
    url = f"http://gateway.test/v1{PATHS[surface]}"
    return await at.http.post(url, json=body, headers={"authorization": "Bearer real"})


def data_of(body: bytes) -> list[Any]:
    """The JSON of every event."""
    return [json.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: {")]


ROME = Called("call_rome", "weather", {"city": "Rome"})


@together
@both_ways
@on_every_surface
@in_every_dialect
async def test_p1_three_calls_at_once(at: Stage, surface: SurfaceName, dialect: DialectName, stream: bool) -> None:
    said = Said(calls=(BONN, OSLO, ROME), end="tool_calls")
    at.upstreams[dialect].script(REPLIES[dialect](said, stream=stream))
    heard = await at.surfaces[surface].ask(model_of(dialect), ASKED[surface]["tools"], stream=stream)

    assert [(call.name, call.arguments) for call in heard.calls] == [(call.name, call.arguments) for call in said.calls]
    assert len({call.id for call in heard.calls} - {""}) == 3


@together
@in_every_dialect
async def test_p2_fragments_keep_to_their_call_and_done_stands_alone(at: Stage, dialect: DialectName) -> None:
    at.upstreams[dialect].script(REPLIES[dialect](Said(calls=(BONN,), end="tool_calls"), stream=True))
    body = (await post(at, "chat", dialect, stream=True)).content

    assert body.endswith(b"}\n\ndata: [DONE]\n\n")
    assert body.count(b"[DONE]") == 1
    pieces = [
        piece
        for chunk in data_of(body)
        for choice in chunk["choices"]
        for piece in choice["delta"].get("tool_calls", ())
    ]
    assert {piece["index"] for piece in pieces} == {0}
    assert ["id" in piece for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert json.loads("".join(piece["function"]["arguments"] for piece in pieces)) == BONN.arguments


@together
@on_every_surface
@pytest.mark.parametrize("manner", sorted(deviations.TOOL_STREAMS))
async def test_p3_indices_and_ids_are_ours_whatever_comes(at: Stage, surface: SurfaceName, manner: str) -> None:
    at.upstreams["openai"].script(deviations.TOOL_STREAMS[manner](), deviations.TOOL_STREAMS[manner]())
    heard = await at.surfaces[surface].ask(model_of("openai"), ASKED[surface]["stream"], stream=True)
    chunks = data_of((await post(at, "chat", "openai", stream=True)).content)

    assert [(call.name, call.arguments) for call in heard.calls] == [("get_weather", {"city": "Paris"})]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    pieces = [piece for delta in deltas for piece in delta.get("tool_calls", ())]
    assert [piece["index"] for piece in pieces] == [0] * len(pieces)
    assert [type(piece["id"]) for piece in pieces if "id" in piece] == [str]


CUT = '{"city": "Os'


def cut_call(dialect: DialectName) -> Reply:
    """A stream in which the limit cut a call; Gemini only has whole ones."""
    match dialect:
        case "openai":
            call = chat_wire.delta_chunk({"tool_calls": [chat_wire.tool_call("weather", CUT, index=0)]})
            return chat_wire.chat_chunks([call, chat_wire.finish_chunk("length"), chat_wire.usage_chunk()])
        case "openai_responses":
            item = {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "weather", "arguments": CUT}
            begun = {**item, "arguments": "", "status": "in_progress"}
            ended = responses_wire.response_object(
                [{**item, "status": "incomplete"}],
                status="incomplete",
                incomplete_details={"reason": "max_output_tokens"},
            )
            events: list[dict[str, Any]] = [
                {"type": "response.output_item.added", "output_index": 0, "item": begun},
                {"type": "response.function_call_arguments.delta", "output_index": 0, "item_id": "fc_1", "delta": CUT},
                {"type": "response.incomplete", "response": ended},
            ]
            return responses_wire.responses_events(responses_wire.numbered(events))
        case "anthropic":
            begun = anthropic_wire.block_start(0, anthropic_wire.tool_use("weather", {}))
            piece = anthropic_wire.block_delta(0, "input_json_delta", partial_json=CUT)
            ended = anthropic_wire.message_delta("max_tokens")
            start, stop = anthropic_wire.message_start(), anthropic_wire.message_stop()
            return anthropic_wire.event_stream([start, begun, piece, anthropic_wire.block_stop(0), ended, stop])
        case _:
            call = gemini_wire.call("weather", {"city": "Os"})
            return gemini_wire.stream(gemini_wire.reply(gemini_wire.candidate(call, finish="MAX_TOKENS")))


@together
@on_every_surface
@in_every_dialect
async def test_p5_a_call_cut_by_the_limit_is_not_complete(
    at: Stage, surface: SurfaceName, dialect: DialectName
) -> None:
    at.upstreams[dialect].script(cut_call(dialect))
    events = data_of((await post(at, surface, dialect, stream=True)).content)

    match surface:
        case "chat":
            reasons = [choice["finish_reason"] for event in events for choice in event["choices"]]
            assert {*reasons} == {None, "length"}
        case "responses":
            assert events[-1]["type"] == "response.incomplete"
            assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
        case _:
            assert [event["delta"]["stop_reason"] for event in events if event["type"] == "message_delta"] == [
                "max_tokens"
            ]


def whole_response(*items: Any) -> Reply:
    ended = responses_wire.response_object(list(items))
    return responses_wire.responses_events(responses_wire.numbered([{"type": "response.completed", "response": ended}]))


SEALED = Said(thought="Hm.", signature=SEAL, calls=(BONN,), end="tool_calls")
BEFORE_THE_CALL: dict[DialectName, list[Any]] = {
    "openai_responses": [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": SEAL},
        {"type": "function_call", "call_id": BONN.id, "name": BONN.name, "arguments": BONN.arguments},
    ],
    "anthropic": [
        {"type": "thinking", "thinking": "Hm.", "signature": SEAL},
        {"type": "tool_use", "id": BONN.id, "name": BONN.name, "input": BONN.arguments},
    ],
    "gemini": [
        {"text": "Hm.", "thought": True, "thoughtSignature": SEAL},
        {
            "functionCall": {"name": BONN.name, "args": BONN.arguments},
            "thoughtSignature": gemini_wire.SIGNATURE,
        },
    ],
}
WITHOUT_A_TEXT: dict[DialectName, tuple[Reply, list[Any]]] = {
    "openai_responses": (
        whole_response(
            {"id": "rs_1", "type": "reasoning", "summary": [], "encrypted_content": SEAL},
            {"id": "fc_1", "type": "function_call", "call_id": BONN.id, "name": BONN.name, "arguments": "{}"},
        ),
        [
            {"type": "reasoning", "summary": [], "encrypted_content": SEAL},
            {"type": "function_call", "call_id": BONN.id, "name": BONN.name, "arguments": {}},
        ],
    ),
    "anthropic": (
        anthropic_wire.message_stream(
            anthropic_wire.thinking("", SEAL),
            anthropic_wire.tool_use(BONN.name, {}, id=BONN.id),
            stop_reason="tool_use",
        ),
        [
            {"type": "thinking", "thinking": "", "signature": SEAL},
            {"type": "tool_use", "id": BONN.id, "name": BONN.name, "input": {}},
        ],
    ),
    "gemini": (
        gemini_wire.stream(
            gemini_wire.reply(gemini_wire.candidate(gemini_wire.text("", signature=SEAL), finish=None)),
            gemini_wire.reply(gemini_wire.candidate(gemini_wire.call(BONN.name, {}, signature=gemini_wire.SIGNATURE))),
        ),
        [
            {"text": "", "thoughtSignature": SEAL},
            {"functionCall": {"name": BONN.name, "args": {}}, "thoughtSignature": gemini_wire.SIGNATURE},
        ],
    ),
}


async def sent_back(at: Stage, surface: SurfaceName, dialect: DialectName, reply: Reply, *, stream: bool) -> list[Any]:
    """What the provider gets of its own turn when the client goes on with the result of its call."""
    at.upstreams[dialect].script(reply)
    face, asked = at.surfaces[surface], dict(ASKED[surface]["stream"])
    heard = await face.ask(model_of(dialect), asked, stream=stream)
    turns = [*asked[face.turns], *heard.turn, *face.results(heard.calls, ["Rain."])]
    await face.ask(model_of(dialect), {**asked, face.turns: turns}, stream=stream)
    sent = said_of(at.sent(dialect))
    match dialect:
        case "openai_responses":
            return list(sent["input"][1:-1])
        case "anthropic":
            return list(sent["messages"][1]["content"])
        case _:
            return list(sent["contents"][1]["parts"])


@together
@both_ways
@on_every_surface
@pytest.mark.parametrize("dialect", BEFORE_THE_CALL)
async def test_p6_a_sealed_thought_goes_back_before_its_call(
    at: Stage, surface: SurfaceName, dialect: DialectName, stream: bool
) -> None:
    reply = REPLIES[dialect](SEALED, stream=stream)

    assert await sent_back(at, surface, dialect, reply, stream=stream) == BEFORE_THE_CALL[dialect]


@together
@on_every_surface
@pytest.mark.parametrize("dialect", WITHOUT_A_TEXT)
async def test_p7_a_seal_without_a_text_goes_back(at: Stage, surface: SurfaceName, dialect: DialectName) -> None:
    reply, wanted = WITHOUT_A_TEXT[dialect]

    assert await sent_back(at, surface, dialect, reply, stream=True) == wanted


def visible(sent: Any) -> Iterator[str]:
    """What of a conversation the model takes for said, in any dialect: all texts but those of thoughts."""
    if isinstance(sent, list):
        for value in sent:
            yield from visible(value)
    elif isinstance(sent, dict) and sent.get("type") not in ("reasoning", "thinking") and not sent.get("thought"):
        for name, value in sent.items():
            if name in ("text", "content") and isinstance(value, str):
                yield value
            elif name != "reasoning_content":
                yield from visible(value)


@together
@on_every_surface
@pytest.mark.parametrize(("maker", "other"), [(a, b) for a in DIALECTS for b in DIALECTS if a != b])
async def test_p8_thoughts_of_one_are_never_said_to_another(
    at: Stage, surface: SurfaceName, maker: DialectName, other: DialectName
) -> None:
    """Neither as a text, nor with a seal that only their maker can open."""
    face, asked = at.surfaces[surface], dict(ASKED[surface]["stream"])
    at.upstreams[maker].script(REPLIES[maker](SAID["reasoning"], stream=True))
    heard = await face.ask(model_of(maker), asked, stream=True)
    assert heard.thought == SAID["reasoning"].thought

    await face.ask(model_of(other), {**asked, face.turns: [*asked[face.turns], *heard.turn, *FOLLOWING]}, stream=True)

    said = list(visible(at.sent(other)))
    assert {"Hi", "42.", "Sure?"} <= {*said}
    assert not any(SAID["reasoning"].thought in text for text in said)
    assert SEAL not in json.dumps(at.sent(other))


@together
@on_every_surface
@pytest.mark.parametrize(("maker", "other"), [(a, b) for a in DIALECTS for b in DIALECTS if a != b])
async def test_calls_that_one_made_are_answered_by_another(
    at: Stage, surface: SurfaceName, maker: DialectName, other: DialectName
) -> None:
    """As after a fallback; the stand-ins refuse calls and results that do not belong together."""
    face, asked = at.surfaces[surface], dict(ASKED[surface]["parallel_tools"])
    at.upstreams[maker].script(REPLIES[maker](SAID["parallel_tools"], stream=True))
    heard = await face.ask(model_of(maker), asked, stream=True)
    turns = [*asked[face.turns], *heard.turn, *face.results(heard.calls, ["Rain in Bonn.", "Sun in Oslo."])]

    again = await face.ask(model_of(other), {**asked, face.turns: turns}, stream=True)

    assert again.text == "Hello there!"
    sent = json.dumps(at.sent(other))
    assert [sent.count(word) for word in ("Rain in Bonn.", "Sun in Oslo.")] == [1, 1]
    assert sent.index("Rain in Bonn.") < sent.index("Sun in Oslo.")


JPEG = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(12)).decode()
LABELLED = f"data:image/png;base64,{JPEG}"
IMAGE: dict[SurfaceName, Any] = {
    "chat": {"type": "image_url", "image_url": {"url": LABELLED}},
    "responses": {"type": "input_image", "image_url": LABELLED},
    "messages": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": JPEG}},
}
IN_A_RESULT: dict[SurfaceName, Any] = {
    "chat": [
        {
            "role": "assistant",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": [IMAGE["chat"]]},
    ],
    "responses": [
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [IMAGE["responses"]]},
    ],
    "messages": [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [IMAGE["messages"]]}]},
    ],
}


@together
@on_every_surface
@in_every_dialect
@pytest.mark.parametrize("where", ["in a message", "in a result"])
async def test_p11_an_image_is_what_its_bytes_are(
    at: Stage, surface: SurfaceName, dialect: DialectName, where: str
) -> None:
    turns = "input" if surface == "responses" else "messages"
    last = [{"role": "user", "content": [IMAGE[surface]]}] if where == "in a message" else IN_A_RESULT[surface]
    reply = await post(at, surface, dialect, **{turns: [{"role": "user", "content": "Hi"}, *last]})

    if reply.status_code == 400:
        assert where == "in a result"
        assert reply.json()["param"].startswith(turns)
        assert at.upstreams[dialect].requests == []
        return
    assert reply.status_code == 200, reply.text
    body = json.dumps(at.sent(dialect))
    assert JPEG in body
    assert "image/jpeg" in body
    assert "image/png" not in body
