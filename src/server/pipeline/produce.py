"""What all work that is no generation has in common: one result, and the account of it."""

from __future__ import annotations

from contextlib import aclosing
from typing import TypeVar

from server.domain.audio import Transcript
from server.domain.embedding import Embeddings
from server.domain.errors import internal_error
from server.domain.events import Produced, Settled
from server.domain.identity import Call
from server.domain.images import Images
from server.domain.moderation import Moderations
from server.domain.ports import Generate
from server.domain.work import Work

ResultT = TypeVar("ResultT", Embeddings, Moderations, Images, Transcript)


async def produce(generate: Generate, call: Call, request: Work, kind: type[ResultT]) -> tuple[ResultT, Settled]:
    """The result of that kind; it is paid for and on record when this returns. Raises GatewayError."""
    result: object = None
    settled: Settled | None = None
    async with aclosing(generate(call, request)) as batches:
        async for batch in batches:
            for event in batch:
                match event:
                    case Produced():
                        result = event.result
                    case Settled():
                        settled = event
                    case _:
                        pass
    if settled is None or not isinstance(result, kind):
        raise internal_error()
    return result, settled
