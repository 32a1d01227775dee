"""What a player would show of a video."""

from __future__ import annotations

import io

import av


def film(data: bytes) -> tuple[float, int, int, str]:
    """Its length in seconds, by its frames; width, height and codec."""
    with av.open(io.BytesIO(data)) as opened:
        [stream] = opened.streams.video
        frames = sum(1 for _ in opened.decode(stream))
        assert stream.average_rate is not None
        return frames / float(stream.average_rate), stream.width, stream.height, stream.codec_context.name
