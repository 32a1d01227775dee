"""Every table, as SQLAlchemy Core sees it. `migrations/` makes them; a test compares the two.

Times are whole seconds since 1970, UTC. JSON is kept as bytes: it is read back exactly, and PostgreSQL's text type
would refuse some of what a client may send.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, LargeBinary, MetaData, Table, Text, false

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

teams = Table(
    "teams",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True, comment="the <kid> of the key"),
    Column("team_id", Text, ForeignKey("teams.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("format", Text, nullable=False, comment="what stands before <kid>: aistats_v1_sk"),
    Column("secret_hash", LargeBinary, nullable=False, comment="SHA-256 of the secret"),
    Column("scopes", Text, nullable=False, comment="separated by one space, in alphabetical order"),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, comment="not valid from this second on"),
    Column("disabled", Boolean, nullable=False, server_default=false()),
    Column("revoked_at", BigInteger),
)

responses = Table(
    "responses",
    metadata,
    Column("suffix", Text, primary_key=True, comment="the <x> of resp_<x>"),
    Column("team_id", Text, ForeignKey("teams.id"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("turns_json", LargeBinary, nullable=False, comment="server.domain.request.Turn, a list"),
    Column("response_json", LargeBinary, nullable=False, comment="server.domain.response.Response"),
    Index("ix_responses_expires_at", "expires_at"),
)
