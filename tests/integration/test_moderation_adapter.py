"""Moderation by the openai dialect, over real sockets: what goes out in how many calls, whose categories come back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from server.clock import SystemClock, UuidV7
from server.domain.catalog import Offer, Provider
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.events import Produced, ProviderEvent, Started, UsageReported
from server.domain.moderation import CATEGORIES, Content, ModerationRequest, Moderations, Verdict
from server.domain.request import Endpoint, Image, Text
from server.providers.openai import OpenAIAdapter
from server.providers.openai_moderations import TEXTS_PER_CALL
from server.transport import Transport
from tests.fakes.moderation_wire import (
    MISTRAL_2411,
    MISTRAL_2603,
    judging,
    mistral_moderation,
    openai_moderation,
    openai_result,
    saying,
)
from tests.fakes.openai_upstream import Upstream, error, json_reply, whole

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"


class Bench:
    def __init__(self, upstream: Upstream, transport: Transport) -> None:
        self.upstream = upstream
        self._adapter = OpenAIAdapter(transport, SystemClock(), UuidV7())

    async def events(self, *inputs: Content, context_length: int | None = None) -> list[ProviderEvent]:
        provider = Provider("acme", "openai", self.upstream.base_url, api_key="sk-upstream")
        offer = Offer(provider, "omni-1", frozenset({Endpoint.MODERATIONS}), context_length=context_length)
        request = ModerationRequest(endpoint=Endpoint.MODERATIONS, model="acme/omni", inputs=inputs)
        assert self._adapter.supports(offer, request) is None
        seen: list[ProviderEvent] = []
        async with aclosing(self._adapter.stream(offer, request)) as batches:
            async for batch in batches:
                seen += batch
        return seen

    async def judge(self, *inputs: Content, context_length: int | None = None) -> tuple[Verdict, ...]:
        events = await self.events(*inputs, context_length=context_length)
        (result,) = (event.result for event in events if isinstance(event, Produced))
        assert isinstance(result, Moderations)
        return result.verdicts


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Upstream() as upstream, Transport() as transport:
        yield Bench(upstream, transport)


def text(*words: str) -> Content:
    return tuple(Text(word) for word in words)


async def test_texts_go_in_one_call_and_their_verdicts_keep_their_order(bench: Bench) -> None:
    bench.upstream.script(saying("idiot"))
    kind, rude = await bench.judge(text("Hello."), text("You idiot."))
    (sent,) = bench.upstream.requests
    assert (sent.path, sent.json) == ("/v1/moderations", {"model": "omni-1", "input": ["Hello.", "You idiot."]})
    assert sent.header("authorization") == "Bearer sk-upstream"
    assert (kind.flagged, rude.flagged, rude.found, rude.scores["harassment"]) == (False, True, ("harassment",), 0.97)
    assert tuple(rude.categories) == tuple(rude.scores) == CATEGORIES
    assert set(rude.applied.values()) == {("text",)}


async def test_a_picture_goes_with_its_text_and_says_where_it_was_looked_at(bench: Bench) -> None:
    bench.upstream.script(saying("never"))
    content = (Text("What is this?"), Image(data=PIXEL, media_type="image/png"))
    (verdict,) = await bench.judge(content)
    assert bench.upstream.requests[0].json["input"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    ]
    assert (verdict.applied["sexual"], verdict.applied["sexual/minors"]) == (("text", "image"), ("text",))


async def test_several_pictures_go_one_by_one_as_a_call_takes_one(bench: Bench) -> None:
    bench.upstream.script(saying("rude"), saying("rude"), saying("rude"))
    content = (Text("rude"), Image(url="https://a.example/1.png"), Image(url="https://a.example/2.png"))
    (verdict,) = await bench.judge(content)
    sent = [request.json["input"] for request in bench.upstream.requests]
    urls = [[{"type": "image_url", "image_url": {"url": f"https://a.example/{n}.png"}}] for n in (1, 2)]
    assert sent == [["rude"], *urls]
    assert (verdict.flagged, verdict.applied["violence"], verdict.applied["hate"]) == (
        True,
        ("text", "image"),
        ("text",),
    )


async def test_what_a_picture_alone_is_not_judged_by_has_no_types(bench: Bench) -> None:
    bench.upstream.script(saying("never"))
    (verdict,) = await bench.judge((Image(url="https://a.example/1.png"),))
    assert (verdict.applied["illicit"], verdict.scores["illicit"]) == ((), 0.0)


async def test_a_long_text_is_judged_in_pieces_and_is_what_any_of_them_is(bench: Bench) -> None:
    scores = {"first": {"violence": 0.2}, "last": {"violence": 0.9, "hate": 0.3}}
    bench.upstream.default = judging(lambda piece: next((told for word, told in scores.items() if word in piece), {}))
    long = "The first one. " + "A plain sentence. " * 20 + "The last one."
    short, verdict = await bench.judge(text("Short."), text(long), context_length=100)
    calls: list[list[str]] = [request.json["input"] for request in bench.upstream.requests]
    assert all(sum(map(len, sent)) <= 100 for sent in calls)
    sent = [text for call in calls for text in call]
    assert (sent[0], "".join(sent[1:])) == ("Short.", long)
    assert all(len(piece) <= 100 and piece.endswith((". ", ".")) for piece in sent[1:])
    assert (short.flagged, verdict.flagged, verdict.found) == (False, True, ("violence",))
    assert (verdict.scores["violence"], verdict.scores["hate"]) == (0.9, 0.3)


async def test_many_texts_go_in_several_calls_whose_usage_is_told_as_it_grows(bench: Bench) -> None:
    first: list[dict[str, float]] = [{}] * TEXTS_PER_CALL
    rest: list[dict[str, float]] = [{}, {"sexual": 0.8}]
    bench.upstream.script(
        whole(mistral_moderation(MISTRAL_2603, *first, tokens=32)),
        whole(mistral_moderation(MISTRAL_2603, *rest, tokens=2)),
    )
    events = await bench.events(*(text(str(number)) for number in range(TEXTS_PER_CALL + 2)))
    assert [event.usage.input_tokens for event in events if isinstance(event, UsageReported)] == [32, 34]
    (started,) = (event for event in events if isinstance(event, Started))
    assert (started.native_response_id, started.provider_model) == (
        "4d71ae510af942108ef7344f903e2b88", "mistral-moderation-2603",
    )  # fmt: skip
    (result,) = (event.result for event in events if isinstance(event, Produced))
    assert isinstance(result, Moderations)
    assert [verdict.flagged for verdict in result.verdicts] == [False] * (TEXTS_PER_CALL + 1) + [True]


MAPPED = {
    "sexual": "sexual",
    "hate_and_discrimination": "hate",
    "violence_and_threats": "violence",
    "dangerous_and_criminal_content": "illicit",
    "dangerous": "illicit",
    "criminal": "illicit",
    "selfharm": "self-harm",
    "health": "health",
    "financial": "financial",
    "law": "law",
    "pii": "pii",
    "jailbreaking": "jailbreaking",
}


@pytest.mark.parametrize("theirs", sorted(MAPPED))
async def test_each_category_of_mistrals_is_openais_or_keeps_its_name(bench: Bench, theirs: str) -> None:
    names = MISTRAL_2603 if theirs in MISTRAL_2603 else MISTRAL_2411
    bench.upstream.script(whole(mistral_moderation(names, {theirs: 0.75})))
    (verdict,) = await bench.judge(text("something"))
    assert (verdict.flagged, verdict.found, verdict.scores[MAPPED[theirs]]) == (True, (MAPPED[theirs],), 0.75)
    assert set(verdict.categories) == {MAPPED[name] for name in names}, "what it does not look for is left out"
    assert set(verdict.applied.values()) == {("text",)}


async def test_what_was_not_looked_for_is_null_at_openai_and_left_out(bench: Bench) -> None:
    result = openai_result({"hate": 0.9})
    result["categories"] |= {"illicit": None, "illicit/violent": None}
    bench.upstream.script(whole(openai_moderation(result)))
    (verdict,) = await bench.judge(text("something"))
    assert (verdict.found, "illicit" in verdict.categories, "illicit" in verdict.scores) == (("hate",), False, False)


IN_BAND = {"error": {"message": "No.", "type": "server_error"}}
TWO = openai_moderation(openai_result(), openai_result())
NO_VERDICTS = {
    "refused": (error(429, "Slow down.", type="requests"), FailureCategory.RATE_LIMITED),
    "error in a 200": (json_reply(IN_BAND), FailureCategory.SERVER_ERROR),
    "no result": (whole(openai_moderation()), FailureCategory.PROTOCOL),
    "too many": (whole(TWO), FailureCategory.PROTOCOL),
    "no categories": (json_reply({"results": [{"flagged": True}]}), FailureCategory.PROTOCOL),
    "no object": (json_reply({"results": ["flagged"]}), FailureCategory.PROTOCOL),
    "an array": (json_reply([1]), FailureCategory.PROTOCOL),
    "no JSON": (whole(b"{"), FailureCategory.PROTOCOL),
    "a stream": (whole(b"data: {}\n\n", content_type="text/event-stream"), FailureCategory.PROTOCOL),
}


@pytest.mark.parametrize("case", list(NO_VERDICTS))
async def test_what_is_no_verdict_is_never_taken_for_one(bench: Bench, case: str) -> None:
    reply, category = NO_VERDICTS[case]
    bench.upstream.script(reply)
    with pytest.raises(ProviderFailure) as raised:
        await bench.judge(text("something"))
    assert raised.value.category is category


async def test_strange_scores_do_no_harm(bench: Bench) -> None:
    for score in (None, 10**400):
        told = {"categories": {"hate": True, "law": "yes"}, "category_scores": {"hate": score, "sexual": 1}}
        bench.upstream.script(json_reply({"results": [told]}))
        (verdict,) = await bench.judge(text("something"))
        assert verdict == Verdict(True, {"hate": True}, {"hate": 1.0}, {"hate": ("text",)})
