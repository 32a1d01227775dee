"""What providers are still to be told of video jobs that are over."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

destructive = False

_HAS_GOODBYE = "goodbye IS NOT NULL"


def upgrade() -> None:
    op.add_column("video_jobs", sa.Column("goodbye", sa.Text, comment="cancel, delete: its provider is yet to be told"))
    op.add_column(
        "video_jobs", sa.Column("goodbye_due_ms", sa.BigInteger, comment="when to tell it, or to tell it again")
    )
    op.add_column(
        "video_jobs",
        sa.Column("goodbye_tries", sa.Integer, nullable=False, server_default="0", comment="those that failed"),
    )
    op.create_index(
        "ix_video_jobs_goodbye_due_ms",
        "video_jobs",
        ["goodbye_due_ms"],
        sqlite_where=sa.text(_HAS_GOODBYE),
        postgresql_where=sa.text(_HAS_GOODBYE),
    )


def downgrade() -> None:
    op.drop_index("ix_video_jobs_goodbye_due_ms", "video_jobs")
    for name in ("goodbye_tries", "goodbye_due_ms", "goodbye"):
        op.drop_column("video_jobs", name)
