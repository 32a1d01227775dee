"""What is kept of a response, so that it can be read back and continued."""

from __future__ import annotations

import msgspec

from server.domain.request import Turn


class StoredResponse(msgspec.Struct, frozen=True):
    """`turns` is the whole conversation, the reply included; `body` the response object exactly as it was sent (JSON).

    `created_at` is in seconds since 1970. `instructions` of a request are not part of the conversation.
    """

    suffix: str
    team_id: str
    created_at: int
    turns: tuple[Turn, ...]
    body: bytes
