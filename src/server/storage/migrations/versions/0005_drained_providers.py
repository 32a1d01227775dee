"""Providers that the operator has taken out of service."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

destructive = False


def upgrade() -> None:
    op.create_table(
        "drained_providers",
        sa.Column("provider_id", sa.Text, nullable=False),
        sa.Column("drained_at", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False, comment="the operator's words; may be empty"),
        sa.PrimaryKeyConstraint("provider_id", name="pk_drained_providers"),
    )


def downgrade() -> None:
    op.drop_table("drained_providers")
