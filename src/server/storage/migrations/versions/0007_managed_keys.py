"""What keys are held to, their rotation and last use, and the log of who changed what."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

destructive = False

_COLUMNS = (
    ("updated_at", sa.BigInteger, "when it was last changed or rotated"),
    ("last_used_at", sa.BigInteger, "to about a minute"),
    ("previous_hash", sa.LargeBinary, "SHA-256 of the secret before the last rotation"),
    ("previous_expires_at", sa.BigInteger, "that one is not valid from this second on"),
    ("allowed_models", sa.Text, "ids and patterns, parted by spaces; NULL for all"),
    ("allowed_providers", sa.Text, "the only ones, parted by spaces; NULL for any"),
    ("allowed_cidrs", sa.Text, "where it may be used from, parted by spaces; NULL for anywhere"),
)


def upgrade() -> None:
    for name, type_, comment in _COLUMNS:
        op.add_column("api_keys", sa.Column(name, type_, comment=comment))
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False, autoincrement=True),
        sa.Column("team_id", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False, comment="the id of a key, or cli"),
        sa.Column("action", sa.Text, nullable=False, comment="key.create, key.update, …"),
        sa.Column("target", sa.Text, nullable=False, comment="the id of the key or team that was changed"),
        sa.Column("request_id", sa.Text),
        sa.Column("before_json", sa.LargeBinary, comment="the fields that it changed, never a secret"),
        sa.Column("after_json", sa.LargeBinary),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_audit_log_team_id"),
    )
    op.create_index("ix_audit_log_team_id", "audit_log", ["team_id", "id"])
    op.create_index("ix_audit_log_created_at", "audit_log", ["created_at"])


def downgrade() -> None:
    op.drop_table("audit_log")
    for name, _, _ in reversed(_COLUMNS):
        op.drop_column("api_keys", name)
