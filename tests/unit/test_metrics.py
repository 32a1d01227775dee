from __future__ import annotations

import asyncio
import http.client
import socket
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.domain.errors import CODE_OF_REASON, HTTP_STATUS, GatewayError, Reason
from server.domain.health import BreakerHealth, BreakerState, ProviderHealth
from server.domain.identity import Arrival, Call, Principal, Scope
from server.domain.ledger import Hold, Settlement
from server.domain.request import Endpoint
from server.metrics.exposition import CONTENT_TYPE, Reading, render
from server.metrics.figures import Counter, Family, Figure, Histogram, Sampled
from server.metrics.meter import Meter, MeteredLedger, breakers, status_class
from server.metrics.serve import figures_socket, gathered, serving_metrics, telling
from server.pipeline.refusals import refusal
from server.probes import unused_port
from tests.fakes.records import record
from tests.integration.databases import ManualClock

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
CHAT = "/aistats.gateway.v1.ChatRestService/CreateChatCompletion"


def parsed(text: str) -> Samples:
    """As Prometheus' own parser reads it: by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def shown(*figures: Figure, worker: str = "0") -> Samples:
    return parsed(render([Reading(worker, [figure.family() for figure in figures])]))


@pytest.fixture
def meter() -> Meter:
    return Meter(ManualClock())


def test_every_kind_is_read_as_it_was_meant() -> None:
    counter, histogram = Counter("a_total", "A.", "what"), Histogram("b_seconds", "B.", "what", bounds=(0.5, 1.0))
    counter.add(("x",))
    counter.add(("x",), 2**60)
    for value in (0.5, 0.6, 7.0):
        histogram.observe(("y",), value)
    gauge = Sampled("c", "C.", "who", read=lambda: {("one",): 1.5, ("two",): 0})
    assert shown(counter, histogram, gauge) == {
        ("a_total", (("what", "x"), ("worker", "0"))): 2**60 + 1,
        ("b_seconds_bucket", (("le", "0.5"), ("what", "y"), ("worker", "0"))): 1,
        ("b_seconds_bucket", (("le", "1.0"), ("what", "y"), ("worker", "0"))): 2,
        ("b_seconds_bucket", (("le", "+Inf"), ("what", "y"), ("worker", "0"))): 3,
        ("b_seconds_sum", (("what", "y"), ("worker", "0"))): 8.1,
        ("b_seconds_count", (("what", "y"), ("worker", "0"))): 3,
        ("c", (("who", "one"), ("worker", "0"))): 1.5,
        ("c", (("who", "two"), ("worker", "0"))): 0,
    }
    assert f" {2**60 + 1}\n" in render([Reading("0", [counter.family()])])


@pytest.mark.parametrize("label", ['"', "\\", "a\nb", '\\"', "\\n", "é🙂", "}", ",", ""])
def test_a_label_may_hold_anything(label: str) -> None:
    counter = Counter("a_total", "A.", "what")
    counter.add((label,))
    assert shown(counter) == {("a_total", (("what", label), ("worker", "0"))): 1}


def test_the_series_of_a_family_stand_together_whichever_worker_they_are_of() -> None:
    one, two = Counter("a_total", "A."), Counter("b_total", "B.")
    one.add(())
    two.add(())
    families = [one.family(), two.family()]
    lines = render([Reading("0", families), Reading("1", families)]).splitlines()
    assert [line.partition(" ")[0].partition("{")[0] for line in lines] == [
        *("#", "#", "a_total", "a_total", "#", "#", "b_total", "b_total")
    ]


def test_a_settlement_is_counted(meter: Meter) -> None:
    meter.settled(Settlement(record(1, "team", stream=True), held=True, charge_nanos=4200))
    told = parsed(told_by(meter))
    worker = ("worker", "0")
    assert told["aistats_generations_total", (("endpoint", "chat"), ("reason", ""), ("status", "2xx"), worker)] == 1
    attempts = {labels: value for (name, labels), value in told.items() if name == "aistats_attempts_total"}
    assert attempts == {
        (("model", "gone"), ("outcome", "connection"), ("provider", "dead"), worker): 1,
        (("model", "test-1"), ("outcome", "ok"), ("provider", "acme"), worker): 1,
    }
    assert told["aistats_charged_nano_usd_total", (("provider", "acme"), worker)] == 4200
    tokens = {dict(labels)["kind"]: value for (name, labels), value in told.items() if name == "aistats_tokens_total"}
    assert tokens == {"input": 9, "output": 3, "cached_input": 2, "reasoning": 1}
    assert told["aistats_first_token_seconds_sum", (("provider", "acme"), worker)] == pytest.approx(0.2124)
    assert told["aistats_generation_seconds_sum", (("provider", "acme"), worker)] == pytest.approx(1.84)


def test_what_is_not_charged_or_failed_adds_no_money_and_no_latency(meter: Meter) -> None:
    meter.settled(Settlement(record(1, "team", success=False, status_code=502), held=True, charge_nanos=None))
    names = {name for name, _ in parsed(told_by(meter))}
    assert "aistats_attempts_total" in names
    assert not names & {"aistats_charged_nano_usd_total", "aistats_generation_seconds_sum"}


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_class_of_status(reason: Reason) -> None:
    assert status_class(HTTP_STATUS[CODE_OF_REASON[reason]]) in {"4xx", "5xx"}


@pytest.mark.parametrize(("status", "label"), [(200, "2xx"), (499, "4xx"), (0, "other"), (99, "other"), (600, "other")])
def test_the_class_of_a_status(status: int, label: str) -> None:
    assert status_class(status) == label


def test_o1_what_callers_make_up_makes_no_series(meter: Meter) -> None:
    ask(meter, 0)
    first = told_by(meter)
    for number in range(1, 10_000):
        ask(meter, number)
    last = told_by(meter)
    assert parsed(last).keys() == parsed(first).keys()
    assert len(last) < len(first) + 200  # only the numbers have grown
    assert "mine" not in last


def ask(meter: Meter, number: int) -> None:
    """A request for a model that does not exist, and one that names its user and session as nobody did before."""
    call = Call(
        Arrival(f"{number:032x}", f"mine-{number}", 0.0, 0),
        Principal(f"mine-{number}", f"mine-{number}", frozenset(Scope)),
    )
    error = GatewayError(Reason.UNKNOWN_MODEL, f"There is no model mine-{number}.", param="model")
    meter.settled(Settlement(refusal(call, Endpoint.CHAT, error, model=f"mine-{number}"), held=False))
    meter.called(CHAT, 404, Reason.UNKNOWN_MODEL.value, 0.001)
    served = record(number, f"mine-{number}", key_id=f"mine-{number}", request_id=f"mine-{number}")
    meter.settled(Settlement(served, held=True, charge_nanos=4200))
    meter.called(CHAT, 200, "", 0.001)


def told_by(meter: Meter) -> str:
    families = msgspec.json.decode(meter.snapshot(), type=list[Family])
    return render([Reading("0", [family for family in families if not family.name.startswith("process_")])])


async def test_the_loop_tells_its_tasks(meter: Meter) -> None:
    waiting = asyncio.create_task(asyncio.Event().wait())
    assert f'aistats_loop_tasks{{worker="0"}} {len(asyncio.all_tasks())}\n' in told_by(meter)
    waiting.cancel()
    assert 'aistats_python_blocks{worker="0"} ' in told_by(meter)


class Books:
    """A ledger that only remembers."""

    def __init__(self) -> None:
        self.settled: list[Settlement] = []

    async def reserve(self, hold: Hold) -> None:
        raise GatewayError(Reason.INSUFFICIENT_FUNDS, "No.")

    async def settle(self, settlement: Settlement) -> None:
        self.settled.append(settlement)


async def test_a_metered_ledger_is_the_ledger(meter: Meter) -> None:
    books, settlement = Books(), Settlement(record(1, "team"), held=False)
    ledger = MeteredLedger(books, meter)
    await ledger.settle(settlement)
    assert books.settled == [settlement]
    assert "aistats_generations_total{" in told_by(meter)
    with pytest.raises(GatewayError, match="No"):
        await ledger.reserve(Hold(1, settlement.record))


def test_breakers_are_told_by_number() -> None:
    class View:
        def providers(self) -> tuple[ProviderHealth, ...]:
            states: list[BreakerState] = ["closed", "half_open", "open"]
            return tuple(ProviderHealth(state, "ok", breaker=BreakerHealth(state)) for state in states)

    assert breakers(View()) == {("closed",): 0, ("half_open",): 1, ("open",): 2}


async def test_lateness_is_measured(meter: Meter) -> None:
    watching = asyncio.create_task(meter.watch_loop())
    while "aistats_loop_lateness_seconds_count{" not in told_by(meter):  # noqa: ASYNC110 - nothing else tells
        await asyncio.sleep(0.01)
    watching.cancel()


def get(port: int, path: str = "/metrics") -> tuple[int, str, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.getheader("content-type", ""), response.read().decode()


async def test_all_workers_are_read_at_one_port(tmp_path: Path) -> None:
    meters = {str(index): Meter(ManualClock()) for index in range(3)}
    for index, meter in meters.items():
        for _ in range(int(index) + 1):
            meter.called(CHAT, 200, "", 0.001)
    sockets = {index: figures_socket(tmp_path / f"worker-{index}.sock") for index in meters}
    port = unused_port()
    with serving_metrics("127.0.0.1", port, lambda: gathered(sockets)):
        async with telling(sockets["0"], meters["0"].snapshot), telling(sockets["1"], meters["1"].snapshot):
            status, content_type, text = await asyncio.to_thread(get, port)
            assert (status, content_type) == (200, CONTENT_TYPE)
            told = parsed(text)
            assert [told["aistats_worker_up", (("worker", index),)] for index in "012"] == [1, 1, 0]
            calls = (("method", "ChatRestService/CreateChatCompletion"), ("reason", ""), ("status", "2xx"))
            assert [told["aistats_requests_total", (*calls, ("worker", index))] for index in "01"] == [1, 2]
            assert told["process_resident_memory_bytes", (("worker", "0"),)] > 1_000_000
        async with telling(sockets["0"], meters["0"].snapshot):  # started again, where the old socket still lies
            told = parsed((await asyncio.to_thread(get, port))[2])
        assert [told["aistats_worker_up", (("worker", index),)] for index in "012"] == [1, 0, 0]
        assert (await asyncio.to_thread(get, port, "/metrics?x=1"))[0] == 200
        assert (await asyncio.to_thread(get, port, "/"))[0] == 404
    with pytest.raises(ConnectionRefusedError):
        get(port)


async def test_a_worker_that_hangs_or_babbles_only_misses(tmp_path: Path) -> None:
    sockets = {"hung": tmp_path / "hung.stat", "odd": tmp_path / "odd.stat", "well": tmp_path / "well.stat"}
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(sockets["hung"]))
        hung.listen()
        async with telling(sockets["odd"], lambda: b"babble"), telling(sockets["well"], lambda: b"[]"):
            told = parsed(await asyncio.to_thread(gathered, sockets))
    assert told == {("aistats_worker_up", (("worker", name),)): float(name == "well") for name in sockets}


def test_who_asks_and_says_nothing_does_not_keep_others_out() -> None:
    port = unused_port()
    with serving_metrics("127.0.0.1", port, lambda: "a 1\n"):
        with socket.create_connection(("127.0.0.1", port)):
            assert get(port)[2] == "a 1\n"
        assert get(port)[2] == "a 1\n"
