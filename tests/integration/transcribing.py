"""Transcription by the openai dialect before a stand-in: files in, transcripts out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec

from server.domain.audio import Transcript, TranscriptionRequest
from server.domain.catalog import Offer, Provider, ProviderProfile
from server.domain.errors import ProviderFailure
from server.domain.events import Completed, Produced, ProviderEvent, Started, TextDelta, UsageReported
from server.domain.fold import Fold
from server.domain.request import Endpoint
from server.domain.usage import Usage
from server.providers.openai import OpenAIAdapter
from server.transport import Transport
from tests.fakes.audio_wire import as_openai_audio
from tests.fakes.openai_upstream import Upstream
from tests.fakes.uploads import BytesUpload
from tests.unit.openai_cases import CountingIds, FixedClock

OPENAI = ProviderProfile()
MISTRAL = ProviderProfile(transcript_formats=False, form_arrays="plain")
NINE_SECONDS = Usage(units={"input_audio_seconds": 9})
TOKENS = Usage(input_tokens=85, output_tokens=11, input_audio_tokens=85)
WAVE = b"RIFF\x24\x00\x00\x00WAVEfmt "


class Bench:
    def __init__(self, upstream: Upstream, transport: Transport) -> None:
        self.upstream = upstream
        self.adapter = OpenAIAdapter(transport, FixedClock(), CountingIds())

    def offer(self, model: str = "whisper-1", profile: ProviderProfile = OPENAI) -> Offer:
        provider = Provider("acme", "openai", self.upstream.base_url, api_key="sk-upstream", profile=profile)
        return Offer(provider, model, frozenset({Endpoint.AUDIO}))

    async def events(
        self, asked: TranscriptionRequest, offer: Offer
    ) -> tuple[list[ProviderEvent], ProviderFailure | None]:
        """What was said, and the failure that ended it. It folds, as what a team has stored does."""
        assert self.adapter.supports(offer, asked) is None
        found: list[ProviderEvent] = []
        fold = Fold()
        try:
            async with aclosing(self.adapter.stream(offer, asked)) as stream:
                async for batch in stream:
                    found += batch
                    fold.add(batch)
        except ProviderFailure as failure:
            return found, failure
        return found, None

    async def heard(
        self, model: str = "whisper-1", profile: ProviderProfile = OPENAI, **asked: Any
    ) -> tuple[Transcript, Usage | None, str]:
        """The transcript, its usage, and what was told of it meanwhile."""
        found, failure = await self.events(request(**asked), self.offer(model, profile))
        assert failure is None, failure
        assert (isinstance(found[0], Started), found[-1]) == (True, Completed())
        (result,) = (event.result for event in found if isinstance(event, Produced))
        assert isinstance(result, Transcript)
        usage = next((event.usage for event in found if isinstance(event, UsageReported)), None)
        return result, usage, text_of(found)

    async def failure(self, **asked: Any) -> ProviderFailure:
        """Of an answer that told nothing."""
        found, failure = await self.events(request(**asked), self.offer())
        assert failure is not None
        assert text_of(found) == ""
        return failure


def request(**asked: Any) -> TranscriptionRequest:
    file = asked.pop("file", None) or BytesUpload(WAVE, filename="talk.wav", media_type="audio/wav")
    times = frozenset(asked.pop("granularities", ()))
    return TranscriptionRequest(endpoint=Endpoint.AUDIO, model="acme/w", file=file, granularities=times, **asked)


def text_of(events: list[ProviderEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def options(**given: Any) -> Mapping[str, Mapping[str, msgspec.Raw]]:
    return {"acme": {name: msgspec.Raw(json.dumps(value).encode()) for name, value in given.items()}}


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    async with Upstream(as_openai_audio) as upstream, Transport() as transport:
        yield Bench(upstream, transport)
