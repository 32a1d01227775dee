"""The upstream side of the wire: a pooled HTTP/1.1 client on the event loop itself, and a reader of event streams.

It knows nothing of any provider. Why it is not one of the libraries: docs/decisions/0003-http-client.md.
"""

from server.transport.client import Transport, UpstreamResponse
from server.transport.resolve import OwnLookups
from server.transport.sse import SseDecoder, SseEvent, sse_batches

__all__ = ["OwnLookups", "SseDecoder", "SseEvent", "Transport", "UpstreamResponse", "sse_batches"]
