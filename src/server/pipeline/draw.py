"""Pictures: whole or as they become visible, by the same way through the pipeline as everything else."""

from __future__ import annotations

import msgspec

from server.domain.errors import internal_error
from server.domain.events import GenerationStream, Settled
from server.domain.identity import Call
from server.domain.images import ImageRequest, Images
from server.domain.ports import Generate
from server.pipeline.produce import produce

__all__ = ["Draw", "Drawn"]


class Drawn(msgspec.Struct, frozen=True):
    """At least one picture, and the account of them."""

    images: Images
    settled: Settled


class Draw:
    """Makes pictures and changes them; they are paid for and on record when they are there."""

    def __init__(self, generate: Generate) -> None:
        self._generate = generate

    async def __call__(self, call: Call, request: ImageRequest) -> Drawn:
        """Raises GatewayError."""
        images, settled = await produce(self._generate, call, request, Images)
        if not images.images:
            raise internal_error()
        return Drawn(images, settled)

    def stream(self, call: Call, request: ImageRequest) -> GenerationStream:
        """Unfinished pictures as they come, all that were made, and the account. Raises GatewayError."""
        return self._generate(call, request)
