"""The floor: a worker that sends every body back at once, on grpc.aio as bare as it gets, with the gateway's options.

    python -m bench.echo_worker <unix socket>

It answers on the REST methods of the gateway's own protos, so that Envoy runs exactly the configuration that it has in
front of the gateway. Messages pass as bytes: an HttpBody goes back as it came. A request for a stream gets paced events
of its own: what they cost is what an event costs at least on this way, whoever makes it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import uvloop
from google.api.httpbody_pb2 import HttpBody  # type: ignore[import-untyped]  # the package has no stubs

from bench.stack import PACED_MS, STREAM_EVENTS
from server.hosts.grpc_aio import OPTIONS

SERVICE = "aistats.gateway.v1.ChatRestService"
EVENT = (
    b'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1790000000,'
    b'"model":"bench/paced:free","choices":[{"index":0,"delta":{"content":"@"},"logprobs":null,"finish_reason":null}]}\n\n'
)


async def echo(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:
    if b'"stream": true' not in request:
        yield request
        return
    yield HttpBody(content_type="text/event-stream", data=b": begun\n\n").SerializeToString()
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    for _ in range(STREAM_EVENTS):
        due_s += PACED_MS / 1000
        await asyncio.sleep(due_s - loop.time())
        text = EVENT.replace(b"@", b"@%017.6f" % time.monotonic())
        yield HttpBody(data=text).SerializeToString()


async def serve(socket_path: str) -> None:
    server = grpc.aio.server(options=OPTIONS)
    handlers: dict[str, Any] = {"CreateChatCompletion": grpc.unary_stream_rpc_method_handler(echo)}
    server.add_registered_method_handlers(SERVICE, handlers)
    server.add_insecure_port(f"unix:{socket_path}")
    await server.start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await server.stop(1.0)


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
