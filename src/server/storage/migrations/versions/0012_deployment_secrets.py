"""Secrets that all gateways on the database share."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

destructive = False


def upgrade() -> None:
    op.create_table(
        "deployment_secrets",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("secret", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_deployment_secrets"),
    )


def downgrade() -> None:
    op.drop_table("deployment_secrets")
