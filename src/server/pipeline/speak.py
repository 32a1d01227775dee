"""Speech: a text read aloud, by the same way through the pipeline as everything else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeAlias

from server.domain.audio import SpeechRequest
from server.domain.errors import internal_error
from server.domain.events import AudioDelta, Settled
from server.domain.identity import Call
from server.domain.ports import Generate

__all__ = ["Sound", "Speak"]

Sound: TypeAlias = AsyncGenerator[Sequence[AudioDelta | Settled], None]
"""Pieces of sound, none of the batches empty, and at the end the account of it. The first has sound in it."""


class Speak:
    """Has texts read aloud. Nothing is held back: the sound is read from its provider as fast as it is taken here."""

    def __init__(self, generate: Generate) -> None:
        self._generate = generate

    async def __call__(self, call: Call, request: SpeechRequest) -> Sound:
        """Raises GatewayError."""
        has_sound = False
        async with aclosing(self._generate(call, request)) as batches:
            async for batch in batches:
                told = tuple(event for event in batch if isinstance(event, AudioDelta | Settled))
                if not told:
                    continue
                has_sound = has_sound or isinstance(told[0], AudioDelta)
                if not has_sound:
                    raise internal_error()
                yield told
