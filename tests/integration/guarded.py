"""A till whose second upstream judges what goes to the first, and what comes from it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.domain.catalog import Catalog, Model, Offer, Provider
from server.domain.events import GenerationEvent, TextDelta
from server.domain.guardrail import Guardrail, Mode
from server.domain.pricing import PriceList
from server.domain.record import GenerationRecord
from server.domain.request import Endpoint, GenerationRequest
from server.pipeline.guard import Guarded
from server.pipeline.moderate import Moderate
from server.storage.database import Database
from server.storage.tables import generations
from tests.fakes.moderation_wire import saying
from tests.integration.money import Till, till

JUDGE, PAID_JUDGE, SEEING_JUDGE = "judge/free:free", "judge/paid", "judge/sees:free"
BAD = "villain"
"""What the judge flags."""


class Guardhouse:
    """`till` is the pipeline; its `generate` is guarded."""

    def __init__(self, counter: Till) -> None:
        self.till = counter
        self.model, self.judge = counter.first, counter.second
        counter.current = self._catalog(counter.current)
        moderate = Moderate(counter.generate, counter)
        self.guarded = Guarded(counter.generate, moderate, counter.clock, counter.ids)
        counter.generate = self.guarded  # type: ignore[assignment]  # another that implements the same port

    def _catalog(self, catalog: Catalog) -> Catalog:
        judge = Provider("judge", "openai", self.judge.base_url)
        moderations = frozenset({Endpoint.MODERATIONS})
        text = frozenset({"text"})
        prices = PriceList({"input_text_tokens": 100_000_000})
        models = {
            JUDGE: Model(JUDGE, (Offer(judge, "omni-1", moderations, input_types=text),)),
            PAID_JUDGE: Model(PAID_JUDGE, (Offer(judge, "omni-2", moderations, prices=prices, input_types=text),)),
            SEEING_JUDGE: Model(SEEING_JUDGE, (Offer(judge, "omni-3", moderations),)),
        }
        only = catalog.models
        paid = msgspec.structs.replace(only["a/b"], offers=only["a/b"].offers[:1])
        free = msgspec.structs.replace(only["a/b:free"], offers=only["a/b:free"].offers[:1])
        return msgspec.structs.replace(
            catalog,
            providers={**catalog.providers, "judge": judge},
            models={"a/b": paid, "a/b:free": free, **models},
        )

    def flag(self, word: str = BAD) -> None:
        """The judge flags texts with this word, until told otherwise."""
        self.judge.default = saying(word)

    def request(
        self, *, input: Mode | None = None, output: Mode | None = None, judge: str | None = JUDGE, stream: bool = True
    ) -> GenerationRequest:
        rail = None if input is None and output is None else Guardrail(input, output, judge)
        return msgspec.structs.replace(self.till.request(stream=stream), guardrail=rail)

    async def records(self, *, of: str | None = None) -> list[GenerationRecord]:
        """Of the verdicts, oldest first; or those made for one generation."""
        query = select(generations.c.record_json).order_by(generations.c.suffix)

        async def work(connection: AsyncConnection) -> list[bytes]:
            return list((await connection.execute(query)).scalars())

        stored = [msgspec.json.decode(row, type=GenerationRecord) for row in await self.till.database.read(work)]
        return [record for record in stored if record.parent_id is not None and of in (None, record.parent_id)]

    def judged(self) -> list[str]:
        """Every text that the judge was sent."""
        return [text for request in self.judge.requests for text in request.json["input"]]


def said(events: list[GenerationEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@asynccontextmanager
async def guardhouse(database: Database) -> AsyncIterator[Guardhouse]:
    async with till(database) as counter:
        house = Guardhouse(counter)
        house.flag()
        yield house
