"""Embeddings in as many calls as a provider's limits want, a few at a time, put together in the order of the inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from server.domain.catalog import EmbeddingFacts
from server.domain.embedding import EmbeddingRequest, Embeddings
from server.domain.events import Completed, Produced, ProviderEvent, ProviderStream, Started, UsageReported
from server.domain.tokens import count_input
from server.domain.usage import Usage
from server.domain.vectors import Vector, read_vector
from server.providers.exchange import Exchanges, FailureOfReply, Post
from server.providers.openai_errors import protocol_failure
from server.providers.several import as_they_end

__all__ = ["Call", "Reply", "calls", "embed", "in_order", "vectors"]

MAX_AT_ONCE: Final = 4
"""Calls of one request that are under way at a time."""
ARRAYS_AT_ONCE: Final = 512
"""Vectors of one answer where they come as text and nothing else is known: a whole answer must be below 64 MiB."""
BYTES_PER_TOKEN: Final = 2
"""No usual text has more tokens than one for so many bytes of UTF-8, so that no call is over a limit of tokens."""


class Reply(msgspec.Struct, frozen=True):
    """What one call answered, its vectors in the order of its inputs. `usage` is None where it told none."""

    vectors: Sequence[Vector]
    dimensions: int
    usage: Usage | None = None
    started: Started = Started()


class Call(msgspec.Struct, frozen=True):
    """One call. `read` reads its answer, and raises ProviderFailure for what is none."""

    post: Post
    read: Callable[[bytes], Reply]


def calls(request: EmbeddingRequest, facts: EmbeddingFacts) -> Iterator[EmbeddingRequest]:
    """The request in parts that keep within the limits of a call. What is too long for one goes in one of its own."""
    count, tokens = len(request.inputs), facts.max_tokens
    most = facts.max_inputs or (ARRAYS_AT_ONCE if facts.encoding == "float" else count)
    if count <= most and tokens is None:
        yield request
        return
    start, held = 0, 0
    for place in range(count):
        size = 0 if tokens is None else _most_tokens(request.inputs[place])
        if place - start == most or (tokens is not None and place > start and held + size > tokens):
            yield replace(request, inputs=request.inputs[start:place])
            start, held = place, 0
        held += size
    yield replace(request, inputs=request.inputs[start:])


def _most_tokens(given: str | tuple[int, ...]) -> int:
    return len(given.encode()) // BYTES_PER_TOKEN + 1 if isinstance(given, str) else len(given)


async def embed(
    exchanges: Exchanges,
    parts: Sequence[EmbeddingRequest],
    call_for: Callable[[EmbeddingRequest], Call],
    failure_of: FailureOfReply,
) -> ProviderStream:
    """As `ProviderAdapter.stream`, in one call for each of `parts`.

    What all of them used so far is told as they end, and the first failure ends them all.
    """
    if len(parts) == 1:
        only = await _ask(exchanges, call_for(parts[0]), failure_of)
        yield _told(only.started, only.usage, Produced(Embeddings(tuple(only.vectors))), Completed())
        return

    async def ask(part: EmbeddingRequest) -> Reply:
        return await _ask(exchanges, call_for(part), failure_of)

    replies: list[Reply | None] = [None] * len(parts)
    used, begun = Usage(), False
    async with aclosing(as_they_end([partial(ask, part) for part in parts], MAX_AT_ONCE)) as ended:
        async for number, reply in ended:
            replies[number] = reply
            used = _sum(used, reply.usage or _counted(parts[number]))
            yield (UsageReported(used),) if begun else (reply.started, UsageReported(used))
            begun = True
    answered = [reply for reply in replies if reply is not None]
    if len({reply.dimensions for reply in answered}) > 1:
        raise protocol_failure("The provider sent vectors of different lengths.")
    yield (Produced(Embeddings(tuple(vector for reply in answered for vector in reply.vectors))), Completed())


def _told(started: Started, usage: Usage | None, *rest: ProviderEvent) -> list[ProviderEvent]:
    return [started, *(() if usage is None else (UsageReported(usage),)), *rest]


async def _ask(exchanges: Exchanges, call: Call, failure_of: FailureOfReply) -> Reply:
    decoder = _ReplyDecoder(call.read)
    started = Started()
    async with aclosing(exchanges.run(call.post, decoder, failure_of)) as batches:
        async for batch in batches:
            started = next((event for event in batch if isinstance(event, Started)), started)
    assert decoder.reply is not None, "an answer that cannot be read is a failure"
    return replace(decoder.reply, started=started)


class _ReplyDecoder:
    """Reads a whole answer. See `decoding.StreamDecoder`."""

    done = False
    complete = False

    def __init__(self, read: Callable[[bytes], Reply]) -> None:
        self._read = read
        self.reply: Reply | None = None

    def whole(self, body: bytes, out: list[ProviderEvent]) -> None:
        self.reply = self._read(body)
        out.append(self.reply.started)

    def feed(self, event: str | None, data: bytes, out: list[ProviderEvent]) -> None:
        raise protocol_failure("The provider sent a stream where none was asked for.")

    def finish(self, out: list[ProviderEvent]) -> None:
        raise protocol_failure("The provider sent a stream where none was asked for.")


def vectors(raws: Sequence[msgspec.Raw], request: EmbeddingRequest) -> tuple[list[Vector], int]:
    """The vectors of a call and their length, from the JSON of each. Raises ProviderFailure."""
    if len(raws) != len(request.inputs):
        raise protocol_failure(f"The provider sent {len(raws)} vectors for {len(request.inputs)} inputs.")
    read: list[Vector] = []
    lengths: set[int] = set()
    for raw in raws:
        try:
            vector, length = read_vector(raw, request.form)
        except ValueError:
            raise protocol_failure("The provider sent something in the place of a vector that is none.") from None
        read.append(vector)
        lengths.add(length)
    if len(lengths) != 1:
        raise protocol_failure("The provider sent vectors of different lengths.")
    (length,) = lengths
    if request.dimensions not in (None, length):
        raise protocol_failure(f"The provider sent vectors of {length} dimensions, not of {request.dimensions}.")
    return read, length


def in_order(indexes: Sequence[Any]) -> Sequence[int]:
    """Where each entry belongs in the order of the inputs. None of them may say so, or all. Raises ProviderFailure."""
    if all(index is None for index in indexes):
        return range(len(indexes))
    places = {index: place for place, index in enumerate(indexes) if isinstance(index, int)}
    if len(places) != len(indexes) or places.keys() != set(range(len(indexes))):
        raise protocol_failure("The provider numbered its vectors in a way that makes no order.")
    return [places[number] for number in range(len(indexes))]


def _counted(request: EmbeddingRequest) -> Usage:
    return Usage(input_tokens=sum(map(count_input, request.inputs)), source="counted")


def _sum(one: Usage, other: Usage) -> Usage:
    return replace(
        one,
        input_tokens=one.input_tokens + other.input_tokens,
        cached_input_tokens=one.cached_input_tokens + other.cached_input_tokens,
        source="counted" if "counted" in (one.source, other.source) else "provider",
    )
