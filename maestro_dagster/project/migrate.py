"""Moves a project from the files of its home into its PostgreSQL, and brings older tables up to date."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maestro_dagster.database.transfer import Table, copy_table
from maestro_dagster.errors import ProjectError
from maestro_dagster.project.database import (
    find_owner,
    inbox_file,
    is_moved,
    name_scope,
    note_moved,
    outbox_file,
    read_moved,
)
from maestro_dagster.workers.filelock import hold_file

if TYPE_CHECKING:
    from maestro_dagster.database.interface import Connection
    from maestro_dagster.project.root import Project

Say = Callable[[str], None]
_NAME = "maestro-migrate"  # of its connections, as the server lists them
_BATCH = 5000  # events of usage in one statement
_JOURNAL = (
    Table("flow", ("digest",)),
    Table("run", ("run_id",), left_out=("seq",)),
    Table("step", ("run_id", "step", "iteration")),
    Table("attempt", ("run_id", "step", "iteration", "attempt")),
    # No process runs, so no lease lives; what was not finished with stays marked.
    Table("lease", ("run_id", "owner"), where="owner = 'begun'"),
)
_INBOX = (Table("event", ("event_id",), left_out=("sequence",)), Table("seen_ref", ("repository", "ref")))
_OUTBOX = (Table("report", ("target",)), Table("watched_run", ("run_id",)))
_BUDGETS = (
    Table(
        "account",
        ("key",),
        "budget_account",
        added=("spent_nano", "reserved_nano", "spent_tokens", "reserved_tokens", "unknown"),
    ),
    Table("entry", ("reservation_id",), "budget_entry"),
    Table("ended", ("run_id",), "budget_ended"),
    Table("frozen", ("path",), "budget_frozen"),
)


@dataclass(frozen=True, slots=True)
class Migration:
    """What was done. `before` is None for an empty database; `rows` by table, `usage` are events."""

    place: str
    before: str | None
    after: str
    rows: dict[str, int]
    usage: int
    repeated: bool
    nothing: bool = False  # was to be done

    def to_json(self) -> dict[str, Any]:
        return {
            "place": self.place,
            "revision": {"before": self.before, "after": self.after},
            "rows": self.rows,
            "usage": self.usage,
            "repeated": self.repeated,
        }


def migrate_project(project: Project, say: Say) -> Migration:
    """Makes or upgrades the tables, then copies what the files hold: all of it or, on any error, none.

    The files stay as they are, but those of waiting usage. Doing it again copies nothing twice. Others may be
    at work where there is nothing to do. One process of a home does it at a time.

    Raises ProjectError (`database-missing`, `loop-running`, `runs-going`), DatabaseError (`migrate-differs`
    and what the database has to say), JournalError.
    """
    url = project.settings.database
    if not url:
        raise ProjectError(
            "there is no database to move to",
            place="setting database",
            remedy="set it to postgresql://USER@HOST/NAME in pyproject.toml, or MAESTRO_DATABASE",
            code="database-missing",
        )
    project.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with hold_file(project.home / "migrate.lock"):
        return _find_done(project, url) or _migrate(project, url, say)


def _migrate(project: Project, url: str, say: Say) -> Migration:
    _refuse_while_used(project)
    before, after = upgrade_database(url, dagster=True)
    if project.settings.budget_database:
        upgrade_database(project.settings.budget_database)
    home, place = _home_id(project), show_place(url)
    say(f"copying to {place}")
    groups: list[tuple[Path, Sequence[Table]]] = [
        (project.journal, _JOURNAL),
        (inbox_file(project), _INBOX),
        (outbox_file(project), _OUTBOX),
    ]
    budgets: list[tuple[Path, Sequence[Table]]] = [(project.home / "budgets.sqlite", _BUDGETS)]
    elsewhere = project.settings.budget_database
    rows, repeated = _copy(url, project, home, groups if elsewhere else groups + budgets, say)
    if elsewhere:
        rows |= _copy(elsewhere, project, f"{home} budgets", budgets, say, owned=False)[0]
    usage = _move_usage(project, say)
    note_moved(project, {"home": home, "place": place, "at": time.time(), "tables": rows})
    return Migration(place, before, after, rows, usage, repeated)


def _find_done(project: Project, url: str) -> Migration | None:
    """None where something is to be made or copied."""
    from maestro_dagster.costs.lineage import lineage_files
    from maestro_dagster.costs.spool import Spool
    from maestro_dagster.database.migration import list_revisions

    newest, elsewhere = list_revisions()[-1], project.settings.budget_database
    if read_database(url, dagster=True) != newest or (elsewhere and read_database(elsewhere) != newest):
        return None
    folder = Spool(project.spool)
    if any(True for _ in folder.chunks()) or any(True for _ in lineage_files(folder.lineage)):
        return None
    rows: dict[str, int] = {}
    home = str((read_moved(project) or {}).get("home"))
    found = _read_copied(project, url, home)  # refuses a database of another project
    if any(path.exists() for path in _files(project)):
        others = _read_copied(project, elsewhere, f"{home} budgets", owned=False) if elsewhere else {}
        if found is None or others is None or not is_moved(project):
            return None
        rows = found | others
    return Migration(show_place(url), newest, newest, rows, 0, repeated=True, nothing=True)


def _files(project: Project) -> tuple[Path, ...]:
    return project.journal, inbox_file(project), outbox_file(project), project.home / "budgets.sqlite"


def _read_copied(project: Project, url: str, home: str, *, owned: bool = True) -> dict[str, int] | None:
    """What a database has of a home: rows by table; None where it knows of none."""
    from maestro_dagster.database.postgres import PostgresDatabase

    database = PostgresDatabase(url, "journal", owner=find_owner(project) if owned else None)

    def look(connection: Connection) -> dict[str, int] | None:
        known = connection.execute("SELECT tables FROM moved WHERE home = ?", (home,)).fetchone()
        return None if known is None else json.loads(known[0])

    try:
        return database.run_read(look)
    finally:
        database.close()


def read_database(url: str, *, dagster: bool = False) -> str | None:
    """The revision of its tables; changes nothing. Raises as `upgrade_database`."""
    from maestro_dagster.database.pool import look_at

    return look_at(url, lambda connection: _survey(connection, url, dagster=dagster), name=_NAME)


def _survey(connection: Any, url: str, *, dagster: bool) -> str | None:
    from maestro_dagster.database.migration import list_revisions, read_revision
    from maestro_dagster.database.survey import refuse_misplaced, require_rights

    refuse_misplaced(connection, url)
    found, newest = read_revision(connection), list_revisions()[-1]
    require_rights(connection, url, ours=found is None or found < newest, dagster=dagster)
    return found


def upgrade_database(url: str, *, dagster: bool = False) -> tuple[str | None, str]:
    """Brings the tables to this Maestro's revision; gives the one before and the one after.

    `dagster`: its tables lie there too, or will. Raises DatabaseError (`database-rights`,
    `dagster-misplaced`, `loop-running`, `runs-going`) before anything is changed.
    """
    from maestro_dagster.database.migration import list_revisions, require_schema, upgrade_schema
    from maestro_dagster.database.pool import look_at
    from maestro_dagster.database.survey import refuse_live

    newest = list_revisions()[-1]

    def upgrade(connection: Any) -> str | None:
        found = _survey(connection, url, dagster=dagster)
        if found is not None and found < newest:
            refuse_live(connection, url)
        if found is None or found < newest:
            upgrade_schema(url)
        require_schema(connection, url)  # one that is newer is refused
        return found

    return look_at(url, upgrade, name=_NAME), newest


def show_place(url: str) -> str:
    from maestro_dagster.database.address import show_url

    return show_url(url)


def _refuse_while_used(project: Project) -> None:
    from maestro_dagster.engine.journal import Journal
    from maestro_dagster.workers.guard import is_loop_running

    if is_loop_running(project.home):
        raise ProjectError(
            "`maestro dev` runs in this project",
            place=str(project.home),
            remedy="stop it, then run `maestro migrate` again",
            code="loop-running",
        )
    if not project.journal.exists():
        return
    with contextlib.closing(Journal(project.journal)) as journal:
        going = [
            run_id
            for status in ("requested", "running")
            for run_id, _ in journal.statuses(status)
            if journal.has_live_lease(run_id)
        ]
    if going:
        raise ProjectError(
            f"{len(going)} runs are going on",
            place=f"run {going[0]}",
            remedy="wait for their end, or stop them with `maestro cancel`",
            code="runs-going",
        )


def _home_id(project: Project) -> str:
    """Known before anything is copied, so that a copy whose end was not noted is recognised."""
    found = read_moved(project) or {}
    home = str(found.get("home") or uuid.uuid4().hex)
    if not found:
        project.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        note_moved(project, {"home": home})
    return home


def _copy(
    url: str,
    project: Project,
    home: str,
    groups: Sequence[tuple[Path, Sequence[Table]]],
    say: Say,
    *,
    owned: bool = True,
) -> tuple[dict[str, int], bool]:
    """One transaction: `{table: rows}`, and whether it had been done before."""
    from maestro_dagster.database.postgres import PostgresDatabase

    database = PostgresDatabase(url, "journal", owner=find_owner(project) if owned else None)

    def work(target: Connection) -> tuple[dict[str, int], bool]:
        known = target.execute("SELECT tables FROM moved WHERE home = ?", (home,)).fetchone()
        if known is not None:
            return json.loads(known[0]), True
        rows: dict[str, int] = {}
        for path, tables in groups:
            if path.exists():
                with contextlib.closing(_open_file(path)) as source:
                    for table in tables:
                        rows[table.name] = copy_table(source, target, table, partial(_tell, say, table))
        target.execute("INSERT INTO moved VALUES (?, ?, ?)", (home, time.time(), json.dumps(rows)))
        return rows, False

    try:
        return database.run_write(work)
    finally:
        database.close()


def _tell(say: Say, table: Table, count: int) -> None:
    if count % 5000 == 0:
        say(f"{table.name}: {count} rows")


def _open_file(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    connection.execute("BEGIN")  # all its tables as of one moment
    return connection


def _move_usage(project: Project, say: Say) -> int:
    """Waiting usage leaves the folder once it is in the database; what is in both counts once."""
    from maestro_dagster.costs.lineage import lineage_files
    from maestro_dagster.costs.postgres_spool import PostgresSpool
    from maestro_dagster.costs.spool import Spool

    folder = Spool(project.spool)
    spool = PostgresSpool(project.settings.database or "", name_scope(project))
    count = 0
    try:
        ends = {chunk.source: (chunk.run_id, chunk.end) for chunk in folder.chunks()}  # of the last chunk
        for source, (run_id, end) in ends.items():
            events = folder.read_source(source)
            with spool.open_run(run_id) as writer:
                while batch := list(islice(events, _BATCH)):
                    writer.append(batch)
                    count += len(batch)
            folder.remove(source, end)
        if count:
            say(f"usage: {count} events")
        for run_id, file in lineage_files(folder.lineage):
            spool.lineage.write(run_id, file.read_bytes())
            file.unlink(missing_ok=True)
    finally:
        spool.close()
    return count
