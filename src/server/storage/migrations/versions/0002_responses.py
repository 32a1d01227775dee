"""Responses kept for `previous_response_id` and GET."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

destructive = False


def upgrade() -> None:
    op.create_table(
        "responses",
        sa.Column("suffix", sa.Text, nullable=False, comment="the <x> of resp_<x>"),
        sa.Column("team_id", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("turns_json", sa.LargeBinary, nullable=False, comment="server.domain.request.Turn, a list"),
        sa.Column("response_json", sa.LargeBinary, nullable=False, comment="server.domain.response.Response"),
        sa.PrimaryKeyConstraint("suffix", name="pk_responses"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_responses_team_id"),
    )
    op.create_index("ix_responses_expires_at", "responses", ["expires_at"])


def downgrade() -> None:
    op.drop_table("responses")
