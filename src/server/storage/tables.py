"""Every table, as SQLAlchemy Core sees it. `migrations/` makes them; a test compares the two.

Times are whole seconds since 1970, UTC. JSON is kept as bytes: it is read back exactly, and PostgreSQL's text type
would refuse some of what a client may send. Money is whole nano-dollars.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

teams = Table(
    "teams",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("store_content", Boolean, nullable=False, server_default=false(), comment="whether prompts are kept"),
    Column("content_days", Integer, nullable=False, server_default="30", comment="for how long"),
    Column("on_disconnect", Text, comment="cancel or drain; NULL leaves it to the provider"),
    Column("sort", Text, comment="price, latency or throughput; NULL for the balance"),
    Column("regions", Text, comment="the only ones, parted by spaces; NULL for any"),
    Column("moderation_input", Text, comment="flag or block; NULL for neither"),
    Column("moderation_output", Text, comment="flag or block; NULL for neither"),
    Column("moderation_model", Text, comment="who judges; NULL leaves it to the gateway"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True, comment="the <kid> of the key"),
    Column("team_id", Text, ForeignKey("teams.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("format", Text, nullable=False, comment="what stands before <kid>: aistats_v1_sk"),
    Column("secret_hash", LargeBinary, nullable=False, comment="SHA-256 of the secret"),
    Column("scopes", Text, nullable=False, comment="separated by one space, in alphabetical order"),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, comment="not valid from this second on"),
    Column("disabled", Boolean, nullable=False, server_default=false()),
    Column("revoked_at", BigInteger),
    Column("limit_nanos", BigInteger, comment="what the key may spend; NULL sets no limit"),
    Column("limit_reset", Text, comment="daily, weekly, monthly; NULL for never"),
    Column("updated_at", BigInteger, comment="when it was last changed or rotated"),
    Column("last_used_at", BigInteger, comment="to about a minute"),
    Column("previous_hash", LargeBinary, comment="SHA-256 of the secret before the last rotation"),
    Column("previous_expires_at", BigInteger, comment="that one is not valid from this second on"),
    Column("allowed_models", Text, comment="ids and patterns, parted by spaces; NULL for all"),
    Column("allowed_providers", Text, comment="the only ones, parted by spaces; NULL for any"),
    Column("allowed_cidrs", Text, comment="where it may be used from, parted by spaces; NULL for anywhere"),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("team_id", Text, ForeignKey("teams.id"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False, comment="the id of a key, or cli"),
    Column("action", Text, nullable=False, comment="key.create, key.update, …"),
    Column("target", Text, nullable=False, comment="the id of the key or team that was changed"),
    Column("request_id", Text),
    Column("before_json", LargeBinary, comment="the fields that it changed, never a secret"),
    Column("after_json", LargeBinary),
    Index("ix_audit_log_team_id", "team_id", "id"),
    Index("ix_audit_log_created_at", "created_at"),
)
"""What was changed by whom. Never changed, and deleted only with age."""

responses = Table(
    "responses",
    metadata,
    Column("suffix", Text, primary_key=True, comment="the <x> of resp_<x>"),
    Column("team_id", Text, ForeignKey("teams.id"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("turns_json", LargeBinary, nullable=False, comment="server.domain.request.Turn, a list"),
    Column("response_json", LargeBinary, nullable=False, comment="server.domain.response.Response"),
    Index("ix_responses_expires_at", "expires_at"),
)

wallets = Table(
    "wallets",
    metadata,
    Column("team_id", Text, ForeignKey("teams.id"), primary_key=True),
    Column("balance_nanos", BigInteger, nullable=False, comment="the sum of the team's entries"),
    Column("reserved_nanos", BigInteger, nullable=False, comment="the sum of what its entries hold"),
)

ledger_entries = Table(
    "ledger_entries",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("team_id", Text, ForeignKey("teams.id"), nullable=False),
    Column("kind", Text, nullable=False, comment="reserve, settle, void, expire, top_up, adjust"),
    Column("reservation_id", Text, comment="the suffix of the request; NULL for what no request caused"),
    Column("key_id", Text),
    Column("balance_nanos", BigInteger, nullable=False, comment="what it adds to the balance"),
    Column("reserved_nanos", BigInteger, nullable=False, comment="what it adds to what is reserved"),
    Column("created_at", BigInteger, nullable=False),
    Column("note", Text),
    Column("reference", Text, comment="the payer's own id of a top-up, so that it counts once"),
    CheckConstraint(
        "kind IN ('reserve', 'settle', 'void', 'expire', 'top_up', 'adjust')", name="ck_ledger_entries_kind"
    ),
    Index("ix_ledger_entries_team_id", "team_id", "id"),
    Index(
        "uq_ledger_entries_reference",
        "team_id",
        "reference",
        unique=True,
        sqlite_where=text("reference IS NOT NULL"),
        postgresql_where=text("reference IS NOT NULL"),
    ),
)
"""Never changed and never deleted. A reservation begins once, ends once and is corrected at most once."""

for _name, _kinds in (
    ("begin", "kind = 'reserve'"),
    ("end", "kind IN ('settle', 'void', 'expire')"),
    ("adjust", "kind = 'adjust'"),
):
    Index(
        f"uq_ledger_entries_{_name}",
        ledger_entries.c.reservation_id,
        unique=True,
        sqlite_where=text(_kinds),
        postgresql_where=text(_kinds),
    )

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("seen_at", BigInteger, nullable=False),
)
"""Processes that hold reservations; one that has not been seen for a while is dead."""

reservations = Table(
    "reservations",
    metadata,
    Column("id", Text, primary_key=True, comment="the suffix of the request"),
    Column("team_id", Text, ForeignKey("teams.id"), nullable=False),
    Column("key_id", Text, nullable=False, index=True),
    Column("worker_id", Text, nullable=False),
    Column("held_nanos", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("opening_json", LargeBinary, nullable=False, comment="server.domain.record.GenerationRecord"),
)
"""Those that have not ended."""

generations = Table(
    "generations",
    metadata,
    Column("suffix", Text, primary_key=True, comment="the <x> of gen_<x>"),
    Column("team_id", Text, ForeignKey("teams.id"), nullable=False),
    Column("key_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("model_id", Text, nullable=False),
    Column("provider", Text),
    Column("status_code", Integer, nullable=False),
    Column("success", Boolean, nullable=False),
    Column("cost_nanos", BigInteger, nullable=False),
    Column("record_json", LargeBinary, nullable=False, comment="server.domain.record.GenerationRecord"),
    Index("ix_generations_team_id", "team_id", "suffix"),
    Index("ix_generations_created_at", "created_at"),
)
"""On PostgreSQL a partition for each month (`months.py`)."""

generation_contents = Table(
    "generation_contents",
    metadata,
    Column("suffix", Text, primary_key=True),
    Column("team_id", Text, ForeignKey("teams.id"), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("path", Text, nullable=False, comment="the route that the request was sent to"),
    Column("request_json", LargeBinary, comment="as the client sent it; NULL for a typed call"),
    Column("reply_json", LargeBinary, nullable=False),
    Index("ix_generation_contents_expires_at", "expires_at"),
)

daily_usage = Table(
    "daily_usage",
    metadata,
    Column("team_id", Text, ForeignKey("teams.id"), primary_key=True),
    Column("day", Integer, primary_key=True, comment="days since 1970, UTC"),
    Column("key_id", Text, primary_key=True),
    Column("model_id", Text, primary_key=True),
    Column("endpoint", Text, primary_key=True),
    Column("provider", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cost_nanos", BigInteger, nullable=False),
    Index("ix_daily_usage_key_id", "key_id", "day"),
)
"""What generations add up to, kept when their records are gone."""

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("team_id", Text, ForeignKey("teams.id"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False, comment="SHA-256 of the route and the body"),
    Column("suffix", Text, nullable=False, comment="of the request that came first"),
    Column("worker_id", Text, nullable=False, comment="who works on it, as long as there is no status"),
    Column("expires_at", BigInteger, nullable=False),
    Column("status", Integer, comment="of the outcome; NULL while there is none"),
    Column("headers_json", LargeBinary),
    Column("body", LargeBinary),
    Index("ix_idempotency_keys_expires_at", "expires_at"),
)

JOBS_WORKER: Final = "video_jobs"
"""Who has the reservations of jobs: not the worker that made them, for they outlive it."""
IS_OPEN: Final = "status IN ('queued', 'in_progress')"
"""Of a job. In these words everywhere, or the index is not used."""
HAS_GOODBYE: Final = "goodbye IS NOT NULL"
"""Likewise."""

video_jobs = Table(
    "video_jobs",
    metadata,
    Column("suffix", Text, primary_key=True, comment="the <x> of video_<x>"),
    Column("team_id", Text, ForeignKey("teams.id"), nullable=False),
    Column("key_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("model_id", Text, nullable=False),
    Column("provider", Text, nullable=False, comment="who makes it, or is being asked to"),
    Column("provider_model", Text, nullable=False),
    Column("native_id", Text, comment="the provider's own id of it; NULL as long as there is none"),
    Column("held_nanos", BigInteger, comment="NULL where nothing was reserved"),
    Column("charged_nanos", BigInteger, comment="NULL where nothing was charged"),
    Column("created_at", BigInteger, nullable=False),
    Column("deadline_at", BigInteger, nullable=False, comment="it expires then"),
    Column("due_ms", BigInteger, nullable=False, comment="in milliseconds: when to look, or the lease's end"),
    Column("lease_owner", Text, comment="the worker that looks after it now"),
    Column("ended_at", BigInteger),
    Column("deleted_at", BigInteger, comment="its team sees it no more"),
    Column("idempotency_key", Text, comment="that its request came with"),
    Column("job_json", LargeBinary, nullable=False, comment="server.domain.video_jobs.VideoJob"),
    Column("goodbye", Text, comment="cancel, delete: its provider is yet to be told"),
    Column("goodbye_due_ms", BigInteger, comment="when to tell it, or to tell it again"),
    Column("goodbye_tries", Integer, nullable=False, server_default="0", comment="those that failed"),
    Index("ix_video_jobs_team_id", "team_id", "suffix"),
    Index("ix_video_jobs_idempotency_key", "team_id", "idempotency_key"),
    Index("ix_video_jobs_ended_at", "ended_at"),
    Index("ix_video_jobs_due_ms", "due_ms", sqlite_where=text(IS_OPEN), postgresql_where=text(IS_OPEN)),
    Index(
        "ix_video_jobs_goodbye_due_ms",
        "goodbye_due_ms",
        sqlite_where=text(HAS_GOODBYE),
        postgresql_where=text(HAS_GOODBYE),
    ),
)

WAITS: Final = "state = 'pending'"
"""Of a delivery. In these words everywhere, or the index is not used."""

webhooks = Table(
    "webhooks",
    metadata,
    Column("suffix", Text, primary_key=True, comment="the <x> of wh_<x>"),
    Column("team_id", Text, ForeignKey("teams.id"), nullable=False),
    Column("url", Text, nullable=False),
    Column("events_json", LargeBinary, comment="a list of types; NULL for all"),
    Column("description", Text, nullable=False),
    Column("secret", Text, nullable=False, comment="in clear: what is sent is signed with it"),
    Column("previous_secret", Text, comment="signs as well until previous_expires_at"),
    Column("previous_expires_at", BigInteger),
    Column("disabled", Boolean, nullable=False),
    Column("disabled_reason", Text, comment="gone, failing; NULL where its team did it"),
    Column("failing_since", BigInteger, comment="nothing could be delivered from then on"),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger),
    Index("ix_webhooks_team_id", "team_id", "suffix"),
)

webhook_events = Table(
    "webhook_events",
    metadata,
    Column("suffix", Text, primary_key=True, comment="the <x> of evt_<x>"),
    Column("team_id", Text, ForeignKey("teams.id"), nullable=False),
    Column("type", Text, nullable=False),
    Column("subject", Text, nullable=False, comment="the id of what it tells of"),
    Column("created_at", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False, comment="the body of each attempt"),
    Index("ix_webhook_events_created_at", "created_at"),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column(
        "number",
        BigInteger().with_variant(Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
        comment="ascending in the order of what happened",
    ),
    Column("webhook_suffix", Text, ForeignKey("webhooks.suffix", ondelete="CASCADE"), nullable=False),
    Column("event_suffix", Text, ForeignKey("webhook_events.suffix", ondelete="CASCADE"), nullable=False),
    Column("subject", Text, nullable=False, comment="that of its event"),
    Column("state", Text, nullable=False, comment="pending, delivered, dead"),
    Column("attempts", Integer, nullable=False),
    Column("queued_ms", BigInteger, nullable=False, comment="in milliseconds: when it was made, or replayed"),
    Column("due_ms", BigInteger, nullable=False, comment="in milliseconds: when to send it, or the lease's end"),
    Column("lease_owner", Text, comment="the worker that sends it now"),
    Column("attempted_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("status", Integer, comment="that the receiver answered last"),
    Column("error", Text, comment="what went wrong last, in one word"),
    Index("uq_webhook_deliveries_event_suffix", "event_suffix", "webhook_suffix", unique=True),
    Index("ix_webhook_deliveries_webhook_suffix", "webhook_suffix", "number"),
    Index("ix_webhook_deliveries_due_ms", "due_ms", sqlite_where=text(WAITS), postgresql_where=text(WAITS)),
    Index(
        "ix_webhook_deliveries_subject",
        "subject",
        "webhook_suffix",
        "number",
        sqlite_where=text(WAITS),
        postgresql_where=text(WAITS),
    ),
)

video_contents = Table(
    "video_contents",
    metadata,
    Column("suffix", Text, primary_key=True, comment="of the video"),
    Column("variant", Text, primary_key=True),
    Column("state", Text, nullable=False, comment="wanted, stored, doomed"),
    Column("created_at", BigInteger, nullable=False),
    Column("due_ms", BigInteger, nullable=False, comment="when to copy or delete it, or the lease's end"),
    Column("lease_owner", Text, comment="the worker that copies or deletes it now"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="objects that were begun"),
    Column("failures", Integer, nullable=False, server_default="0", comment="in a row"),
    Column("object_key", Text, comment="NULL until it is stored, as all that follows"),
    Column("size", BigInteger),
    Column("content_type", Text),
    Column("etag", Text),
    Column("stored_at", BigInteger),
    Column("expires_at", BigInteger),
    Index("ix_video_contents_due_ms", "due_ms"),
)
"""Of what the gateway keeps of videos: the bytes are in the store of AISTATS_CONTENT_STORE."""

health_reports = Table(
    "health_reports",
    metadata,
    Column("worker_id", Text, primary_key=True),
    Column("reported_at", BigInteger, nullable=False),
    Column("number", BigInteger, nullable=False, comment="of this worker's reports, ascending"),
    Column("report_json", LargeBinary, nullable=False, comment="server.pipeline.health.share.Report"),
)
"""The newest of each worker, kept for a while after the worker has ended."""

drained_providers = Table(
    "drained_providers",
    metadata,
    Column("provider_id", Text, primary_key=True),
    Column("drained_at", BigInteger, nullable=False),
    Column("reason", Text, nullable=False, comment="the operator's words; may be empty"),
)
"""Out of routing until the operator says otherwise."""

deployment_secrets = Table(
    "deployment_secrets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("secret", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)
"""What all gateways on the database know, and no client."""
