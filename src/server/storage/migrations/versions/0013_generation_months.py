"""Records lie in partitions by month, on PostgreSQL; their contents need no record to refer to, on any.

Nothing is copied but, on SQLite, the contents. On PostgreSQL the table that is there becomes the first partition: it is
locked for as long as it takes to read it once, which shows that all of its keys lie before the first month.

It drops a constraint and copies a table, and loses nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

destructive = True


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute(_LOCK)
        op.drop_constraint("fk_generation_contents_suffix", "generation_contents", type_="foreignkey")
        op.execute(_PARTITION)
    else:
        _copy_contents()


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute(_LOCK)
    op.execute("DELETE FROM generation_contents WHERE suffix NOT IN (SELECT suffix FROM generations)")
    reference = sa.ForeignKeyConstraint(
        ["suffix"], ["generations.suffix"], name="fk_generation_contents_suffix", ondelete="CASCADE"
    )
    if op.get_context().dialect.name == "postgresql":
        op.execute(_JOIN)
        op.create_foreign_key(
            "fk_generation_contents_suffix",
            "generation_contents",
            "generations",
            ["suffix"],
            ["suffix"],
            ondelete="CASCADE",
        )
    else:
        _copy_contents(reference)


def _copy_contents(*constraints: sa.ForeignKeyConstraint) -> None:
    """SQLite can't take a constraint from a table, nor give it one."""
    op.create_table(
        "generation_contents_copy",
        sa.Column("suffix", sa.Text, nullable=False),
        sa.Column("team_id", sa.Text, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("path", sa.Text, nullable=False, comment="the route that the request was sent to"),
        sa.Column("request_json", sa.LargeBinary, comment="as the client sent it; NULL for a typed call"),
        sa.Column("reply_json", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("suffix", name="pk_generation_contents"),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_generation_contents_team_id"),
        *constraints,
    )
    op.execute("INSERT INTO generation_contents_copy SELECT * FROM generation_contents")
    op.drop_table("generation_contents")
    op.rename_table("generation_contents_copy", "generation_contents")
    op.create_index("ix_generation_contents_expires_at", "generation_contents", ["expires_at"])


_LOCK = """
DO $$
BEGIN
    FOR tries IN 1..600 LOOP
        BEGIN
            -- Less than deadlock_timeout: requests take these locks in more than one order, and none is to be hurt.
            SET LOCAL lock_timeout = 500;
            LOCK TABLE teams, generations, generation_contents IN ACCESS EXCLUSIVE MODE;
            SET LOCAL lock_timeout = 0;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.2);
        END;
    END LOOP;
    RAISE EXCEPTION 'the records are in use: end what reads them for long, such as a backup, and start again';
END $$
"""
_PARTITION = """
DO $$
DECLARE
    month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    bound text;
BEGIN
    IF 'aa' > 'b' OR '9' > 'a' THEN
        RETURN; -- keys are not sorted by time here: the table stays whole
    END IF;
    IF EXISTS (SELECT FROM generations) THEN
        month := month + interval '1 month';
    END IF;
    bound := lpad(to_hex((extract(epoch FROM month) * 1000)::bigint), 12, '0');
    ALTER TABLE generations RENAME TO generations_before;
    ALTER TABLE generations_before RENAME CONSTRAINT pk_generations TO pk_generations_before;
    ALTER INDEX ix_generations_team_id RENAME TO ix_generations_before_team_id;
    ALTER INDEX ix_generations_created_at RENAME TO ix_generations_before_created_at;
    CREATE TABLE generations (LIKE generations_before INCLUDING COMMENTS) PARTITION BY RANGE (suffix);
    ALTER TABLE generations ADD CONSTRAINT pk_generations PRIMARY KEY (suffix);
    ALTER TABLE generations ADD CONSTRAINT fk_generations_team_id FOREIGN KEY (team_id) REFERENCES teams (id);
    CREATE INDEX ix_generations_team_id ON generations (team_id, suffix);
    CREATE INDEX ix_generations_created_at ON generations (created_at);
    EXECUTE format('CREATE TABLE generations_rest PARTITION OF generations FOR VALUES FROM (%L) TO (MAXVALUE)', bound);
    WITH moved AS (DELETE FROM generations_before WHERE suffix >= bound RETURNING *)
        INSERT INTO generations_rest SELECT * FROM moved;
    EXECUTE format(
        'ALTER TABLE generations ATTACH PARTITION generations_before FOR VALUES FROM (MINVALUE) TO (%L)', bound
    );
END $$
"""
_JOIN = """
DO $$
BEGIN
    IF (SELECT relkind FROM pg_class WHERE oid = to_regclass('generations')) <> 'p' THEN
        RETURN;
    END IF;
    CREATE TABLE generations_whole (LIKE generations INCLUDING COMMENTS);
    INSERT INTO generations_whole SELECT * FROM generations;
    DROP TABLE generations;
    ALTER TABLE generations_whole RENAME TO generations;
    ALTER TABLE generations ADD CONSTRAINT pk_generations PRIMARY KEY (suffix);
    ALTER TABLE generations ADD CONSTRAINT fk_generations_team_id FOREIGN KEY (team_id) REFERENCES teams (id);
    CREATE INDEX ix_generations_team_id ON generations (team_id, suffix);
    CREATE INDEX ix_generations_created_at ON generations (created_at);
END $$
"""
