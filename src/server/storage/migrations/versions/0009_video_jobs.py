"""Video jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

destructive = False

_OPEN = "status IN ('queued', 'in_progress')"


def upgrade() -> None:
    op.create_table(
        "video_jobs",
        sa.Column("suffix", sa.Text, nullable=False, comment="the <x> of video_<x>"),
        sa.Column("team_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("model_id", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False, comment="who makes it, or is being asked to"),
        sa.Column("provider_model", sa.Text, nullable=False),
        sa.Column("native_id", sa.Text, comment="the provider's own id of it; NULL as long as there is none"),
        sa.Column("held_nanos", sa.BigInteger, comment="NULL where nothing was reserved"),
        sa.Column("charged_nanos", sa.BigInteger, comment="NULL where nothing was charged"),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("deadline_at", sa.BigInteger, nullable=False, comment="it expires then"),
        sa.Column("due_ms", sa.BigInteger, nullable=False, comment="in milliseconds: when to look, or the lease's end"),
        sa.Column("lease_owner", sa.Text, comment="the worker that looks after it now"),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("deleted_at", sa.BigInteger, comment="its team sees it no more"),
        sa.Column("idempotency_key", sa.Text, comment="that its request came with"),
        sa.Column("job_json", sa.LargeBinary, nullable=False, comment="server.domain.video_jobs.VideoJob"),
        sa.PrimaryKeyConstraint("suffix", name="pk_video_jobs"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_video_jobs_team_id"),
    )
    op.create_index("ix_video_jobs_team_id", "video_jobs", ["team_id", "suffix"])
    op.create_index("ix_video_jobs_idempotency_key", "video_jobs", ["team_id", "idempotency_key"])
    op.create_index("ix_video_jobs_ended_at", "video_jobs", ["ended_at"])
    op.create_index(
        "ix_video_jobs_due_ms",
        "video_jobs",
        ["due_ms"],
        sqlite_where=sa.text(_OPEN),
        postgresql_where=sa.text(_OPEN),
    )


def downgrade() -> None:
    op.drop_table("video_jobs")
