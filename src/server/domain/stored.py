"""What is kept of a response, so that it can be read back and continued."""

from __future__ import annotations

import msgspec

from server.domain.request import Turn
from server.domain.response import Response


class StoredResponse(msgspec.Struct, frozen=True):
    """`turns` is the whole conversation, the reply included; the `instructions` of a request are not part of it.

    `created_at` is in seconds since 1970.
    """

    suffix: str
    team_id: str
    created_at: int
    turns: tuple[Turn, ...]
    response: Response
