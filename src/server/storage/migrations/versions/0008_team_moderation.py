"""Whether a team's generations are judged by a moderation model, and by which."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

destructive = False


def upgrade() -> None:
    for name, comment in (
        ("moderation_input", "flag or block; NULL for neither"),
        ("moderation_output", "flag or block; NULL for neither"),
        ("moderation_model", "who judges; NULL leaves it to the gateway"),
    ):
        op.add_column("teams", sa.Column(name, sa.Text, comment=comment))


def downgrade() -> None:
    for name in ("moderation_model", "moderation_output", "moderation_input"):
        op.drop_column("teams", name)
