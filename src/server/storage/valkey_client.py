"""One connection to a Valkey or Redis server, in RESP2, with a limit to everything that the server may say."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Final, TypeAlias

from server.storage.valkey_url import ValkeyAddress

__all__ = ["MAX_ITEMS", "Command", "Garbled", "Refused", "Reply", "ValkeyConnection"]

MAX_LINE_BYTES: Final = 64 * 1024
MAX_ITEMS: Final = 1024
"""Elements of one reply."""
MAX_REASON: Final = 200


class Refused(Exception):
    """The server said no. `code` is its first word, as `WRONGPASS`; the text is the server's."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0]


class Garbled(Exception):
    """What came is no reply, or larger than one may be."""


Command: TypeAlias = Sequence[str | bytes | int]
Item: TypeAlias = bytes | int | None
Reply: TypeAlias = Item | list[Item] | Refused


class ValkeyConnection:
    """Whatever `open` and `ask` raise, or a cancellation of them, leaves the connection unusable: `close` it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: ValkeyAddress, tls: ssl.SSLContext | None = None) -> ValkeyConnection:
        """Connect, say who calls and choose the database. Raises as `ask`; Refused holds no password."""
        if address.path:
            streams = await asyncio.open_unix_connection(address.path, limit=MAX_LINE_BYTES)
        else:
            streams = await asyncio.open_connection(address.host, address.port, ssl=tls, limit=MAX_LINE_BYTES)
        connection = cls(*streams)
        try:
            await connection._greet(address)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _greet(self, address: ValkeyAddress) -> None:
        if address.password is not None:
            who = [address.user] if address.user else []
            (answer,) = await self.ask(["AUTH", *who, address.password], largest=0)
            if isinstance(answer, Refused):
                raise Refused(answer.code)  # some servers repeat what they were sent
        if address.database:
            (answer,) = await self.ask(["SELECT", address.database], largest=0)
            if isinstance(answer, Refused):
                raise answer

    async def ask(self, *commands: Command, largest: int) -> list[Reply]:
        """Send commands together, and read a reply to each; no string in them has more than `largest` bytes.

        What the server refuses is a Refused in its place. Raises OSError or EOFError where the connection breaks,
        Refused where it does so with a word why, Garbled for what is no reply.
        """
        self._writer.writelines([_packed(command) for command in commands])
        await self._writer.drain()
        replies: list[Reply] = []
        try:
            while len(replies) < len(commands):
                replies.append(await self._reply(largest))
        except (OSError, EOFError):
            for reply in replies:
                if isinstance(reply, Refused):
                    raise reply from None  # why it hung up
            raise
        return replies

    def close(self) -> None:
        """At once, whatever the other side does."""
        self._writer.transport.abort()

    async def _reply(self, largest: int) -> Reply:
        kind, text = await self._line()
        if kind == b"+":
            return text
        if kind == b"-":
            return Refused("".join(filter(str.isprintable, text[:MAX_REASON].decode(errors="replace"))))
        if kind != b"*":
            return await self._item(kind, text, largest)
        count = _number(text)
        if count > MAX_ITEMS:
            raise Garbled("a reply with too many elements")
        return [await self._item(*await self._line(), largest) for _ in range(count)]

    async def _item(self, kind: bytes, text: bytes, largest: int) -> Item:
        size = _number(text)
        if kind == b":":
            return size
        if kind != b"$":
            raise Garbled("a reply of no known kind")
        if size < 0:
            return None
        if size > largest:
            raise Garbled("a reply that is too long")
        content = await self._reader.readexactly(size + 2)
        return content[:-2]

    async def _line(self) -> tuple[bytes, bytes]:
        try:
            line = await self._reader.readuntil(b"\r\n")
        except asyncio.LimitOverrunError:
            raise Garbled("a line that is too long") from None
        return line[:1], line[1:-2]


def _number(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        raise Garbled("a reply without its length") from None


def _packed(command: Command) -> bytes:
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
