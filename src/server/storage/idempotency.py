"""Idempotency keys: who works on a request that came with one, and what was answered to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, bindparam, update

from server.domain.ledger import Outcome
from server.storage.tables import idempotency_keys

__all__ = ["OutcomeRow", "write_outcomes"]

_encode = msgspec.json.Encoder().encode


class OutcomeRow(msgspec.Struct, frozen=True):
    """An outcome, and the request whose it is: the suffix keeps apart those that had the same key one after another."""

    team_id: str
    suffix: str
    outcome: Outcome


def write_outcomes(connection: Connection, rows: Sequence[OutcomeRow]) -> None:
    """Keep outcomes, within the caller's transaction. A second time changes nothing, and so does a row that is gone."""
    if rows:
        connection.execute(_WRITE, [_values(row) for row in rows])


def _values(row: OutcomeRow) -> dict[str, Any]:
    outcome = row.outcome
    return {
        "its_team": row.team_id,
        "its_key": outcome.key,
        "its_suffix": row.suffix,
        "status": outcome.status,
        "headers_json": _encode(outcome.headers),
        "body": outcome.body,
    }


_WRITE: Final = (
    update(idempotency_keys)
    .where(
        idempotency_keys.c.team_id == bindparam("its_team"),
        idempotency_keys.c.key == bindparam("its_key"),
        idempotency_keys.c.suffix == bindparam("its_suffix"),
        idempotency_keys.c.status.is_(None),
    )
    .values(status=bindparam("status"), headers_json=bindparam("headers_json"), body=bindparam("body"))
)
