"""What Alembic runs to reach the database; the caller brings an open transaction."""

from __future__ import annotations

from alembic import context

from maestro_dagster.database.interface import SCHEMA

context.configure(
    connection=context.config.attributes["connection"],
    version_table="alembic_version",
    version_table_schema=SCHEMA,
)
with context.begin_transaction():
    context.run_migrations()
