"""The first tables: journal, inbox, outbox, usage, budgets.

Usage and budgets that an earlier Maestro kept in `public` are taken over with what they hold.
"""

from __future__ import annotations

from alembic import op

from maestro_dagster.database.migration import run_folder, run_sql

revision = "0001"
down_revision = None

_TAKE_OVER = """
DO $$
DECLARE old record;
BEGIN
  FOR old IN SELECT tablename FROM pg_tables
    WHERE schemaname = 'public' AND tablename ~ '^maestro_(usage|budget)_'
  LOOP
    EXECUTE format('ALTER TABLE public.%I SET SCHEMA maestro', old.tablename);
    EXECUTE format('ALTER TABLE maestro.%I RENAME TO %I', old.tablename, substr(old.tablename, 9));
  END LOOP;
  IF to_regclass('public.maestro_usage_source_id') IS NOT NULL THEN
    ALTER SEQUENCE public.maestro_usage_source_id SET SCHEMA maestro;
    ALTER SEQUENCE maestro.maestro_usage_source_id RENAME TO usage_source_id;
  END IF;
END $$
"""


def upgrade() -> None:
    run_sql(op.get_bind(), _TAKE_OVER)
    run_folder(op.get_bind(), "r0001")
