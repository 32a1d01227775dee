"""What a generation of the Gemini API costs, from its bytes to the wallet: no token is charged twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.domain.errors import GatewayError, Reason
from tests.fakes.gemini_wire import blocked, candidate, reply, stream, unary, usage, whole_reply
from tests.integration.databases import migrated
from tests.integration.gemini_stage import PAID, Stage, stage

IN, READ, HEARD, OUT, SPOKEN = (
    "input_text_tokens", "cached_read_text_tokens", "input_audio_tokens", "output_text_tokens", "output_audio_tokens",
)  # fmt: skip
NANOS = {IN: 2_000, READ: 200, HEARD: 3_000, OUT: 12_000, SPOKEN: 20_000}
"""Of one token."""

both_ways = pytest.mark.parametrize("streaming", [True, False])


@pytest.fixture
async def scene(sqlite_url: str) -> AsyncIterator[Stage]:
    async with migrated(sqlite_url) as database, stage(database) as made:
        yield made


async def charged(scene: Stage, streaming: bool, *snapshots: dict[str, Any]) -> dict[str, int]:
    """By dimension the quantities that were charged, once what they cost has left the wallet."""
    last = len(snapshots) - 1
    if streaming:
        chunks = [
            reply(candidate("Hi", finish="STOP" if number == last else None), counted=counted)
            for number, counted in enumerate(snapshots)
        ]
        scene.upstream.script(stream(*chunks))
    else:
        scene.upstream.script(unary("Hi", counted=snapshots[last]))
    call = scene.counter.call()
    await scene.counter.run(call, scene.counter.request(stream=streaming, model=PAID))
    record = await scene.counter.settled(call)
    assert record.usage is not None
    assert record.usage.source == "provider"
    assert record.usage.pricing is not None
    lines = {line.dimension: line.quantity for line in record.usage.pricing.lines}
    assert await scene.counter.spent() == sum(NANOS[name] * quantity for name, quantity in lines.items())
    return lines


@both_ways
@pytest.mark.parametrize(
    ("counted", "lines"),
    [
        (usage(9, 3), {IN: 9, OUT: 3}),
        (usage(9, 3, thoughts=20), {IN: 9, OUT: 23}),
        (usage(9, 23, thoughts=20, totalTokenCount=32), {IN: 9, OUT: 23}),
        (usage(1000, 3, cached=800), {IN: 200, READ: 800, OUT: 3}),
        (usage(1000, 3, tool_use=50), {IN: 1050, OUT: 3}),
        (usage(1000, 3, audio_in=600), {IN: 400, HEARD: 600, OUT: 3}),
        (usage(10, 85, audio_out=47), {IN: 10, OUT: 38, SPOKEN: 47}),
        (
            usage(1000, 50, thoughts=20, cached=300, tool_use=50, audio_in=600, audio_out=30),
            {IN: 150, READ: 300, HEARD: 600, OUT: 40, SPOKEN: 30},
        ),
        (usage(9, None, thoughts=20), {IN: 9, OUT: 20}),
    ],
    ids=["plain", "thoughts", "thoughts inside", "cached", "tool use", "heard", "u12 spoken", "all", "only thoughts"],
)
async def test_u14_each_token_has_one_line_whole_and_streamed(
    scene: Stage, streaming: bool, counted: dict[str, Any], lines: dict[str, int]
) -> None:
    assert await charged(scene, streaming, counted) == lines


@pytest.mark.parametrize(("before", "after"), [(169, 79), (55, 257)])
async def test_snapshots_are_not_added_up(scene: Stage, before: int, after: int) -> None:
    snapshots = (usage(before, 1), usage(before, 2, thoughts=7), usage(after, 3, thoughts=7))

    assert await charged(scene, True, *snapshots) == {IN: after, OUT: 10}


@both_ways
async def test_a_blocked_prompt_costs_nothing(scene: Stage, streaming: bool) -> None:
    scene.upstream.script(stream(blocked()) if streaming else whole_reply(blocked()))
    call = scene.counter.call()

    with pytest.raises(GatewayError) as refused:
        await scene.counter.run(call, scene.counter.request(stream=streaming, model=PAID))

    assert refused.value.reason is Reason.CONTENT_POLICY_VIOLATION
    await scene.counter.settled(call)
    assert await scene.counter.spent() == 0


async def test_s2_a_stream_that_is_cut_is_charged_as_far_as_it_was_told(scene: Stage) -> None:
    chunks = [reply(candidate("Hello", finish=None), counted=usage(9, made)) for made in (1, 2)]
    scene.upstream.script(stream(*chunks))
    call = scene.counter.call()

    with pytest.raises(GatewayError):
        await scene.counter.run(call, scene.counter.request(model=PAID))

    record = await scene.counter.settled(call)
    assert record.usage is not None
    assert await scene.counter.spent() == record.cost_nanos > 0


@both_ways
async def test_u4_an_answer_that_came_to_nothing_is_charged_as_the_provider_does(scene: Stage, streaming: bool) -> None:
    ended = reply(candidate("Let me", finish="MALFORMED_FUNCTION_CALL"), counted=usage(9, 5))
    scene.upstream.script(stream(ended) if streaming else whole_reply(ended))
    call = scene.counter.call()

    with pytest.raises(GatewayError) as refused:
        await scene.counter.run(call, scene.counter.request(stream=streaming, model=PAID))

    assert refused.value.failures[0].upstream.code == "MALFORMED_FUNCTION_CALL"
    await scene.counter.settled(call)
    assert await scene.counter.spent() == 9 * NANOS[IN] + 5 * NANOS[OUT]
