"""`openai`: embeddings and moderations, by the synchronous and the asynchronous client."""

from __future__ import annotations

import math
from typing import Any

import openai
import pytest

from tests.e2e.conformance.both import got
from tests.e2e.conformance.cases import LOCAL_EMBEDDINGS, LOCAL_MODERATION, shows
from tests.e2e.upstreams import UpstreamThread

ACME = "acme/embeddings-only:free"
RUDE, KIND = "You are a stupid idiot, I will kill you.", "What a lovely morning it is."
PICTURE: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


@shows("openai", "embeddings.create")
async def test_in_base64_and_in_floats_they_are_the_same(client: Any) -> None:
    """The SDK asks for base64 where its user says nothing, and decodes it."""
    asked = {"model": LOCAL_EMBEDDINGS, "input": "One small step."}
    unsaid = (await got(client.embeddings.create(**asked))).data[0].embedding
    floats = (await got(client.embeddings.create(**asked, encoding_format="float"))).data[0].embedding
    assert isinstance((await got(client.embeddings.create(**asked, encoding_format="base64"))).data[0].embedding, str)
    assert len(unsaid) == len(floats) == 576
    assert unsaid == pytest.approx(floats, abs=1e-7)
    assert math.hypot(*floats) == pytest.approx(1, abs=1e-5)


@shows("openai", "embeddings.create")
async def test_several_texts_in_their_order(client: Any) -> None:
    texts = ["one", "two", "three"]
    together = await got(client.embeddings.create(model=LOCAL_EMBEDDINGS, input=texts))
    assert [one.index for one in together.data] == [0, 1, 2]
    last = (await got(client.embeddings.create(model=LOCAL_EMBEDDINGS, input=texts[-1]))).data[0].embedding
    assert together.data[2].embedding == pytest.approx(last, abs=1e-4)
    assert together.usage.total_tokens == together.usage.prompt_tokens > 0


@shows("openai", "embeddings.create")
async def test_lists_of_tokens_reach_the_provider(client: Any, acme: UpstreamThread) -> None:
    made = await got(client.embeddings.create(model=ACME, input=[[1, 2], [3]], user="someone"))
    assert len(made.data) == 2
    assert acme.requests[0].json["input"] == [[1, 2], [3]]


@shows("openai", "embeddings.create", refused=True)
async def test_dimensions_of_a_model_that_has_one_length_only(client: Any, record_property: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await got(client.embeddings.create(model=LOCAL_EMBEDDINGS, input="one", dimensions=64))
    said = refused.value.response.json()
    record_property("refusal", said["description"])
    assert said["param"] == "dimensions"


@shows("openai", "moderations.create")
async def test_a_text_and_several(client: Any) -> None:
    one = await got(client.moderations.create(model=LOCAL_MODERATION, input=RUDE))
    assert one.id.startswith("modr-")
    assert one.results[0].flagged
    assert one.results[0].categories.harassment
    assert one.results[0].category_scores.harassment > 0.5
    assert one.results[0].category_applied_input_types.harassment == ["text"]
    several = await got(client.moderations.create(model=LOCAL_MODERATION, input=[KIND, RUDE]))
    assert [result.flagged for result in several.results] == [False, True]


@shows("openai", "moderations.create")
async def test_without_a_model(client: Any) -> None:
    """The gateway takes one that is free, and says which."""
    judged = await got(client.moderations.create(input=RUDE))
    assert judged.model.endswith(":free")
    assert len(judged.results) == 1


@shows("openai", "moderations.create", refused=True)
async def test_a_picture_for_a_model_that_cannot_see(client: Any, record_property: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await got(client.moderations.create(model=LOCAL_MODERATION, input=[PICTURE]))
    record_property("refusal", refused.value.response.json()["description"])
