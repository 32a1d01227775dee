"""A cell of the cross-dialect table: one surface before one dialect, and what must be asked and heard there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, get_args

import anthropic
import openai
import pytest

from tests.dialects.asked import ASKED, FOLLOW_UP, SAID, Feature, result_of
from tests.dialects.heard import ENDS, EVENTS, OTHER_ENDS, REFUSED
from tests.dialects.sent import PLAIN, SAYS_NOTHING, SENT, SENT_BACK, TURNS
from tests.fakes.dialects import REPLIES, DialectName
from tests.fakes.surfaces import Surface, SurfaceName
from tests.fakes.wire import Call, Reply, Request, Send, WireServer

SURFACES: tuple[SurfaceName, ...] = get_args(SurfaceName)
DIALECTS: tuple[DialectName, ...] = get_args(DialectName)
FEATURES: tuple[Feature, ...] = get_args(Feature)
FOLLOWING: list[Any] = [{"role": "user", "content": FOLLOW_UP}]


class Bench:
    """`surfaces` are a team's SDKs; `upstreams` what its gateway calls, one for a dialect."""

    def __init__(self, surfaces: dict[SurfaceName, Surface], upstreams: dict[DialectName, WireServer]) -> None:
        self.surfaces = surfaces
        self.upstreams = upstreams

    def sent(self, dialect: DialectName) -> Any:
        """The body of the upstream's latest request."""
        return self.upstreams[dialect].requests[-1].json

    def forget(self) -> None:
        for upstream in self.upstreams.values():
            upstream.forget()


def model_of(dialect: DialectName) -> str:
    return f"acme/{dialect}:free"


def cells(*, refused: bool) -> Iterator[Any]:
    """Those that pass, or those that are refused; how a stream arrives has a test of its own."""
    for surface in SURFACES:
        for dialect in DIALECTS:
            for feature in FEATURES:
                if ((surface, dialect, feature) in REFUSED) == refused and (feature != "stream" or refused):
                    yield pytest.param(surface, dialect, feature, id=f"{surface}-{dialect}-{feature}")


def answer(dialect: DialectName, feature: Feature, *, stream: bool) -> Reply:
    return REPLIES[dialect](SAID[feature], stream=stream)


async def check_passes(
    at: Bench, surface: SurfaceName, dialect: DialectName, feature: Feature, *, stream: bool
) -> None:
    said, face, asked = SAID[feature], at.surfaces[surface], dict(ASKED[surface][feature])
    if dialect == "openai":
        asked.pop("include", None)
    at.upstreams[dialect].script(answer(dialect, feature, stream=stream), answer(dialect, "text", stream=stream))

    heard = await face.ask(model_of(dialect), asked, stream=stream)

    assert said_of(at.sent(dialect)) == SENT[dialect].get(feature, PLAIN[dialect])
    assert [(call.name, call.arguments) for call in heard.calls] == [(call.name, call.arguments) for call in said.calls]
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


async def check_refused(
    at: Bench, surface: SurfaceName, dialect: DialectName, feature: Feature, *, stream: bool
) -> None:
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError)) as refused:
        await at.surfaces[surface].ask(model_of(dialect), ASKED[surface][feature], stream=stream)

    told = refused.value.response.json()  # type: ignore[attr-defined]
    assert (told["reason"], told["param"]) == ("unsupported_parameter", REFUSED[surface, dialect, feature])
    assert at.upstreams[dialect].requests == []


async def check_streams(at: Bench, surface: SurfaceName, dialect: DialectName) -> None:
    """The first words are there before the provider has said the last."""
    said, go_on = SAID["stream"], asyncio.Event()
    at.upstreams[dialect].script(held(answer(dialect, "stream", stream=True), go_on, after=b"Hello"))
    kinds, text = [], ""
    async with asyncio.timeout(30), at.surfaces[surface].events(model_of(dialect), ASKED[surface]["stream"]) as events:
        async for kind, piece in events:
            kinds.append(kind)
            text += piece
            if text and not go_on.is_set():
                assert text != said.text
                go_on.set()

    assert at.sent(dialect).get("stream", True) is True
    assert text == said.text
    assert [kind for kind, before in zip(kinds, [None, *kinds], strict=False) if kind != before] == EVENTS[surface]


def held(reply: Reply, until: asyncio.Event, *, after: bytes) -> Reply:
    """The reply, with a pause after the first step that says `after`."""
    steps = list(reply)
    place = next(number for number, step in enumerate(steps) if isinstance(step, Send) and after in step.data)

    async def wait(_: Request) -> None:
        await until.wait()

    return [*steps[: place + 1], Call(wait), *steps[place + 1 :]]


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
