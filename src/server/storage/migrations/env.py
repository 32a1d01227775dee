"""How Alembic reaches the database: by the connection, and so in the transaction, that `migrate.py` hands it."""

from __future__ import annotations

from alembic import context

from server.storage.schema import VERSION_TABLE
from server.storage.tables import metadata

if context.is_offline_mode():
    context.configure(
        dialect_name=context.config.attributes["dialect"],
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        literal_binds=True,
    )
else:
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        render_as_batch=True,
    )

with context.begin_transaction():
    context.run_migrations()
