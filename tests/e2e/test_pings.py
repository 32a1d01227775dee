"""A stream that says nothing for long, behind a proxy that cuts who is silent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from tests.e2e.gateway import Gateway
from tests.e2e.sse_client import SURFACES, Event, EventReader, Surface, streaming, whole
from tests.e2e.tcp_proxy import TcpProxy
from tests.e2e.test_streams import begun
from tests.e2e.upstreams import UpstreamThread
from tests.fakes.chat_wire import frame, text_chunks
from tests.fakes.openai_upstream import Pause
from tests.fakes.replies import chunked


@pytest.mark.slow
def test_pings_keep_a_thinking_stream_from_being_cut(gateway: Gateway, acme: UpstreamThread) -> None:
    acme.script(*[chunked([*begun("Let me think."), Pause(32.0), *frame(text_chunks(" Done."))])] * 3)
    with TcpProxy(gateway.http_port, idle_cut_s=20.0) as proxy, ThreadPoolExecutor() as pool:

        def read(surface: Surface) -> tuple[list[Event], EventReader]:
            with streaming(gateway, surface, url=proxy.url) as reader:
                return list(reader), reader

        def read_by_sdk() -> str:
            with openai.OpenAI(api_key=gateway.key, base_url=f"{proxy.url}/v1", max_retries=0) as client:
                chunks = client.chat.completions.create(
                    model="acme/test-1:free", messages=[{"role": "user", "content": "hi"}], stream=True
                )
                return "".join(piece.choices[0].delta.content or "" for piece in chunks)

        by_sdk = pool.submit(read_by_sdk)
        for surface, (events, reader) in zip(SURFACES, pool.map(read, SURFACES), strict=True):
            assert surface.text(events) == "Let me think. Done."
            assert whole(events)
            assert events[-1].at - events[0].at > 31
            pings = [comment.data for comment in reader.comments]
            assert len(pings) >= 2
            assert set(pings) == {b": ping"}
        assert by_sdk.result() == "Let me think. Done."
        assert proxy.cuts == 0
