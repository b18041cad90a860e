"""What a room sees of its database, the same on SQLite and PostgreSQL.

SQL is portable: `?` stands for a value, `INSERT ... ON CONFLICT`, no type names, no functions that only
one of them has. Integers hold 64 bits; a truth value is stored as 0 or 1; no text holds NUL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from maestro_dagster.errors import DatabaseError, MaestroError

T = TypeVar("T")
DISK_FULL = "disk-full"
SCHEMA = "maestro"  # of all our tables in a PostgreSQL


class Rows(Protocol):
    """What a statement gave. Each row is a tuple; bytes may come as a memoryview."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """One transaction. It must not be used after its block."""

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> Rows: ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> object: ...


class Database(Protocol):
    """Opened on first use; safe between threads, processes and forks.

    All of it raises the room's own error class (see Wording).
    """

    kind: Literal["sqlite", "postgres"]
    place: str  # the file, or the URL without user and password

    def read(self) -> AbstractContextManager[Connection]:
        """A transaction that sees everything as of one moment and changes nothing."""

    def write(self) -> AbstractContextManager[Connection]:
        """The one writer of this room, on whatever machine; durable when the block has ended."""

    def run_read(self, work: Callable[[Connection], T]) -> T:
        """As `read`; done again when the connection was lost meanwhile."""

    def run_write(self, work: Callable[[Connection], T]) -> T:
        """As `write`; done again when the connection was lost and nothing of it was committed.

        So `work` changes nothing but the database.
        """

    @property
    def failure(self) -> type[Exception]:
        """What a statement raises within a block."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Wording:
    """How a room speaks of its database: errors are of its class, codes begin with its word.

    `<word>-unavailable` `-busy` `-corrupt` `-refused` `-newer` `-older`; `disk-full` is the same everywhere.
    """

    error: type[MaestroError] = DatabaseError
    subject: str = "the database"
    word: str = "database"

    def fault(self, kind: str, what: str, place: str, remedy: str) -> MaestroError:
        """`what` goes on after the subject: "is damaged"."""
        code = kind if kind == DISK_FULL else f"{self.word}-{kind}"
        return self.error(f"{self.subject} {what}", place=place, remedy=remedy, code=code)


PLAIN = Wording()
