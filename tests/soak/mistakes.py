"""Requests that no provider hears of: refused with what is expected, or never sent to their end."""

from __future__ import annotations

import asyncio
from typing import Final

from tests.chaos.client import GIVE_UP_S
from tests.soak.plan import Mistake

EXPECTED: Final[dict[Mistake, int | None]] = {
    "broken JSON": 400,
    "no such key": 401,
    "no such model": 404,
    "half an upload": None,
}
_BODIES: Final[dict[Mistake, bytes]] = {
    "broken JSON": b'{"model": "chaos/paid", "messages": [',
    "no such model": b'{"model": "chaos/nothing", "messages": [{"role": "user", "content": "hi"}]}',
}
_UPLOAD: Final = b'{"model": "chaos/paid", "messages": [{"role": "user", "content": "' + b"word " * 40_000


async def mistake(kind: Mistake, port: int, key: str, *, rude: bool) -> int | None:
    """The status, or None for who left in the middle of its body, with a reset where `rude`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(GIVE_UP_S):
            body = _BODIES.get(kind, _BODIES["no such model"])
            is_half = kind == "half an upload"
            lines = [
                "POST /v1/chat/completions HTTP/1.1",
                "host: gateway",
                f"authorization: Bearer {'aistats_v1_sk_nobody_secret' if kind == 'no such key' else key}",
                "content-type: application/json",
                f"content-length: {2 * len(_UPLOAD) if is_half else len(body)}",
                "connection: close",
            ]
            writer.write("\r\n".join([*lines, "", ""]).encode() + (_UPLOAD if is_half else body))
            await writer.drain()
            if is_half:
                return None
            reply = await reader.read()
            return int(reply.split(b" ", 2)[1])
    finally:
        writer.transport.abort() if rude else writer.close()
