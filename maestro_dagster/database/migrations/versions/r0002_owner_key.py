"""A database remembers the keys of its project. One of before adopts those of the first that comes."""

from __future__ import annotations

from alembic import op

from maestro_dagster.database.migration import run_folder

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    run_folder(op.get_bind(), "r0002")
