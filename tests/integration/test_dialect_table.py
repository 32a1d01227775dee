"""Every surface before every dialect: what is asked on the one reaches the other, and what is said comes back.

A cell is passed, both whole and streamed, or refused by name. `docs/dialects.md` shows the table that results.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, get_args

import anthropic
import openai
import pytest
import pytest_asyncio

from tests.fakes.dialects import REPLIES, DialectName
from tests.fakes.surfaces import Heard, SurfaceName
from tests.fakes.wire import Call, Reply, Request, Send
from tests.integration.databases import migrated
from tests.integration.dialect_stage import Stage, model_of, stage
from tests.integration.dialect_table import (
    ASKED,
    ENDS,
    EVENTS,
    FOLLOW_UP,
    OTHER_ENDS,
    PLAIN,
    REFUSED,
    SAID,
    SAYS_NOTHING,
    SENT,
    SENT_BACK,
    TURNS,
    Feature,
    result_of,
)

together = pytest.mark.asyncio(loop_scope="module")

SURFACES: tuple[SurfaceName, ...] = get_args(SurfaceName)
DIALECTS: tuple[DialectName, ...] = get_args(DialectName)
FEATURES: tuple[Feature, ...] = get_args(Feature)
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
FOLLOWING: list[Any] = [{"role": "user", "content": FOLLOW_UP}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def whole_stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stage, None]:
    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('dialects') / 'gateway.db'}"
    async with migrated(url) as database, stage(database) as made:
        yield made


@pytest.fixture
def at(whole_stage: Stage) -> Stage:
    whole_stage.forget()
    return whole_stage


def cells(*, refused: bool) -> Iterator[Any]:
    for surface in SURFACES:
        for dialect in DIALECTS:
            for feature in FEATURES:
                if ((surface, dialect, feature) in REFUSED) == refused and (feature != "stream" or refused):
                    yield pytest.param(surface, dialect, feature, id=f"{surface}-{dialect}-{feature}")


def answer(dialect: DialectName, feature: Feature, *, stream: bool) -> Reply:
    return REPLIES[dialect](SAID[feature], stream=stream)


@together
@both_ways
@pytest.mark.parametrize(("surface", "dialect", "feature"), list(cells(refused=False)))
async def test_passes(at: Stage, surface: SurfaceName, dialect: DialectName, feature: Feature, stream: bool) -> None:
    said, face, asked = SAID[feature], at.surfaces[surface], dict(ASKED[surface][feature])
    if dialect == "openai":
        asked.pop("include", None)
    at.upstreams[dialect].script(answer(dialect, feature, stream=stream), answer(dialect, "text", stream=stream))

    heard = await face.ask(model_of(dialect), asked, stream=stream)

    assert said_of(at.sent(dialect)) == SENT[dialect].get(feature, PLAIN[dialect])
    assert calls_of(heard) == [(call.name, call.arguments) for call in said.calls]
    if dialect != "gemini":
        assert heard.calls == said.calls
    assert len({call.id for call in heard.calls} - {""}) == len(said.calls)
    assert (heard.text, heard.thought, heard.counted) == (said.text, said.thought, said.counted)
    assert heard.refusal == (said.refusal if dialect != "gemini" else "")
    assert heard.end == OTHER_ENDS.get((surface, dialect, said.end), ENDS[surface].get(said.end))
    if feature in SENT_BACK[dialect]:
        following = face.results(heard.calls, list(map(result_of, said.calls))) if said.calls else FOLLOWING
        conversation = [*asked[face.turns], *heard.turn, *following]
        await face.ask(model_of(dialect), {**asked, face.turns: conversation}, stream=stream)
        assert said_of(at.sent(dialect))[TURNS[dialect]][1:] == SENT_BACK[dialect][feature]


@together
@both_ways
@pytest.mark.parametrize(("surface", "dialect", "feature"), list(cells(refused=True)))
async def test_refused(at: Stage, surface: SurfaceName, dialect: DialectName, feature: Feature, stream: bool) -> None:
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError)) as refused:
        await at.surfaces[surface].ask(model_of(dialect), ASKED[surface][feature], stream=stream)

    told = refused.value.response.json()  # type: ignore[attr-defined]
    assert (told["reason"], told["param"]) == ("unsupported_parameter", REFUSED[surface, dialect, feature])
    assert at.upstreams[dialect].requests == []


@together
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("surface", SURFACES)
async def test_streams(at: Stage, surface: SurfaceName, dialect: DialectName) -> None:
    """The first words are there before the provider has said the last."""
    said, go_on = SAID["stream"], asyncio.Event()
    at.upstreams[dialect].script(held(answer(dialect, "stream", stream=True), go_on, after=b"Hello"))
    kinds, text = [], ""
    async with asyncio.timeout(10), at.surfaces[surface].events(model_of(dialect), ASKED[surface]["stream"]) as events:
        async for kind, piece in events:
            kinds.append(kind)
            text += piece
            if text and not go_on.is_set():
                assert text != said.text
                go_on.set()

    assert at.sent(dialect).get("stream", True) is True
    assert text == said.text
    assert [kind for kind, before in zip(kinds, [None, *kinds], strict=False) if kind != before] == EVENTS[surface]


@together
async def test_a_seal_is_only_promised_where_there_is_one(at: Stage) -> None:
    """A provider by chat completions gives no sealed reasoning, which the Responses surface may ask for."""
    with pytest.raises(openai.BadRequestError) as refused:
        await at.surfaces["responses"].ask(model_of("openai"), ASKED["responses"]["reasoning"], stream=False)

    assert refused.value.response.json()["param"] == "include"


def held(reply: Reply, until: asyncio.Event, *, after: bytes) -> Reply:
    """The reply, with a pause after the first step that says `after`."""
    steps = list(reply)
    place = next(number for number, step in enumerate(steps) if isinstance(step, Send) and after in step.data)

    async def wait(_: Request) -> None:
        await until.wait()

    return [*steps[: place + 1], Call(wait), *steps[place + 1 :]]


def calls_of(heard: Heard) -> list[tuple[str, Any]]:
    return [(call.name, call.arguments) for call in heard.calls]


def said_of(sent: Any) -> Any:
    """A request's body without what says nothing; the arguments of calls as the objects that they are."""
    if isinstance(sent, list):
        return [said_of(value) for value in sent]
    if not isinstance(sent, dict):
        return sent
    return {
        name: json.loads(value) if name == "arguments" else said_of(value)
        for name, value in sent.items()
        if name not in ("model", "stream", "stream_options") and (name, value) not in SAYS_NOTHING
    }


def table() -> str:
    """The table in short, as `docs/dialects.md` shows it."""
    rows = [["", *(f"`{dialect}`" for dialect in DIALECTS)], ["---"] * (len(DIALECTS) + 1)]
    rows += [[f"`{surface}`", *(in_short(surface, dialect) for dialect in DIALECTS)] for surface in SURFACES]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def in_short(surface: SurfaceName, dialect: DialectName) -> str:
    refused = [param for cell, param in REFUSED.items() if cell[:2] == (surface, dialect)]
    passed = f"{len(FEATURES) - len(refused)} pass"
    return ", ".join([passed, *(f"`{param}` is refused" for param in refused)])


def test_the_documentation_shows_this_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "dialects.md"
    assert table() in page.read_text(), table()
