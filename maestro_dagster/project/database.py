"""Where a project keeps its records: files of its home, or the PostgreSQL that `database` names."""

from __future__ import annotations

import contextlib
import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from maestro_dagster.errors import ProjectError

if TYPE_CHECKING:
    from maestro_dagster.database.interface import Database, Wording
    from maestro_dagster.database.owner import Owner
    from maestro_dagster.engine.journal import Journal
    from maestro_dagster.project.root import Project

_MARK = "moved-to-postgres.json"


def open_room(project: Project, room: str, path: Path, *, tables: str, wording: Wording) -> Database:
    """The database of a room other than the journal: `path` with `tables`, or the project's database."""
    if not project.settings.database:
        from maestro_dagster.database.sqlite import SqliteDatabase

        return SqliteDatabase(path, tables=tables, wording=wording)
    from maestro_dagster.database.postgres import PostgresDatabase

    require_moved(project)
    return PostgresDatabase(project.settings.database, room, owner=find_owner(project), wording=wording)


def open_journal(project: Project) -> Journal:
    """Only the journal: what `status`, `logs` and `cancel` need."""
    from maestro_dagster.engine.journal import Journal

    if not project.settings.database:
        return Journal(project.journal)
    from maestro_dagster.engine.schema import open_server

    require_moved(project)
    return Journal(open_server(project.settings.database, find_owner(project)))


def find_journal(project: Project) -> Journal | None:
    """As `open_journal`; None where there is none yet, and none is made."""
    if not project.settings.database and not project.journal.exists():
        return None
    return open_journal(project)


def check_database(project: Project) -> None:
    """Whether the database of a project can be used, before anything is begun that needs it.

    It leaves nothing open. Raises ProjectError (`records-not-moved`), JournalError, DatabaseError
    (`dagster-misplaced`, `database-rights`).
    """
    from maestro_dagster.database.survey import require_dagster

    if project.settings.database:
        with contextlib.closing(open_journal(project)) as journal:
            journal.runs(limit=1)
        require_dagster(project.settings.database)


def name_scope(project: Project) -> str:
    """What tells this project from others in one database."""
    return f"{project.settings.tenant}/{project.settings.project_name}"


def find_owner(project: Project) -> Owner:
    """What a database remembers of the project whose records it holds."""
    from maestro_dagster.database.owner import Owner

    def keys() -> tuple[str, ...]:
        from maestro_dagster.evidence.key import list_hints

        return list_hints(project.keys)

    return Owner(name_scope(project), keys)


def require_moved(project: Project) -> None:
    """Nobody goes on with an empty journal while the files still hold runs.

    Raises ProjectError (`records-not-moved`).
    """
    from maestro_dagster.database.address import show_url

    if not (project.journal.exists() or inbox_file(project).exists()):
        return
    place = show_url(project.settings.database or "")
    if not is_moved(project):
        raise ProjectError(
            f"the records of this project lie in files of {project.home}, not in {place}",
            place="setting database",
            remedy="stop `maestro dev` and run `maestro migrate`; or remove the setting, to use the files",
            code="records-not-moved",
        )


def is_moved(project: Project) -> bool:
    """Whether the last `maestro migrate` of this home went to the database that is named now."""
    from maestro_dagster.database.address import show_url

    moved = read_moved(project)
    return moved is not None and moved.get("place") == show_url(project.settings.database or "")


def inbox_file(project: Project) -> Path:
    return project.inbox / "inbox.sqlite"


def outbox_file(project: Project) -> Path:
    return project.inbox / "outbox.sqlite"


def read_moved(project: Project) -> dict[str, object] | None:
    """What the last `maestro migrate` of this home noted: `{"place", "at", "tables": {NAME: ROWS}}`."""
    try:
        found = json.loads((project.home / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def note_moved(project: Project, note: dict[str, object]) -> None:
    path = project.home / _MARK
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
