"""Dagster's storage on SQLite, several times cheaper than the stock one (bench: step_cpu_sqlite).

Stock SQLite opens connections anew for every event, commits a materialisation in several pieces, and
keeps each run in a database file of its own. Here connections stay open, an event is one transaction in
one database, and the schema is checked once per release of Dagster instead of at every start.

WAL with `synchronous=NORMAL`: a killed process loses nothing, a power cut may lose the last events. The
journal of the engine waits for the disk; what Dagster lost is recorded again when the run is resumed.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as db
from dagster import AssetKey, DagsterEventType, EventLogEntry, StringSource
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log.base import EventLogStorage
from dagster._core.storage.event_log.sqlite import consolidated_sqlite_event_log
from dagster._core.storage.event_log.sqlite.consolidated_sqlite_event_log import (
    ConsolidatedSqliteEventLogStorage,
)
from dagster._core.storage.runs.base import RunStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.schedules.base import ScheduleStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._core.storage.sql import get_alembic_config, safe_commit, stamp_alembic_rev
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS, create_db_conn_string
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from dagster.version import __version__ as dagster_version
from sqlalchemy.pool import QueuePool

from maestro_dagster.workers.filelock import hold_file

if TYPE_CHECKING:
    from dagster._config.config_schema import UserConfigSchema
    from sqlalchemy.engine import Connection, Engine

_EVENTS = "events"
_RUNS = "runs"
_SCHEDULES = "schedules"
_PAGE_SIZE = 16384
_REMEMBERED = 10_000  # materialisations of this process


class _Engines:
    """One pool of connections a process; a forked child gets its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._pid = 0

    def get(self) -> Engine:
        with self._lock:
            if self._engine is None or self._pid != os.getpid():
                self._engine = db.create_engine(
                    self._url,
                    poolclass=QueuePool,
                    pool_size=4,
                    max_overflow=60,  # the webserver has many threads; they wait for SQLite, not for us
                    connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
                )
                db.event.listen(self._engine, "connect", _set_pragmas)
                self._pid = os.getpid()
            return self._engine

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        with self.get().connect() as connection, connection.begin():
            yield connection

    def dispose(self) -> None:
        with self._lock:
            if self._engine is not None and self._pid == os.getpid():
                self._engine.dispose()
            self._engine = None


def _set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


class PooledRunStorage(SqliteRunStorage):
    """Runs, with connections that stay open. Made by `MaestroSqliteStorage` alone."""

    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines = _Engines(conn_string)
        super().__init__(conn_string, inst_data)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        with self._engines.begin() as connection:
            yield connection

    def dispose(self) -> None:
        self._engines.dispose()


class PooledEventStorage(ConsolidatedSqliteEventLogStorage):
    """Events of all runs in one database; what is stored inside `_together` is one transaction."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines = _Engines(create_db_conn_string(base_dir, "event_log"))
        self._local = threading.local()
        self._waiting: list[EventLogEntry] = []
        self._waiting_lock = threading.Lock()
        self._tables: set[str] = set()
        self._stored: dict[tuple[str, AssetKey | None], tuple[int, float]] = {}
        super().__init__(base_dir, inst_data)

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        current = getattr(self._local, "connection", None)
        if current is not None:
            yield current
            return
        self._store_waiting()
        with self._engines.begin() as connection:
            yield connection

    @contextmanager
    def _together(self) -> Iterator[None]:
        with self._engines.begin() as connection:
            self._local.connection = connection
            try:
                yield
            finally:
                self._local.connection = None
        # The pages' live view watches the file, and a commit only changes the WAL beside it.
        os.utime(self.get_db_path())  # type: ignore[no-untyped-call]

    def store_event(self, event: EventLogEntry) -> None:
        """An output's event waits for the event of the asset or check, which follows at once."""
        if event.is_dagster_event and event.dagster_event_type == DagsterEventType.STEP_OUTPUT:
            with self._waiting_lock:
                self._waiting.append(event)
            return
        self.store_event_batch([event])

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        with self._waiting_lock:
            waiting, self._waiting = self._waiting, []
        if not waiting and not events:
            return
        with self._together():
            for event in (*waiting, *events):
                super().store_event(event)

    def _store_asset_event(self, conn: Connection, event: EventLogEntry, event_id: int) -> None:
        super()._store_asset_event(conn, event, event_id)
        if event.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION and event.dagster_event:
            if len(self._stored) > _REMEMBERED:
                self._stored.clear()
            key = (event.run_id, event.dagster_event.asset_key)
            self._stored[key] = (event_id, event.timestamp)

    def stored_event(self, run_id: str, key: AssetKey) -> tuple[int, float] | None:
        """(storage id, timestamp) of the materialisation that this process stored for the run."""
        return self._stored.get((run_id, key))

    def has_table(self, table_name: str) -> bool:
        """Tables are never dropped, so a yes is remembered."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    def dispose(self) -> None:
        self._store_waiting()
        super().dispose()  # type: ignore[no-untyped-call]
        self._engines.dispose()

    def _store_waiting(self) -> None:
        if self._waiting:
            self.store_event_batch(())


class MaestroSqliteStorage(DagsterStorage, ConfigurableClass):
    """All of a project's Dagster storage below one folder."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        _prepare(Path(base_dir))
        self._runs = PooledRunStorage(create_db_conn_string(f"{base_dir}/{_RUNS}", "runs"))
        self._events = PooledEventStorage(f"{base_dir}/{_EVENTS}")
        self._schedules = SqliteScheduleStorage(
            create_db_conn_string(f"{base_dir}/{_SCHEDULES}", "schedules")
        )
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {"base_dir": StringSource}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> MaestroSqliteStorage:
        return cls(inst_data=inst_data, **config_value)

    @property
    def event_log_storage(self) -> EventLogStorage:
        return self._events

    @property
    def run_storage(self) -> RunStorage:
        return self._runs

    @property
    def schedule_storage(self) -> ScheduleStorage:
        return self._schedules

    @property
    def event_storage_data(self) -> ConfigurableClassData | None:
        return None

    @property
    def run_storage_data(self) -> ConfigurableClassData | None:
        return None

    @property
    def schedule_storage_data(self) -> ConfigurableClassData | None:
        return None

    def register_instance(self, instance: Any) -> None:
        super().register_instance(instance)
        for storage in (self._runs, self._events, self._schedules):
            if not storage.has_instance:
                storage.register_instance(instance)

    def dispose(self) -> None:
        self._events.dispose()
        self._runs.dispose()
        self._schedules.dispose()


def _prepare(folder: Path) -> None:
    """Makes or migrates the databases, once per release of Dagster and by one process at a time."""
    stamp = folder / "prepared"
    if _read(stamp) == dagster_version:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with hold_file(folder / "prepare.lock"):
        if (before := _read(stamp)) == dagster_version:
            return
        runs = SqliteRunStorage.from_local(str(folder / _RUNS))
        schedules = SqliteScheduleStorage.from_local(str(folder / _SCHEDULES))
        events = ConsolidatedSqliteEventLogStorage(str(folder / _EVENTS))
        if before is None:
            _stamp(events)
            _set_page_size(Path(events.get_db_path()))  # type: ignore[no-untyped-call]
        else:
            for storage in (runs, schedules, events):
                storage.upgrade()
        stamp.write_text(dagster_version, encoding="ascii")


def _stamp(events: ConsolidatedSqliteEventLogStorage) -> None:
    """Says which migrations the new tables hold. Stock does so too, but leaves it uncommitted."""
    config = get_alembic_config(consolidated_sqlite_event_log.__file__)
    with events.index_connection() as connection:  # type: ignore[no-untyped-call]
        stamp_alembic_rev(config, connection)
        safe_commit(connection)


def _set_page_size(path: Path) -> None:
    """An event is 1 to 4 KB: on pages of 4 KB, the default, a third of the file would stay empty."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute(f"PRAGMA page_size={_PAGE_SIZE}")
        connection.execute("VACUUM")
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        return None
