"""Webhooks: endpoints of teams, events, and their deliveries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

destructive = False

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_WAITS = "state = 'pending'"


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("suffix", sa.Text, nullable=False, comment="the <x> of wh_<x>"),
        sa.Column("team_id", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("events_json", sa.LargeBinary, comment="a list of types; NULL for all"),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("secret", sa.Text, nullable=False, comment="in clear: what is sent is signed with it"),
        sa.Column("previous_secret", sa.Text, comment="signs as well until previous_expires_at"),
        sa.Column("previous_expires_at", sa.BigInteger),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("disabled_reason", sa.Text, comment="gone, failing; NULL where its team did it"),
        sa.Column("failing_since", sa.BigInteger, comment="nothing could be delivered from then on"),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("suffix", name="pk_webhooks"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_webhooks_team_id"),
    )
    op.create_index("ix_webhooks_team_id", "webhooks", ["team_id", "suffix"])
    op.create_table(
        "webhook_events",
        sa.Column("suffix", sa.Text, nullable=False, comment="the <x> of evt_<x>"),
        sa.Column("team_id", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False, comment="the id of what it tells of"),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False, comment="the body of each attempt"),
        sa.PrimaryKeyConstraint("suffix", name="pk_webhook_events"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_webhook_events_team_id"),
    )
    op.create_index("ix_webhook_events_created_at", "webhook_events", ["created_at"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("number", _ID, autoincrement=True, nullable=False, comment="ascending in the order of what happened"),
        sa.Column("webhook_suffix", sa.Text, nullable=False),
        sa.Column("event_suffix", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False, comment="that of its event"),
        sa.Column("state", sa.Text, nullable=False, comment="pending, delivered, dead"),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("queued_ms", sa.BigInteger, nullable=False, comment="in milliseconds: when it was made, or replayed"),
        sa.Column(
            "due_ms", sa.BigInteger, nullable=False, comment="in milliseconds: when to send it, or the lease's end"
        ),
        sa.Column("lease_owner", sa.Text, comment="the worker that sends it now"),
        sa.Column("attempted_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("status", sa.Integer, comment="that the receiver answered last"),
        sa.Column("error", sa.Text, comment="what went wrong last, in one word"),
        sa.PrimaryKeyConstraint("number", name="pk_webhook_deliveries"),
        sa.ForeignKeyConstraint(
            ["webhook_suffix"], ["webhooks.suffix"], name="fk_webhook_deliveries_webhook_suffix", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["event_suffix"], ["webhook_events.suffix"], name="fk_webhook_deliveries_event_suffix", ondelete="CASCADE"
        ),
    )
    op.create_index(
        "uq_webhook_deliveries_event_suffix", "webhook_deliveries", ["event_suffix", "webhook_suffix"], unique=True
    )
    op.create_index("ix_webhook_deliveries_webhook_suffix", "webhook_deliveries", ["webhook_suffix", "number"])
    for name, columns in (("due_ms", ["due_ms"]), ("subject", ["subject", "webhook_suffix", "number"])):
        op.create_index(
            f"ix_webhook_deliveries_{name}",
            "webhook_deliveries",
            columns,
            sqlite_where=sa.text(_WAITS),
            postgresql_where=sa.text(_WAITS),
        )


def downgrade() -> None:
    op.drop_table("webhook_deliveries")
    op.drop_table("webhook_events")
    op.drop_table("webhooks")
