"""What the HTTP client asks most of an event loop, on the one that the gateway runs on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import uvloop

from server.transport import Transport
from tests.fakes.openai_upstream import Upstream, silent
from tests.integration import test_transport as basics
from tests.integration import test_transport_closing as closing

Scenario = Callable[[Transport, Upstream], Awaitable[None]]

SCENARIOS: dict[str, Scenario] = {
    "reuse": basics.test_a_connection_is_used_again,
    "single bytes": basics.test_a_reply_may_come_in_single_bytes,
    "end by close": basics.test_a_body_may_end_with_its_connection,
    "live events": basics.test_events_come_out_as_they_come_in,
    "large line": basics.test_a_stream_of_one_eight_mebibyte_line_comes_through,
    "endless error": basics.test_an_endless_error_body_costs_what_is_asked_for,
    "cut": basics.test_what_came_before_a_cut_is_given_out_first,
    "cancel before the head": partial(closing.test_cancelling_a_wait_closes_the_socket_at_once, reply=silent),
    "cancel in the body": partial(
        closing.test_cancelling_a_wait_closes_the_socket_at_once, reply=closing.stalled_stream
    ),
    "deadline": closing.test_a_deadline_around_a_read_closes_the_socket_at_once,
    "leave": closing.test_leaving_a_stream_in_the_middle_closes_the_socket_at_once,
    "wake": partial(closing.test_closing_the_client_wakes_who_waits_for_it, reply=closing.stalled_stream),
    "pause": closing.test_a_reader_that_pauses_makes_the_upstream_wait,
    "bounds": closing.test_idle_connections_are_bounded,
    "lost reply": closing.test_a_billable_body_is_not_sent_again_when_its_reply_is_lost,
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_on_uvloop(name: str) -> None:
    async def run() -> None:
        async with Upstream(send_buffer=64 * 1024) as upstream, Transport() as transport:
            await SCENARIOS[name](transport, upstream)

    uvloop.run(run())


@pytest.mark.parametrize(
    "scenario",
    [
        closing.test_idle_connections_that_close_cost_no_error_and_no_second_body,
        closing.test_an_upstream_that_closed_an_idle_connection_once_is_not_tempted_again,
        closing.test_a_thousand_mixed_calls_leave_no_descriptor_behind,
    ],
)
def test_on_uvloop_with_upstreams_of_its_own(scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await scenario()

    uvloop.run(run())
