"""What workers tell each other of the health of providers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

destructive = False


def upgrade() -> None:
    op.create_table(
        "health_reports",
        sa.Column("worker_id", sa.Text, nullable=False),
        sa.Column("reported_at", sa.BigInteger, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False, comment="of this worker's reports, ascending"),
        sa.Column("report_json", sa.LargeBinary, nullable=False, comment="server.pipeline.health.share.Report"),
        sa.PrimaryKeyConstraint("worker_id", name="pk_health_reports"),
    )


def downgrade() -> None:
    op.drop_table("health_reports")
