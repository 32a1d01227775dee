"""Credit, the record of every request, and what keeps a repeated request from being made twice."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

destructive = False

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_ONCE = {
    "begin": "kind = 'reserve'",
    "end": "kind IN ('settle', 'void', 'expire')",
    "adjust": "kind = 'adjust'",
}


def upgrade() -> None:
    op.add_column(
        "teams",
        sa.Column(
            "store_content", sa.Boolean, nullable=False, server_default=sa.false(), comment="whether prompts are kept"
        ),
    )
    op.add_column(
        "teams", sa.Column("content_days", sa.Integer, nullable=False, server_default="30", comment="for how long")
    )
    op.add_column(
        "teams", sa.Column("on_disconnect", sa.Text, comment="cancel or drain; NULL leaves it to the provider")
    )
    op.add_column(
        "api_keys", sa.Column("limit_nanos", sa.BigInteger, comment="what the key may spend; NULL sets no limit")
    )
    op.add_column("api_keys", sa.Column("limit_reset", sa.Text, comment="daily, weekly, monthly; NULL for never"))
    _create_ledger()
    _create_record()
    op.create_table(
        "idempotency_keys",
        sa.Column("team_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False, comment="SHA-256 of the route and the body"),
        sa.Column("suffix", sa.Text, nullable=False, comment="of the request that came first"),
        sa.Column("worker_id", sa.Text, nullable=False, comment="who works on it, as long as there is no status"),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Integer, comment="of the outcome; NULL while there is none"),
        sa.Column("headers_json", sa.LargeBinary),
        sa.Column("body", sa.LargeBinary),
        sa.PrimaryKeyConstraint("team_id", "key", name="pk_idempotency_keys"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_idempotency_keys_team_id"),
    )
    op.create_index("ix_idempotency_keys_expires_at", "idempotency_keys", ["expires_at"])


def _create_ledger() -> None:
    op.create_table(
        "wallets",
        sa.Column("team_id", sa.Text, nullable=False),
        sa.Column("balance_nanos", sa.BigInteger, nullable=False, comment="the sum of the team's entries"),
        sa.Column("reserved_nanos", sa.BigInteger, nullable=False, comment="the sum of what its entries hold"),
        sa.PrimaryKeyConstraint("team_id", name="pk_wallets"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_wallets_team_id"),
    )
    op.create_table(
        "ledger_entries",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("team_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False, comment="reserve, settle, void, expire, top_up, adjust"),
        sa.Column("reservation_id", sa.Text, comment="the suffix of the request; NULL for what no request caused"),
        sa.Column("key_id", sa.Text),
        sa.Column("balance_nanos", sa.BigInteger, nullable=False, comment="what it adds to the balance"),
        sa.Column("reserved_nanos", sa.BigInteger, nullable=False, comment="what it adds to what is reserved"),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("note", sa.Text),
        sa.Column("reference", sa.Text, comment="the payer's own id of a top-up, so that it counts once"),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_entries"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_ledger_entries_team_id"),
        sa.CheckConstraint(
            "kind IN ('reserve', 'settle', 'void', 'expire', 'top_up', 'adjust')", name="ck_ledger_entries_kind"
        ),
    )
    op.create_index("ix_ledger_entries_team_id", "ledger_entries", ["team_id", "id"])
    op.create_index(
        "uq_ledger_entries_reference",
        "ledger_entries",
        ["team_id", "reference"],
        unique=True,
        sqlite_where=sa.text("reference IS NOT NULL"),
        postgresql_where=sa.text("reference IS NOT NULL"),
    )
    for name, kinds in _ONCE.items():
        op.create_index(
            f"uq_ledger_entries_{name}",
            "ledger_entries",
            ["reservation_id"],
            unique=True,
            sqlite_where=sa.text(kinds),
            postgresql_where=sa.text(kinds),
        )
    op.create_table(
        "workers",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )
    op.create_table(
        "reservations",
        sa.Column("id", sa.Text, nullable=False, comment="the suffix of the request"),
        sa.Column("team_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("worker_id", sa.Text, nullable=False),
        sa.Column("held_nanos", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("opening_json", sa.LargeBinary, nullable=False, comment="server.domain.record.GenerationRecord"),
        sa.PrimaryKeyConstraint("id", name="pk_reservations"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_reservations_team_id"),
    )
    op.create_index("ix_reservations_key_id", "reservations", ["key_id"])


def _create_record() -> None:
    op.create_table(
        "generations",
        sa.Column("suffix", sa.Text, nullable=False, comment="the <x> of gen_<x>"),
        sa.Column("team_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("model_id", sa.Text, nullable=False),
        sa.Column("provider", sa.Text),
        sa.Column("status_code", sa.Integer, nullable=False),
        sa.Column("success", sa.Boolean, nullable=False),
        sa.Column("cost_nanos", sa.BigInteger, nullable=False),
        sa.Column("record_json", sa.LargeBinary, nullable=False, comment="server.domain.record.GenerationRecord"),
        sa.PrimaryKeyConstraint("suffix", name="pk_generations"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_generations_team_id"),
    )
    op.create_index("ix_generations_team_id", "generations", ["team_id", "suffix"])
    op.create_index("ix_generations_created_at", "generations", ["created_at"])
    op.create_table(
        "generation_contents",
        sa.Column("suffix", sa.Text, nullable=False),
        sa.Column("team_id", sa.Text, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("path", sa.Text, nullable=False, comment="the route that the request was sent to"),
        sa.Column("request_json", sa.LargeBinary, comment="as the client sent it; NULL for a typed call"),
        sa.Column("reply_json", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("suffix", name="pk_generation_contents"),
        sa.ForeignKeyConstraint(
            ["suffix"], ["generations.suffix"], name="fk_generation_contents_suffix", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_generation_contents_team_id"),
    )
    op.create_index("ix_generation_contents_expires_at", "generation_contents", ["expires_at"])
    op.create_table(
        "daily_usage",
        sa.Column("team_id", sa.Text, nullable=False),
        sa.Column("day", sa.Integer, nullable=False, comment="days since 1970, UTC"),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("model_id", sa.Text, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_nanos", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("team_id", "day", "key_id", "model_id", "endpoint", "provider", name="pk_daily_usage"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_daily_usage_team_id"),
    )
    op.create_index("ix_daily_usage_key_id", "daily_usage", ["key_id", "day"])


def downgrade() -> None:
    for name in (
        "idempotency_keys",
        "daily_usage",
        "generation_contents",
        "generations",
        "reservations",
        "workers",
        "ledger_entries",
        "wallets",
    ):
        op.drop_table(name)
    for name in ("limit_reset", "limit_nanos"):
        op.drop_column("api_keys", name)
    for name in ("on_disconnect", "content_days", "store_content"):
        op.drop_column("teams", name)
