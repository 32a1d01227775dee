"""The Responses surface over the real pipeline, adapter and database, against upstreams on real sockets."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from server.clock import SystemClock, UuidV7
from server.domain.catalog import Catalog, Dialect, Model, Offer, Provider, ProviderProfile
from server.domain.ports import ProviderAdapter
from server.domain.request import Endpoint
from server.pipeline.drain import Drains
from server.pipeline.generate import Generator
from server.pipeline.respond import Respond
from server.pipeline.shutdown import Shutdown
from server.providers.openai import OpenAIAdapter
from server.storage import migrate
from server.storage.database import Database
from server.storage.group_commit import GroupCommit
from server.storage.ledger import SqlLedger
from server.storage.responses import SqlResponseStore
from server.storage.teams import Teams
from server.transport import Transport
from tests.contract.test_openai_response_parameters import SAMPLES
from tests.fakes.chat_wire import (
    completion,
    delta_chunk,
    finish_chunk,
    role_chunk,
    text_chunk,
    tool_call,
    usage,
    usage_chunk,
)
from tests.fakes.health import steady
from tests.fakes.openai_upstream import (
    Cut,
    Upstream,
    chat_chunks,
    chat_stream,
    chat_unary,
    json_reply,
    responses_events,
)
from tests.fakes.response_grammar import check_events
from tests.fakes.responses_rest import TEAMS, FixedClock, RestHost
from tests.fakes.responses_wire import message_item, numbered, response_object
from tests.fakes.wire import Reply

CHAT, NATIVE = "acme/chat:free", "acme/native:free"


class Fixed:
    def __init__(self, catalog: Catalog) -> None:
        self.current = catalog


class Stage:
    """A REST client of a gateway whose two models lead to one upstream: by chat, and by the Responses API itself."""

    def __init__(self, client: httpx.AsyncClient, upstream: Upstream) -> None:
        self.client = client
        self.upstream = upstream

    async def post(self, model: str = CHAT, **fields: Any) -> httpx.Response:
        return await self.client.post("/responses", json={"model": model, "input": "Hi", **fields})

    async def stream(self, model: str = CHAT, **fields: Any) -> list[dict[str, Any]]:
        reply = await self.post(model, stream=True, **fields)
        return [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]

    @property
    def sent(self) -> Any:
        """The body of the upstream's latest request."""
        return self.upstream.requests[-1].json


def catalog(base_url: str) -> Catalog:
    apis = {CHAT: frozenset({"chat"}), NATIVE: frozenset({"responses"})}
    models = {}
    for model_id, spoken in apis.items():
        provider = Provider(model_id.split("/")[1][:-5], "openai", base_url, profile=ProviderProfile(apis=spoken))  # type: ignore[arg-type]
        models[model_id] = Model(model_id, (Offer(provider, "test-1", frozenset({Endpoint.RESPONSES})),))
    return Catalog({model.offers[0].provider.id: model.offers[0].provider for model in models.values()}, models)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with its schema and nothing else, to be copied."""
    path = tmp_path_factory.mktemp("responses") / "empty.db"
    asyncio.run(migrate.upgrade(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture
async def stage(tmp_path: Path, empty_database: Path) -> AsyncIterator[Stage]:
    clock, ids = SystemClock(), UuidV7()
    url = f"sqlite+aiosqlite:///{shutil.copy(empty_database, tmp_path / 'gateway.db')}"
    async with AsyncExitStack() as stack:
        database = Database.open(url)
        stack.push_async_callback(database.close)
        commits = GroupCommit(database)
        stack.push_async_callback(commits.close)
        upstream = await stack.enter_async_context(Upstream())
        transport = await stack.enter_async_context(Transport())
        team = await Teams(database, clock, ids).create("one")
        source = Fixed(catalog(upstream.base_url))
        ledger = SqlLedger(database, clock, ids.new())
        stack.push_async_callback(ledger.close)
        adapters: dict[Dialect, ProviderAdapter] = {"openai": OpenAIAdapter(transport, clock, ids)}
        generate = Generator(source, adapters, ledger, clock, Shutdown(), Drains(), steady(clock))
        respond = Respond(generate, SqlResponseStore(database, commits, FixedClock()), clock)
        headers = {"authorization": "Bearer real"}
        host = RestHost(respond, teams={**TEAMS, "Bearer real": team.id})
        client = httpx.AsyncClient(transport=host, base_url="http://gateway.test/v1", headers=headers)
        yield Stage(await stack.enter_async_context(client), upstream)


def _holds(body: Any, wanted: Any) -> bool:
    """Whether `wanted` stands somewhere in a JSON value."""
    if body == wanted and type(body) is type(wanted):
        return True
    if isinstance(body, dict):
        return any(_holds(value, wanted) for value in body.values())
    return isinstance(body, list) and any(_holds(value, wanted) for value in body)


UNMISTAKABLE: dict[str, Any] = {
    **SAMPLES,
    "temperature": 0.125,
    "top_p": 0.375,
    "max_output_tokens": 77,
    "top_logprobs": 3,
    "max_tool_calls": 13,
    "parallel_tool_calls": False,
    "tool_choice": "required",
    "instructions": "Answer in verse.",
    "user": "user-of-the-client",
}
_NOT_FOR_PROVIDERS = {"input", "metadata", "model", "previous_response_id", "store", "stream", "stream_options"}
_PSEUDONYMS = {"prompt_cache_key", "safety_identifier", "user"}
_UPSTREAM_SPELLING = {"tools": "f", "text": "low", "reasoning": "low", "include": "file_search_call.results"}


@pytest.mark.parametrize("model", [CHAT, NATIVE])
@pytest.mark.parametrize("name", sorted(UNMISTAKABLE.keys() - _NOT_FOR_PROVIDERS))
async def test_a_parameter_is_in_the_upstreams_body_or_refused_by_name(stage: Stage, model: str, name: str) -> None:
    wanted = UNMISTAKABLE[name]
    reply = await stage.post(model, **{name: wanted})
    if reply.status_code == 400:
        assert reply.json()["param"].split("[")[0].split(".")[0] == name
        assert stage.upstream.requests == []
        return
    assert reply.status_code == 200
    if name in _PSEUDONYMS:
        assert stage.sent[name] not in ("", wanted)
    else:
        assert _holds(stage.sent, _UPSTREAM_SPELLING.get(name, wanted))


async def test_a_schema_keeps_its_order_all_the_way(stage: Stage) -> None:
    schema = '{"type":"object","properties":{"zebra":{"maximum":1.50},"apple":{"enum":["b","a"]}}}'
    body = (
        '{"model":"%s","input":"x","tools":[{"type":"function","name":"f","parameters":%s}],'
        '"text":{"format":{"type":"json_schema","name":"o","schema":%s}}}'
    )
    for model in (CHAT, NATIVE):
        sent = body % (model, schema, schema)
        reply = await stage.client.post("/responses", content=sent, headers={"content-type": "application/json"})
        assert reply.status_code == 200
        assert stage.upstream.requests[-1].body.count(schema.encode()) == 2
        assert reply.text.count(schema) == 2


async def test_a_tool_conversation_through_a_chat_upstream(stage: Stage) -> None:
    chunks = [
        role_chunk(),
        delta_chunk({"content": "Let me look."}),
        delta_chunk({"tool_calls": [tool_call("weather", '{"city":', id="call_a", index=0)]}),
        delta_chunk({"tool_calls": [tool_call("time", "{}", id="call_b", index=1)]}),
        delta_chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]}),
        finish_chunk("tool_calls"),
        usage_chunk(),
    ]
    stage.upstream.script(chat_chunks(chunks))
    terminal = check_events(await stage.stream(input="Weather?", instructions="Once."))
    assert [item["type"] for item in terminal["response"]["output"]] == ["message", "function_call", "function_call"]

    stage.upstream.script(chat_unary("Sunny."))
    reply = await stage.post(
        input=[
            {"type": "function_call_output", "call_id": "call_a", "output": "sun"},
            {"type": "function_call_output", "call_id": "call_b", "output": "noon"},
        ],
        previous_response_id=terminal["response"]["id"],
    )
    assert reply.json()["output"][0]["content"][0]["text"] == "Sunny."
    messages = stage.sent["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool"]
    assert messages[1]["content"] == "Let me look."
    assert [(call["id"], call["function"]["arguments"]) for call in messages[1]["tool_calls"]] == [
        ("call_a", '{"city":"Oslo"}'), ("call_b", "{}"),
    ]  # fmt: skip
    assert [message["tool_call_id"] for message in messages[2:]] == ["call_a", "call_b"]


async def test_a_call_cut_by_the_limit(stage: Stage) -> None:
    cut = [
        role_chunk(),
        delta_chunk({"tool_calls": [tool_call("weather", '{"city": "Os', index=0)]}),
        finish_chunk("length"),
        usage_chunk(),
    ]
    stage.upstream.script(chat_chunks(cut))
    terminal = check_events(await stage.stream())
    assert terminal["type"] == "response.incomplete"
    response = terminal["response"]
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (response["output"][0]["status"], response["output"][0]["arguments"]) == ("incomplete", '{"city": "Os')
    assert response["usage"]["total_tokens"] == 12


async def test_an_upstream_that_breaks_off(stage: Stage) -> None:
    broken = [role_chunk(), *(delta_chunk({"content": text}) for text in "abc")]
    stage.upstream.script(chat_chunks(broken, done=False, end=Cut()))
    events = await stage.stream()
    terminal = check_events(events)
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    response = terminal["response"]
    assert response["output"][0]["content"][0]["text"] == "abc"
    assert (await stage.client.get(f"/responses/{response['id']}")).status_code == 404


async def test_sealed_reasoning_goes_there_and_back_byte_for_byte(stage: Stage) -> None:
    seal = "gAAAA+/=" * 20
    reasoning = {
        "id": "rs_upstream",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "Hm."}],
        "encrypted_content": seal,
    }
    stage.upstream.script(json_reply(response_object([reasoning, message_item("Hi")])))
    first = (await stage.post(NATIVE, include=["reasoning.encrypted_content"])).json()
    assert stage.sent["include"] == ["reasoning.encrypted_content"]
    thought, said = first["output"]
    assert (thought["type"], thought["summary"]) == ("reasoning", [{"type": "summary_text", "text": "Hm."}])
    assert thought["encrypted_content"].endswith(seal)

    for again in (
        {"input": [{"role": "user", "content": "Hi"}, thought, said, {"role": "user", "content": "More"}]},
        {"input": "More", "previous_response_id": first["id"]},
    ):
        assert (await stage.post(NATIVE, **again)).status_code == 200
        kinds = [item["type"] for item in stage.sent["input"]]
        assert kinds == ["message", "reasoning", "message", "message"]
        assert stage.sent["input"][1]["encrypted_content"] == seal
        assert stage.sent["input"][1]["summary"] == thought["summary"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_phase_of_a_message_goes_there_and_back(stage: Stage, streamed: bool) -> None:
    said = [
        {**message_item("Let me look."), "phase": "commentary"},
        {**message_item("It is 4."), "id": "msg_2", "phase": "final_answer"},
    ]
    done = response_object(said)
    if streamed:
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": response_object([], status="in_progress", usage=None)}
        ]
        for index, item in enumerate(said):
            place, text = {"output_index": index}, item["content"][0]["text"]
            events += [
                {"type": "response.output_item.added", **place, "item": {**item, "content": []}},
                {"type": "response.output_text.delta", **place, "content_index": 0, "delta": text},
                {"type": "response.output_item.done", **place, "item": item},
            ]
        stage.upstream.script(responses_events(numbered([*events, {"type": "response.completed", "response": done}])))
        told = await stage.stream(NATIVE)
        first = check_events(told)["response"]
        added = [event["item"] for event in told if event["type"] == "response.output_item.added"]
        assert [item["phase"] for item in added] == ["commentary", "final_answer"]
    else:
        stage.upstream.script(json_reply(done))
        first = (await stage.post(NATIVE)).json()
    phases = ["commentary", "final_answer"]
    assert [(item["phase"], item["content"][0]["text"]) for item in first["output"]] == list(
        zip(phases, ("Let me look.", "It is 4."), strict=True)
    )
    read = (await stage.client.get(f"/responses/{first['id']}")).json()
    assert read["output"] == first["output"]

    user = {"role": "user", "content": "More"}
    for again in ({"input": [user, *first["output"], user]}, {"input": [user], "previous_response_id": first["id"]}):
        assert (await stage.post(NATIVE, **again)).status_code == 200
        assert [item.get("phase") for item in stage.sent["input"]] == [None, *phases, None]
        assert (await stage.post(CHAT, **again)).status_code == 200, "a hint: what has no word for it goes without"
        assert "phase" not in stage.upstream.requests[-1].body.decode()


async def test_items_of_built_in_tools_come_through_and_go_back(stage: Stage) -> None:
    search = {
        "id": "ws_1",
        "type": "web_search_call",
        "status": "completed",
        "action": {"type": "search", "query": "q"},
    }
    done = response_object([search, message_item("Found.")])
    stage.upstream.script(
        responses_events(
            numbered(
                [
                    {"type": "response.created", "response": response_object([], status="in_progress", usage=None)},
                    {
                        "type": "response.output_item.added",
                        "output_index": 0,
                        "item": {**search, "status": "in_progress"},
                    },
                    {"type": "response.output_item.done", "output_index": 0, "item": search},
                    {"type": "response.output_item.done", "output_index": 1, "item": message_item("Found.")},
                    {"type": "response.completed", "response": done},
                ]
            )
        )
    )
    tools = [{"type": "web_search"}]
    terminal = check_events(await stage.stream(NATIVE, tools=tools))
    assert stage.sent["tools"] == tools
    assert terminal["response"]["output"][0] == search

    assert (await stage.post(NATIVE, previous_response_id=terminal["response"]["id"])).status_code == 200
    assert search in stage.sent["input"]
    refused = await stage.post(CHAT, previous_response_id=terminal["response"]["id"])
    assert (refused.status_code, refused.json()["param"]) == (400, "previous_response_id")
    refused = await stage.post(CHAT, tools=tools)
    assert (refused.status_code, refused.json()["param"]) == (400, "tools[0]")


SECOND = ("Bonjour", " la", " France")


def two_choices(*, stream: bool) -> Reply:
    """Two choices, the second of which goes on when the first has ended."""
    whole = completion("Hello there!", usage_=usage(9, 7))
    second = {**whole["choices"][0], "index": 1, "message": {"role": "assistant", "content": "".join(SECOND)}}
    if not stream:
        return json_reply({**whole, "choices": [*whole["choices"], second]})
    first = [role_chunk(), text_chunk("Hello"), text_chunk(" there!"), finish_chunk()]
    others = [delta_chunk({"content": text}, choice=1) for text in SECOND]
    chunks = [chunk for pair in itertools.zip_longest(first, others) for chunk in pair if chunk is not None]
    ended = delta_chunk({}, finish_reason="length", choice=1)
    return chat_chunks([*chunks, ended, usage_chunk(usage(9, 7))])


@pytest.mark.parametrize("options", [{}, {"provider_options": {"chat": {"n": 2}}}], ids=["unasked", "asked"])
async def test_a_second_choice_is_paid_for_and_not_told(stage: Stage, options: dict[str, Any]) -> None:
    stage.upstream.script(two_choices(stream=False), two_choices(stream=True))
    reply = await stage.post(**options)
    assert reply.status_code == 200, reply.text
    streamed = check_events(await stage.stream(**options))
    assert streamed["type"] == "response.completed"
    for told in (reply.json(), streamed["response"]):
        assert [part["text"] for item in told["output"] for part in item["content"]] == ["Hello there!"]
        assert (told["status"], told["usage"]["output_tokens"]) == ("completed", 7)
    assert stage.sent.get("n") == options.get("provider_options", {}).get("chat", {}).get("n")


async def test_a_client_that_leaves_closes_the_upstream(stage: Stage) -> None:
    stage.upstream.script(chat_stream(*["x"] * 200, every_s=0.05))
    body = {"model": CHAT, "input": "x", "stream": True}
    async with stage.client.stream("POST", "/responses", json=body) as reply:
        async for line in reply.aiter_lines():
            if "output_text.delta" in line:
                break
        left_s = time.monotonic()
    await stage.upstream.wait_disconnect()
    assert time.monotonic() - left_s < 5, "before the provider had said all"
    await asyncio.sleep(0)
    assert msgspec.json.decode(stage.upstream.requests[-1].body)["stream"] is True
