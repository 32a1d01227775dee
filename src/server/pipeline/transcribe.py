"""Transcripts: what is said in a file, whole or piece by piece, by the same way through the pipeline as everything."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeAlias

import msgspec

from server.domain.audio import Transcript, TranscriptionRequest
from server.domain.errors import internal_error
from server.domain.events import Produced, Settled, TextDelta
from server.domain.identity import Call
from server.domain.ports import Generate
from server.pipeline.produce import produce

__all__ = ["Transcribe", "Transcribed", "Transcribing"]

Transcribing: TypeAlias = AsyncGenerator[Sequence[TextDelta | Transcript | Settled], None]
"""Text as it is heard, none of the batches empty; at the end all of it, and the account of it."""


class Transcribed(msgspec.Struct, frozen=True):
    """All that was said, and the account of it."""

    transcript: Transcript
    settled: Settled


class Transcribe:
    """Makes transcripts; they are paid for and on record when they are there."""

    def __init__(self, generate: Generate) -> None:
        self._generate = generate

    async def __call__(self, call: Call, request: TranscriptionRequest) -> Transcribed:
        """Raises GatewayError."""
        transcript, settled = await produce(self._generate, call, request, Transcript)
        _check_times(transcript, request)
        return Transcribed(transcript, settled)

    async def stream(self, call: Call, request: TranscriptionRequest) -> Transcribing:
        """Raises GatewayError. Of a provider that tells nothing before the end, the text comes as one piece."""
        transcript: Transcript | None = None
        is_told = False
        async with aclosing(self._generate(call, request)) as batches:
            async for batch in batches:
                told: list[TextDelta | Transcript | Settled] = []
                for event in batch:
                    match event:
                        case TextDelta():
                            is_told = True
                            told.append(event)
                        case Produced(result=Transcript() as transcript):
                            if transcript.text and not is_told:
                                told.append(TextDelta(0, 0, transcript.text))
                        case Settled():
                            if transcript is None:
                                raise internal_error()
                            told += (transcript, event)
                        case _:
                            pass
                if told:
                    yield told


def _check_times(transcript: Transcript, request: TranscriptionRequest) -> None:
    """That a provider which was asked for segments has told some, where there is anything to tell."""
    if "segment" in request.granularities and transcript.text.strip() and not transcript.segments:
        raise internal_error()
