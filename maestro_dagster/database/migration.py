"""The one chain of migrations of the schema `maestro`, run by Alembic.

Its revisions are files of `migrations/versions`, named `r<number>_<what>.py`; numbers are four digits, so
that newer and older can be told without Alembic, which only a database that has to change needs.
"""

from __future__ import annotations

import logging
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maestro_dagster.database.address import show_url
from maestro_dagster.database.interface import PLAIN, SCHEMA, Wording

if TYPE_CHECKING:
    from psycopg2.extensions import connection as RawConnection  # noqa: N812 - its own name is lower case

_FOLDER = Path(__file__).with_name("migrations")
_REVISION = re.compile(r"r(\d{4})_\w+\.py")
_LOCK = 5_567_049_253  # one process makes the tables, the others wait and find them made


@cache
def list_revisions() -> tuple[str, ...]:
    """All numbers that this Maestro knows, oldest first."""
    found = (_REVISION.fullmatch(path.name) for path in (_FOLDER / "versions").iterdir())
    return tuple(sorted(match.group(1) for match in found if match))


def read_revision(connection: RawConnection) -> str | None:
    """The number that the database has; None: it holds no tables of Maestro's yet."""
    from maestro_dagster.database.pool import send

    if send(connection, f"SELECT to_regclass('{SCHEMA}.alembic_version')::text")[0][0] is None:
        return None
    rows = send(connection, f"SELECT version_num FROM {SCHEMA}.alembic_version")  # noqa: S608 - a constant
    return str(rows[0][0]) if rows else None


def require_schema(
    connection: RawConnection, url: str, wording: Wording = PLAIN, *, dagster: bool = False
) -> None:
    """Makes the tables in an empty database; refuses older ones (`older`) and newer ones (`newer`).

    Tables that hold something are changed by `maestro migrate` alone, while nobody uses them. `dagster`:
    Dagster's tables will lie there too. Raises (`rights`) before anything is made.
    """
    from maestro_dagster.database.survey import is_ours, refuse_misplaced, require_rights

    found, newest = read_revision(connection), list_revisions()[-1]
    if not is_ours(found):
        refuse_misplaced(connection, url)
    if found is None:
        require_rights(connection, url, wording, ours=True, dagster=dagster)
        upgrade_schema(url)
    elif found < newest:
        what = f"has tables of revision {found}, this Maestro needs {newest}"
        remedy = "stop every Maestro that uses it, make a backup, then run `maestro migrate`"
        raise wording.fault("older", what, show_url(url), remedy)
    elif found > newest:
        what = f"has tables of revision {found}, this Maestro knows revisions up to {newest}"
        remedy = "install the Maestro that made them, or name another database"
        raise wording.fault("newer", what, show_url(url), remedy)


def upgrade_schema(url: str, revision: str = "head") -> None:
    """Makes or upgrades the tables, all or nothing. Raises the driver's errors."""
    import psycopg2
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    logging.getLogger("alembic").setLevel(logging.WARNING)  # what it does is said by whoever called
    # The driver reads the URL: SQLAlchemy understands fewer of its options.
    engine = create_engine(
        "postgresql+psycopg2://", creator=lambda: psycopg2.connect(url), poolclass=NullPool
    )
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    try:
        with engine.begin() as connection:
            run_sql(connection, f"SELECT pg_advisory_xact_lock({_LOCK})")
            found = connection.exec_driver_sql(f"SELECT to_regnamespace('{SCHEMA}')::text").scalar()
            if found is None:  # a role that may not create schemas can use one that is there
                run_sql(connection, f"CREATE SCHEMA {SCHEMA}")
            run_sql(connection, f"SET LOCAL search_path TO {SCHEMA}")
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    except DBAPIError as error:
        raise (error.orig or error) from error
    finally:
        engine.dispose()


def run_sql(connection: Any, statements: str) -> None:
    """Sends SQL as it stands, any number of statements."""
    connection.exec_driver_sql(statements, execution_options={"no_parameters": True})


def run_folder(connection: Any, folder: str) -> None:
    """Runs every `.sql` file of a folder of `migrations`, in the order of their names."""
    for path in sorted((_FOLDER / folder).glob("*.sql")):
        run_sql(connection, path.read_text(encoding="utf-8"))
