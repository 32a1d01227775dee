"""A provider that finds a prompt too long: who has a longer context is asked next, and nobody else."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from server.domain.catalog import Model
from server.domain.errors import GatewayError, Reason
from tests.fakes.openai_upstream import Reply, error
from tests.integration.test_generate import Bench, account_of, bench, text_of

__all__ = ["bench"]


def too_long() -> Reply:
    return error(400, code="context_length_exceeded")


def lengths(bench: Bench, first: int | None, second: int | None) -> None:
    """The contexts of the two offers, as the catalogue has them."""
    model = bench.current.models["a/b:free"]
    pairs = zip(model.offers, (first, second), strict=True)
    offers = tuple(replace(offer, context_length=length) for offer, length in pairs)
    bench.current = replace(bench.current, models={model.id: Model(model.id, offers)})


async def test_a_longer_context_is_tried_where_a_shorter_one_was_too_short(bench: Bench) -> None:
    lengths(bench, 8_000, 128_000)
    bench.first.script(too_long())
    events = await bench.run()
    assert text_of(events) == "Hello there!"
    assert [row.outcome for row in account_of(events).meta.routing] == ["failed: context_length", "chosen"]


@pytest.mark.parametrize(("first", "second"), [(128_000, 8_000), (8_000, 8_000), (None, 8_000), (8_000, None)])
async def test_what_is_too_long_for_one_is_not_sent_to_another_with_no_more_room(
    bench: Bench, first: int | None, second: int | None
) -> None:
    lengths(bench, first, second)
    bench.first.script(too_long())
    with pytest.raises(GatewayError) as refused:
        await bench.run()
    assert (refused.value.reason, refused.value.origin) == (Reason.CONTEXT_LENGTH_EXCEEDED, "upstream")
    assert bench.second.requests == []


async def test_what_is_too_long_for_all_is_the_callers_error(bench: Bench) -> None:
    lengths(bench, 8_000, 128_000)
    bench.first.script(too_long())
    bench.second.script(too_long())
    with pytest.raises(GatewayError) as refused:
        await bench.run()
    assert refused.value.reason is Reason.CONTEXT_LENGTH_EXCEEDED
    assert len(refused.value.failures) == 2
