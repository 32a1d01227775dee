"""Content of videos that is kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

destructive = False


def upgrade() -> None:
    op.create_table(
        "video_contents",
        sa.Column("suffix", sa.Text, nullable=False, comment="of the video"),
        sa.Column("variant", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False, comment="wanted, stored, doomed"),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("due_ms", sa.BigInteger, nullable=False, comment="when to copy or delete it, or the lease's end"),
        sa.Column("lease_owner", sa.Text, comment="the worker that copies or deletes it now"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0", comment="objects that were begun"),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0", comment="in a row"),
        sa.Column("object_key", sa.Text, comment="NULL until it is stored, as all that follows"),
        sa.Column("size", sa.BigInteger),
        sa.Column("content_type", sa.Text),
        sa.Column("etag", sa.Text),
        sa.Column("stored_at", sa.BigInteger),
        sa.Column("expires_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("suffix", "variant", name="pk_video_contents"),
    )
    op.create_index("ix_video_contents_due_ms", "video_contents", ["due_ms"])


def downgrade() -> None:
    op.drop_table("video_contents")
