"""Plans come of seed and number alone, and hold every misfortune in its share; upstream and client do what they say."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import httpx
import msgspec
import pytest

from tests.chaos.client import Seen, ask
from tests.chaos.plan import Plan, index_in, plan_of
from tests.chaos.upstream import Upstream

COUNT = 2000
_DIGEST = "import hashlib; from tests.chaos.plan import plan_of; print([repr(plan_of(5, n)) for n in range(20)])"


def test_another_process_derives_the_same_plan() -> None:
    told = subprocess.run([sys.executable, "-c", _DIGEST], capture_output=True, text=True, check=True).stdout
    assert told.strip() == str([repr(plan_of(5, n)) for n in range(20)])


def test_another_seed_makes_other_plans() -> None:
    assert plan_of(1, 7) != plan_of(2, 7)


def test_the_prompt_names_the_plan() -> None:
    plan = plan_of(1, 123)
    assert index_in(json.dumps(plan.body()).encode()) == 123
    with pytest.raises(ValueError, match="no plan"):
        index_in(b"hello")


def test_every_misfortune_has_its_share() -> None:
    plans = [plan_of(1, number) for number in range(COUNT)]
    first = [plan.scripts[plan.asks_first] for plan in plans]

    def share(chosen: list[bool]) -> float:
        return sum(chosen) / COUNT

    assert share([plan.leave is not None for plan in plans]) == pytest.approx(0.20, abs=0.03)
    assert share([script.status != 200 for script in first]) == pytest.approx(0.10, abs=0.02)
    assert share([script.cut_after is not None for script in first]) == pytest.approx(0.05, abs=0.015)
    assert share([plan.stream and script.usage is None for plan, script in zip(plans, first, strict=True)]) > 0.03
    assert {(plan.surface, plan.stream) for plan in plans} == {
        (surface, stream) for surface in ("chat", "responses") for stream in (True, False)
    }
    assert {plan.leave.when for plan in plans if plan.leave} == {"before", "middle", "end"}
    assert all(plan.stream for plan, script in zip(plans, first, strict=True) if script.cut_after)


def _calm(plan: Plan, provider: str) -> Plan:
    """The same without waiting, misfortune or departure."""
    script = msgspec.structs.replace(plan.scripts[provider], status=200, first_s=0.0, every_s=0.0, cut_after=None)
    return msgspec.structs.replace(plan, leave=None, scripts={provider: script})


async def test_the_upstream_does_what_the_plan_says_and_keeps_books_of_it() -> None:
    plan = next(
        plan
        for n in range(100)
        if (plan := plan_of(1, n)).stream and "one" in plan.scripts and plan.scripts["one"].usage is not None
    )
    plan = _calm(plan, "one")
    async with Upstream(lambda _: plan) as upstream, httpx.AsyncClient() as client:
        body = {**plan.body(), "messages": [{"role": "user", "content": plan.turns[-1]}]}
        reply = await client.post(f"{upstream.origin}/one/v1/chat/completions", json=body)
    assert reply.text.endswith("data: [DONE]\n\n")
    (made,) = upstream.attempts[plan.index]
    assert made.text == plan.scripts["one"].text
    assert made.told[-1] == plan.scripts["one"].usage
    assert made.finished


async def test_an_upstream_that_cuts_says_no_more_and_has_not_finished() -> None:
    plan = _calm(plan_of(1, 1), "two")
    script = msgspec.structs.replace(plan.scripts["two"], cut_after=2, running=False)
    plan = msgspec.structs.replace(plan, scripts={"two": script}, stream=True)
    async with Upstream(lambda _: plan) as upstream, httpx.AsyncClient() as client:
        body = {"stream": True, "input": plan.turns[-1]}
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(f"{upstream.origin}/two/v1/responses", json=body)
        (made,) = upstream.attempts[plan.index]
    assert made.sent == list(script.pieces[:2])
    assert (made.cut, made.finished, made.told) == (True, False, [])


async def test_a_client_reads_a_stream_chunk_by_chunk_and_leaves_after_its_events() -> None:
    plan = next(
        plan for n in range(500) if (plan := plan_of(1, n)).stream and plan.leave and plan.leave.when == "middle"
    )
    assert plan.leave is not None
    plan = msgspec.structs.replace(plan, surface="chat", leave=msgspec.structs.replace(plan.leave, events=3))
    events = [{"choices": [{"delta": {"content": f"w{n} "}, "finish_reason": None}]} for n in range(6)]
    data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nx-generation-id: gen_abc\r\ntransfer-encoding: chunked\r\n\r\n")
        for at in range(0, len(data), 7):
            piece = data[at : at + 7]
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
        await reader.read()
        writer.close()

    seen = Seen(plan.index)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        await ask(plan, seen, server.sockets[0].getsockname()[1], "key")
    assert (seen.left, seen.complete, seen.text, seen.suffix) == (True, False, "w0 w1 w2 ", "abc")
