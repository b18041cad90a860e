"""Looks at a PostgreSQL before anything in it is made or changed: the rights, and whose tables lie where."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from maestro_dagster.database.address import show_url
from maestro_dagster.database.interface import PLAIN, SCHEMA, Wording
from maestro_dagster.errors import DatabaseError

if TYPE_CHECKING:
    from psycopg2.extensions import connection as RawConnection  # noqa: N812 - its own name is lower case

# All tables of Dagster's storage; none of ours is called so.
_DAGSTERS = (
    "asset_check_executions", "asset_daemon_asset_evaluations", "asset_event_tags", "asset_keys",
    "backfill_tags", "bulk_actions", "concurrency_limits", "concurrency_slots", "daemon_heartbeats",
    "dynamic_partitions", "event_logs", "instance_info", "instigators", "job_ticks", "jobs", "kvs",
    "pending_steps", "run_tags", "runs", "secondary_indexes", "snapshots",
)  # fmt: skip
_RIGHTS = f"""
SELECT quote_ident(current_user), quote_ident(current_database()),
  has_database_privilege(current_database(), 'CREATE'),
  to_regnamespace('{SCHEMA}')::text,
  has_schema_privilege(to_regnamespace('{SCHEMA}'), 'CREATE'),
  has_schema_privilege(to_regnamespace('{SCHEMA}'), 'USAGE'),
  coalesce(has_schema_privilege(to_regnamespace('public'), 'CREATE'), false),
  coalesce(has_schema_privilege(to_regnamespace('public'), 'USAGE'), false),
  to_regnamespace('public')::text,
  EXISTS (SELECT FROM pg_tables WHERE schemaname = 'public' AND tablename = 'event_logs')
"""  # noqa: S608 - a constant


_CONNECTED = """
SELECT coalesce(host(client_addr), 'the same machine') FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = ANY(%s)
"""
_ROOMS = ("maestro-journal", "maestro-inbox", "maestro-outbox", "maestro-usage", "maestro-budget")
GRACE = 3.0  # seconds


def require_rights(
    connection: RawConnection, url: str, wording: Wording = PLAIN, *, ours: bool, dagster: bool
) -> None:
    """Whether the role may make our tables (`ours`) and Dagster's. Raises (`rights`) with what to grant."""
    from maestro_dagster.database.pool import send

    row = send(connection, _RIGHTS)[0]
    role, database, may_add, schema, create, use, public_create, public_use, public, made = row
    grants, lacks = [], []
    if ours and schema is None and not may_add:
        lacks.append(f"make the schema {SCHEMA}")
        grants.append(f"GRANT CREATE ON DATABASE {database} TO {role}")
    if ours and schema is not None and not (create and use):
        lacks.append(f"make tables in the schema {SCHEMA}")
        grants.append(f"GRANT USAGE, CREATE ON SCHEMA {SCHEMA} TO {role}")
    # Since PostgreSQL 15 nobody but the owner of the database may make tables in `public`.
    if dagster and not (public_use and (public_create or made)):
        lacks.append("make Dagster's tables in the schema public")
        if public is None:
            grants.append("CREATE SCHEMA public")
        grants.append(f"GRANT USAGE, CREATE ON SCHEMA public TO {role}")
    if lacks:
        what = f"gives the role {role} too few rights: it may not {' nor '.join(lacks)}"
        remedy = f"as the owner of the database: {'; '.join(grants)}"
        raise wording.fault("rights", what, show_url(url), remedy)


def require_dagster(url: str) -> None:
    """Whether Dagster's tables can be where they belong: for those who are about to open its storage here.

    A project within somebody's own Dagster has them elsewhere, and needs no rights for them.

    Raises DatabaseError (`dagster-misplaced`, `database-rights`, and what the server has to say).
    """
    from maestro_dagster.database.pool import look_at

    def look(connection: RawConnection) -> None:
        refuse_misplaced(connection, url)
        require_rights(connection, url, ours=False, dagster=True)

    look_at(url, look, name="maestro-survey")


def refuse_misplaced(connection: RawConnection, url: str) -> None:
    """Raises DatabaseError (`dagster-misplaced`) where Dagster's tables lie among ours.

    An older Maestro left it to PostgreSQL where they went: into the schema with the name of the role.
    """
    from maestro_dagster.database.pool import send

    query = "SELECT tablename FROM pg_tables WHERE schemaname = %s AND tablename = ANY(%s) ORDER BY tablename"
    found = [row[0] for row in send(connection, query, (SCHEMA, list(_DAGSTERS)))]
    if not found:
        return
    if not is_ours(_read_version(connection)):
        found.append("alembic_version")
    raise DatabaseError(
        f"Dagster's tables lie in the schema {SCHEMA}, where an older Maestro let them be made",
        place=show_url(url),
        remedy="stop every Maestro that uses it and make a backup (`pg_dump`), then remove them; Dagster"
        f" makes new ones in the schema public: DROP TABLE {', '.join(f'{SCHEMA}.{name}' for name in found)}",
        code="dagster-misplaced",
    )


def refuse_live(connection: RawConnection, url: str) -> None:
    """Raises DatabaseError (`loop-running`, `runs-going`) while another Maestro works on the tables.

    Of whatever machine and release: the server knows who is connected. A command that just ends is
    waited for.
    """
    from maestro_dagster.database.pool import send

    stop = time.monotonic() + GRACE
    while (rows := send(connection, _CONNECTED, (list(_ROOMS),))) and time.monotonic() < stop:
        time.sleep(0.1)
    if rows:
        places = ", ".join(sorted({str(row[0]) for row in rows}))
        raise DatabaseError(
            f"Maestro uses this database: {len(rows)} connections are open, from {places}",
            place=show_url(url),
            remedy="stop every `maestro dev` and every command that uses it, then run `maestro migrate`",
            code="loop-running",
        )
    leases = send(connection, f"SELECT run_id FROM {SCHEMA}.lease WHERE expires > extract(epoch FROM now())")  # noqa: S608
    if leases:
        raise DatabaseError(
            f"{len(leases)} runs are going on, on another machine perhaps",
            place=f"run {leases[0][0]}",
            remedy="wait for their end, or stop them with `maestro cancel`; the lease of a process that was"
            " killed ends after 30 seconds",
            code="runs-going",
        )


def is_ours(revision: str | None) -> bool:
    """Whether a revision is a number of our chain; Dagster's are hexadecimal words."""
    return revision is None or (len(revision) == 4 and revision.isdecimal())  # noqa: PLR2004 - 0001


def _read_version(connection: RawConnection) -> str | None:
    from maestro_dagster.database.migration import read_revision

    return read_revision(connection)
