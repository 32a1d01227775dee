"""`Idempotency-Key` from the REST request to the wallet: real storage, ledger, pipeline and sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest
from msgspec.structs import replace

from rest_bridge.http import RestResponse
from server.domain.catalog import Model, Offer
from server.domain.errors import GatewayError, Reason
from server.domain.idempotency import Claim
from server.domain.pricing import PriceList
from server.domain.request import Endpoint
from server.domain.restrictions import Restrictions
from server.storage.database import Database
from server.storage.idempotency import LEASE_S, RETENTION_S
from tests.fakes.audio_wire import speech
from tests.fakes.openai_upstream import Call as Do
from tests.fakes.openai_upstream import Reset, chat_unary, error
from tests.fakes.rest import Reply, read
from tests.integration.databases import ManualClock
from tests.integration.idempotent import BODY, STREAM, Counter, Gate, words

UNARY_COST = STREAM_COST = 9 * 150 + 3 * 600


@pytest.fixture
async def counter(database: Database, clock: ManualClock) -> AsyncIterator[Counter]:
    async with AsyncExitStack() as stack:
        opened = Counter(database, clock, stack)
        await opened.open()
        yield opened


def shown(reply: Reply) -> tuple[Any, ...]:
    """What must be the same when it is told again."""
    headers = {name: value for name, value in reply.headers.items() if name != "idempotent-replayed"}
    return reply.status, reply.body, headers


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["unary", "stream"])
async def test_an_outcome_is_told_again_byte_for_byte_and_charged_once(counter: Counter, body: dict[str, Any]) -> None:
    worker = await counter.worker()
    first = await worker.post(body)
    assert first.status == 200
    assert "idempotent-replayed" not in first.headers
    again = await worker.post(body)
    assert shown(again) == shown(first)
    assert again.headers["idempotent-replayed"] == "true"
    assert len(counter.upstream.requests) == 1
    assert await counter.spent() == UNARY_COST


async def test_without_a_key_every_request_is_one_of_its_own(counter: Counter) -> None:
    worker = await counter.worker()
    ids = {(await worker.post(BODY, key=None)).headers["x-generation-id"] for _ in range(2)}
    assert len(ids) == 2
    assert await counter.spent() == 2 * UNARY_COST


async def test_an_outcome_survives_a_restart(counter: Counter) -> None:
    worker = await counter.worker()
    first = await worker.post(STREAM)
    await worker.stop()
    assert shown(await (await counter.worker()).post(STREAM)) == shown(first)
    assert await counter.spent() == STREAM_COST


async def test_a_stream_comes_piece_by_piece_to_everybody_and_its_end_when_it_is_settled(counter: Counter) -> None:
    worker, gate = await counter.worker(), Gate()
    counter.upstream.script(words("é🙂", gate, "你好", one_byte=True))
    first = await worker.send(STREAM)
    second = await worker.send(STREAM)
    assert dict(second.headers)["idempotent-replayed"] == "true"
    readers = [response.body for response in (first, second)]
    seen = [b"", b""]
    for index, reader in enumerate(readers):
        assert not isinstance(reader, bytes)
        while "é🙂".encode() not in seen[index]:
            seen[index] += await anext(aiter(reader))
    assert "你好".encode() not in seen[0]
    worker.ledger.locked.clear()
    gate.open()
    endings = [asyncio.create_task(rest(response)) for response in (first, second)]
    await worker.ledger.asked.wait()
    _, late = await asyncio.wait(endings, timeout=0.1)
    assert len(late) == 2, "nobody has the end before it is settled"
    worker.ledger.locked.set()
    bodies = [begun + await ending for begun, ending in zip(seen, endings, strict=True)]
    assert bodies[0] == bodies[1] == (await worker.post(STREAM)).body
    assert bodies[0].endswith(b"data: [DONE]\n\n")
    assert len(counter.upstream.requests) == 1


async def rest(response: RestResponse) -> bytes:
    return (await read(response)).body


async def test_who_leaves_midway_and_comes_back_gets_all_of_it(counter: Counter) -> None:
    """D8: and pays once, for all of it."""
    worker, gate = await counter.worker(), Gate()
    counter.upstream.script(words("Hello", gate, " there"))
    response = await worker.send(STREAM)
    assert not isinstance(response.body, bytes)
    async with aclosing(response.body) as pieces:
        begun = await anext(aiter(pieces))
    gate.open()
    again = await worker.post(STREAM)
    assert again.status == 200
    assert again.body.startswith(begun)
    assert b"there" in again.body
    assert again.body.endswith(b"data: [DONE]\n\n")
    assert len(counter.upstream.requests) == 1
    assert await counter.spent() == STREAM_COST


async def test_who_leaves_before_the_answer_finds_it_later(counter: Counter) -> None:
    worker, gate = await counter.worker(), Gate()
    counter.upstream.script([Do(gate.wait), *chat_unary()])
    waiting = asyncio.create_task(worker.post(BODY))
    await gate.reached.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    gate.open()
    again = await worker.post(BODY)
    assert (again.status, again.headers["idempotent-replayed"]) == (200, "true")
    assert len(counter.upstream.requests) == 1
    assert await counter.spent() == UNARY_COST


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["unary", "stream"])
@pytest.mark.parametrize("workers", [1, 2])
async def test_duplicates_at_the_same_time_are_one_request(
    counter: Counter, workers: int, body: dict[str, Any]
) -> None:
    started = [await counter.worker() for _ in range(workers)]
    replies = await asyncio.gather(*(started[index % workers].post(body) for index in range(8)))
    assert len({shown(reply)[1] for reply in replies}) == 1
    assert len({reply.headers["x-generation-id"] for reply in replies}) == 1
    assert sum("idempotent-replayed" not in reply.headers for reply in replies) == 1
    assert len(counter.upstream.requests) == 1
    assert await counter.spent() == UNARY_COST


async def test_another_request_with_the_same_key_is_a_conflict(counter: Counter) -> None:
    worker = await counter.worker()
    await worker.post(BODY)
    for other in (STREAM, {**BODY, "temperature": 0.5}):
        reply = await worker.post(other)
        assert (reply.status, reply.json["error"]) == (409, "conflict_error")
        assert (reply.json["reason"], reply.json["param"]) == ("idempotency_key_reused", "Idempotency-Key")
        assert reply.json["generation_id"] == reply.headers["x-generation-id"]
    assert len(counter.upstream.requests) == 1


async def test_the_same_key_of_two_teams_is_two_requests(counter: Counter) -> None:
    """K7: two upstream calls, two charges, two generations."""
    worker = await counter.worker()
    first = await worker.post(BODY)
    other = await counter.another_team()
    second = await worker.post(BODY, team_id=other)
    assert "idempotent-replayed" not in second.headers
    assert first.headers["x-generation-id"] != second.headers["x-generation-id"]
    assert len(counter.upstream.requests) == 2
    assert await counter.spent() == await counter.spent(other) == UNARY_COST


async def test_a_duplicate_does_not_wait_for_ever(counter: Counter) -> None:
    busy, other, gate = await counter.worker(), await counter.worker(max_wait_s=0.2), Gate()
    counter.upstream.script([Do(gate.wait), *chat_unary()])
    first = asyncio.create_task(busy.post(BODY))
    await gate.reached.wait()
    late = await other.post(BODY)
    assert (late.status, late.json["reason"]) == (409, "idempotency_key_in_use")
    assert late.headers["retry-after"] == "1"
    hurried = await busy.post(BODY, deadline_in_s=0.3)
    assert (hurried.status, hurried.json["reason"]) == (409, "idempotency_key_in_use")
    gate.open()
    assert (await other.post(BODY)).body == (await first).body


async def test_the_work_of_a_dead_worker_is_done_anew(counter: Counter, clock: ManualClock) -> None:
    dead, living = await counter.worker(), await counter.worker(max_wait_s=0.2)
    await dead.store.begin(Claim(counter.team_id, "key-1", dead.fingerprint(BODY), "0" * 32))
    assert (await living.post(BODY)).status == 409
    clock.advance(LEASE_S)
    reply = await living.post(BODY)
    assert (reply.status, "idempotent-replayed" in reply.headers) == (200, False)
    assert await counter.spent() == UNARY_COST


@pytest.mark.parametrize("status", [429, 500])
async def test_a_failure_that_cost_nothing_may_be_tried_again(counter: Counter, status: int) -> None:
    worker = await counter.worker()
    for upstream in counter.till.first, counter.till.second:
        upstream.script(error(status))
    failed = await worker.post(BODY)
    assert failed.status in (429, 502)
    again = await worker.post(BODY)
    assert (again.status, "idempotent-replayed" in again.headers) == (200, False)
    assert await counter.spent() == UNARY_COST
    assert (await counter.record(failed)).status_code == failed.status


async def test_without_credit_the_key_is_not_used_up(counter: Counter) -> None:
    worker = await counter.worker()
    await counter.till.top_up(-10_000_000_000)
    assert (await worker.post(BODY)).status == 402
    await counter.till.top_up(10_000_000_000)
    assert (await worker.post(BODY)).status == 200


@pytest.mark.parametrize("held_to", [Restrictions(models=("c/d",)), Restrictions(providers=("another",))])
async def test_what_one_key_may_not_is_told_to_no_other(counter: Counter, held_to: Restrictions) -> None:
    worker = await counter.worker()
    counter.held_to = held_to
    assert [(await worker.post(BODY)).status for _ in range(2)] == [403, 403]
    counter.held_to = Restrictions()
    reply = await worker.post(BODY)
    assert (reply.status, "idempotent-replayed" in reply.headers) == (200, False)
    counter.held_to = held_to
    assert (await worker.post(BODY)).headers["idempotent-replayed"] == "true"
    assert await counter.spent() == UNARY_COST


@pytest.mark.parametrize(
    ("body", "status"), [({**BODY, "nonsense": 1}, 400), ({**BODY, "model": "a/none"}, 404), (b"{", 400)]
)
async def test_a_refusal_of_the_request_itself_is_told_again(counter: Counter, body: Any, status: int) -> None:
    worker = await counter.worker()
    first, again = await worker.post(body), await worker.post(body)
    assert first.status == status
    assert shown(again) == shown(first)
    assert again.headers["idempotent-replayed"] == "true"
    assert (await counter.record(first)).status_code == status


async def test_after_a_day_a_key_is_a_new_one(counter: Counter, clock: ManualClock) -> None:
    worker = await counter.worker()
    await worker.post(BODY)
    clock.advance(RETENTION_S)
    reply = await worker.post(STREAM)
    assert (reply.status, "idempotent-replayed" in reply.headers) == (200, False)


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["unary", "stream"])
async def test_what_is_too_large_is_told_once(counter: Counter, body: dict[str, Any]) -> None:
    worker = await counter.worker(max_kept_bytes=50)
    first = await worker.post(body)
    assert first.status == 200
    assert b"there!" in first.body
    again = await worker.post(body)
    assert (again.status, again.json["reason"]) == (409, "outcome_not_kept")
    assert await counter.spent() == UNARY_COST


@pytest.mark.parametrize("key", ["", " ", "a b", "é", "x" * 256, "a\n", "\x7f"])
async def test_what_is_no_key_is_refused_by_name(counter: Counter, key: str) -> None:
    reply = await (await counter.worker()).post(BODY, key=key)
    assert (reply.status, reply.json["reason"]) == (400, "invalid_value")
    assert reply.json["param"] == "Idempotency-Key"
    assert counter.upstream.requests == []


async def test_the_longest_key_and_every_character_of_keys(counter: Counter) -> None:
    worker = await counter.worker()
    for key in ("x" * 255, "".join(map(chr, range(0x21, 0x7F)))):
        assert shown(await worker.post(BODY, key=key)) == shown(await worker.post(BODY, key=key))
    assert await counter.spent() == 2 * UNARY_COST


async def test_no_more_is_carried_out_at_a_time_than_stated(counter: Counter) -> None:
    worker, gate = await counter.worker(max_runs=1), Gate()
    counter.upstream.script([Do(gate.wait), *chat_unary()])
    first = asyncio.create_task(worker.post(BODY))
    await gate.reached.wait()
    full = await worker.post(BODY, key="key-2")
    assert (full.status, full.json["reason"], full.headers["retry-after"]) == (503, "overloaded", "1")
    gate.open()
    assert (await first).status == 200
    assert (await worker.post(BODY, key="key-2")).status == 200


async def test_a_worker_that_stops_ends_what_nobody_waits_for(counter: Counter) -> None:
    worker, gate = await counter.worker(), Gate()
    counter.upstream.script(words("Hello", gate, " there"))
    response = await worker.send(STREAM)
    assert not isinstance(response.body, bytes)
    await anext(aiter(response.body))
    await response.body.aclose()
    counter.till.shutdown.begin()
    await worker.stop()
    assert await counter.spent() == 0, "what the gateway itself cuts off is not charged"
    gate.open()


async def test_a_worker_that_stops_lets_be_finished_what_can_be(counter: Counter) -> None:
    worker, gate = await counter.worker(), Gate()
    counter.upstream.script(words("Hello", gate, " there"))
    await worker.send(STREAM)
    stopping = asyncio.create_task(worker.stop())
    gate.open()
    await stopping
    again = await (await counter.worker()).post(STREAM)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.body.endswith(b"data: [DONE]\n\n")
    assert await counter.spent() == STREAM_COST


async def test_what_is_cut_off_after_it_cost_something_is_not_done_again(counter: Counter) -> None:
    """The last resort of a stop: no answer, and no second charge either."""
    worker, gate = await counter.worker(), Gate()
    counter.upstream.script(words("Hello", gate, " there"))
    response = await worker.send(STREAM)
    assert not isinstance(response.body, bytes)
    await anext(aiter(response.body))
    await worker.stop(grace_s=0.0)
    spent = await counter.spent()
    assert spent > 0
    reply = await (await counter.worker()).post(STREAM)
    assert (reply.status, reply.json["reason"]) == (409, "outcome_not_kept")
    assert await counter.spent() == spent
    gate.open()


async def test_a_speech_that_broke_off_is_charged_once(counter: Counter) -> None:
    """Its bytes can tell of no error, so that there is no answer to repeat; and no second charge either."""
    current = counter.till.current
    prices = PriceList({"input_characters": 15_000_000_000})
    offers = tuple(
        Offer(provider, "tts-1", frozenset({Endpoint.AUDIO}), prices=prices, output_types=frozenset({"audio"}))
        for provider in current.providers.values()
    )
    counter.till.current = replace(current, models={"a/tts": Model("a/tts", offers)})
    worker, gate = await counter.worker(), Gate()
    counter.upstream.script(speech(b"a" * 1000, Do(gate.wait), end=Reset()))
    for upstream in (counter.till.first, counter.till.second):
        upstream.default = speech()
    asked = {"model": "a/tts", "input": "x" * 200, "voice": "alloy"}
    response = await worker.send(asked, path="/v1/audio/speech")
    assert response.status == 200
    assert not isinstance(response.body, bytes)
    await anext(aiter(response.body))
    gate.open()
    with pytest.raises(GatewayError) as broken:
        await read(response)
    assert broken.value.reason is Reason.STREAM_INTERRUPTED
    assert await counter.spent() == 200 * 15_000
    again = await worker.post(asked, path="/v1/audio/speech")
    assert await counter.spent() == 200 * 15_000
    assert (again.status, again.json["reason"]) == (409, "outcome_not_kept")
    assert [len(upstream.requests) for upstream in (counter.till.first, counter.till.second)] == [1, 0]


async def test_who_waited_for_a_failure_elsewhere_tries_it_himself(counter: Counter) -> None:
    busy, other, gate = await counter.worker(), await counter.worker(), Gate()
    counter.upstream.script([Do(gate.wait), *error(500)])
    counter.till.second.script(error(500))
    first = asyncio.create_task(busy.post(BODY))
    await gate.reached.wait()
    second = asyncio.create_task(other.post(BODY))
    gate.open()
    assert (await first).status == 502
    reply = await second
    assert (reply.status, "idempotent-replayed" in reply.headers) == (200, False)
    assert await counter.spent() == UNARY_COST


async def test_who_leaves_while_another_worker_is_at_it_leaves_nothing_behind(
    counter: Counter, clock: ManualClock
) -> None:
    dead, living = await counter.worker(), await counter.worker()
    claim = Claim(counter.team_id, "key-1", dead.fingerprint(BODY), "0" * 32)
    await dead.store.begin(claim)
    waiting = asyncio.create_task(living.post(BODY))
    while living.runner.under_way == 0:  # noqa: ASYNC110 - it begins in the next turn of the loop
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    clock.advance(LEASE_S)
    await living.stop()
    assert living.runner.under_way == 0
    assert counter.upstream.requests == []
    assert await (await counter.worker()).store.look(claim) is None


async def test_a_key_whose_taking_was_not_answered_is_free_elsewhere(counter: Counter) -> None:
    """The worker that took it without knowing lives, so that nobody else would take the key from it."""
    database = counter.loses_answers()
    unsure, other = await counter.worker(database=database), await counter.worker(max_wait_s=20.0)
    database.loses = True
    lost = await unsure.post(BODY)
    assert (lost.status, lost.json["reason"]) == (503, "database_unavailable")
    assert counter.upstream.requests == []
    again = asyncio.create_task(other.post(BODY))
    async with asyncio.timeout(30):
        while not (database.asked or again.done()):  # noqa: ASYNC110 - until it was tried in vain
            await asyncio.sleep(0.01)
    database.away = False
    reply = await again
    assert (reply.status, "idempotent-replayed" in reply.headers) == (200, False)
    assert shown(await unsure.post(BODY)) == shown(reply)
    assert len(counter.upstream.requests) == 1
    assert await counter.spent() == UNARY_COST


async def test_what_is_unsure_keeps_no_worker_from_stopping(counter: Counter) -> None:
    database = counter.loses_answers()
    unsure = await counter.worker(database=database)
    database.loses = True
    for number in range(3):
        assert (await unsure.post(BODY, key=f"key-{number}")).status == 503
    async with asyncio.timeout(30):
        await unsure.stop(grace_s=60.0)
    assert unsure.runner.under_way == 0
