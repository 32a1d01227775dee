"""What a team prefers of providers, and where they may be."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

destructive = False


def upgrade() -> None:
    op.add_column("teams", sa.Column("sort", sa.Text, comment="price, latency or throughput; NULL for the balance"))
    op.add_column("teams", sa.Column("regions", sa.Text, comment="the only ones, parted by spaces; NULL for any"))


def downgrade() -> None:
    for name in ("regions", "sort"):
        op.drop_column("teams", name)
