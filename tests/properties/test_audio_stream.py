"""Sound and transcripts that come in events, however the network cuts them: all of it, in order, or a failure."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from server.domain.audio import Transcript, TranscriptionRequest
from server.domain.catalog import Provider
from server.domain.errors import FailureCategory, ProviderFailure
from server.domain.events import AudioDelta, Completed, Produced, ProviderEvent, TextDelta
from server.domain.request import Endpoint
from server.providers.decoding import StreamDecoder
from server.providers.openai_speech import SpeechDecoder
from server.providers.openai_transcripts import TranscriptDecoder
from server.transport.sse import SseDecoder
from tests.fakes.replies import compact, sse_event
from tests.fakes.uploads import BytesUpload

PROVIDER = Provider("acme", "openai", "http://acme")
SIZES = st.lists(st.integers(1, 40), min_size=1)


def read(decoder: StreamDecoder, wire: bytes, sizes: list[int]) -> tuple[list[ProviderEvent], ProviderFailure | None]:
    """What is told of these bytes, cut into pieces of these sizes over and over."""
    sse, out, at, turn = SseDecoder(), list[ProviderEvent](), 0, 0
    try:
        while at < len(wire) and not decoder.done:
            size = sizes[turn % len(sizes)]
            for event in sse.feed(wire[at : at + size]):
                decoder.feed(event.event, event.data, out)
            at, turn = at + size, turn + 1
        decoder.finish(out)
    except ProviderFailure as failure:
        return out, failure
    return out, None


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=8), SIZES, st.data())
def test_sound_is_whole_and_in_order_or_was_cut(pieces: list[bytes], sizes: list[int], data: st.DataObject) -> None:
    told = [{"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()} for piece in pieces]
    frames = [sse_event(compact(one)) for one in [*told, {"type": "speech.audio.done"}]]
    wire = b"".join(frames)
    out, failure = read(SpeechDecoder(PROVIDER), wire, sizes)
    heard = [event.data for event in out if isinstance(event, AudioDelta)]
    assert (failure, heard, out[-1]) == (None, pieces, Completed())

    cut = wire[: data.draw(st.integers(0, len(wire) - len(frames[-1])))]
    out, failure = read(SpeechDecoder(PROVIDER), cut, sizes)
    assert failure is not None
    assert (failure.category, Completed() in out) == (FailureCategory.CONNECTION, False)
    heard = [event.data for event in out if isinstance(event, AudioDelta)]
    assert heard == pieces[: len(heard)]


@given(st.lists(st.text(max_size=30), max_size=8), SIZES, st.booleans())
def test_the_pieces_of_a_transcript_are_its_text(pieces: list[str], sizes: list[int], ends_with_text: bool) -> None:
    text = "".join(pieces)
    told = [{"type": "transcript.text.delta", "delta": piece} for piece in pieces]
    end = {"type": "transcript.text.done", **({"text": text} if ends_with_text else {})}
    wire = b"".join(sse_event(compact(one), event=str(one["type"])) for one in [*told, end])
    request = TranscriptionRequest(endpoint=Endpoint.AUDIO, model="a/w", file=BytesUpload(b""), stream=True)
    out, failure = read(TranscriptDecoder(PROVIDER, request), wire, sizes)
    assert failure is None
    assert "".join(event.text for event in out if isinstance(event, TextDelta)) == text
    assert out[-2:] == [Produced(Transcript(text)), Completed()]
