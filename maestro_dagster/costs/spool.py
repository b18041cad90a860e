"""The spool: append-only NDJSON, one file per process and run, durable before `append` returns.

A file has one writer, ever. A line is whole or it does not count: a write cut short by a crash leaves
a tail without its newline, which readers skip. `spool/<run_id>.<pid>-<start>.ndjson`. A field that has
the value it mostly has (0, "", see `costs.line`) is left out of its line.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Self

from maestro_dagster.costs.chunk import read_chunks
from maestro_dagster.costs.interface import Chunk, UsageEvent
from maestro_dagster.costs.line import decode_line, encode_event
from maestro_dagster.errors import CostError

_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT)
_TRIES, _PAUSE = 20, 0.005  # a compactor holds a file for microseconds


class SpoolWriter:
    """Appends the events of one run from this process. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            self._file = _open_locked(path)
            self._size = os.fstat(self._file).st_size
            self._torn = self._size > 0 and not _ends_with_newline(path, self._size)
            _sync_folder(path.parent)
        except OSError as error:
            raise write_error(error, path) from error

    def append(self, events: Sequence[UsageEvent], *, durable: bool = True) -> None:
        """Writes all events or none. Raises CostError (`disk-full`, `spool-write`, `spool-closed`)."""
        if not events:
            return
        data = b"".join(encode_event(event) for event in events)
        with self._lock:
            if self._file < 0:
                raise CostError("the spool file was closed", place=str(self.path), code="spool-closed")
            self._write(b"\n" + data if self._torn else data, durable=durable)

    def _write(self, data: bytes, *, durable: bool) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
            if durable:
                os.fdatasync(self._file)
        except OSError as error:
            self._undo()
            raise write_error(error, self.path) from error
        self._size += len(data)
        self._torn = False

    def _undo(self) -> None:
        # Whole lines of a batch that was cut short would count, and the caller was told that none did.
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            self._torn = True
            self._size = os.fstat(self._file).st_size

    def close(self) -> None:
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Spool:
    """The folder of all spool files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def lineage(self) -> Path:
        return self.folder

    def open_run(self, run_id: str) -> SpoolWriter:
        """A new file of this process for the run."""
        if not run_id or "/" in run_id or run_id.startswith(".") or "\0" in run_id:
            raise CostError(f"{run_id!r} cannot name a run", place=str(self.folder), code="run-id-invalid")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(error, self.folder) from error
        return SpoolWriter(self.folder / f"{run_id}.{os.getpid()}-{time.time_ns()}.ndjson")

    def files(self, run_id: str | None = None) -> tuple[tuple[str, Path], ...]:
        """(run_id, file) of every spool file, oldest writer first, then by name."""
        try:
            names = sorted(entry.name for entry in os.scandir(self.folder) if entry.name.endswith(".ndjson"))
        except FileNotFoundError:
            return ()
        found = []
        for name in names:
            parts = name.rsplit(".", 2)
            if len(parts) == 3 and (run_id is None or parts[0] == run_id):  # noqa: PLR2004 - run, writer, suffix
                found.append((parts[0], self.folder / name))
        return tuple(sorted(found, key=lambda item: (item[0], _start(item[1]), item[1].name)))

    def runs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(run_id for run_id, _ in self.files()))

    def days(self) -> tuple[str, ...]:
        """Days that there are events of, ascending. Raises CostError (`spool-corrupt`)."""
        return tuple(sorted({day for chunk in self.chunks() for day in chunk.others}))

    def chunks(self, day: str | None = None, sources: Collection[str] | None = None) -> Iterator[Chunk]:
        """Every line of a day (None: all), in the order in which duplicates are decided."""
        for run_id, path in self.files():
            if sources is None or str(path) in sources:
                yield from read_chunks(run_id, path, day)

    def read_source(self, source: str) -> Iterator[UsageEvent]:
        """The events of one file, each checked. Raises CostError (`spool-corrupt`) with the line."""
        return read_file(Path(source))

    def remove(self, source: str, end: int) -> bool:
        """Removes a file that nobody writes any more and that has no whole line after `end`."""
        try:
            handle = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            rest = os.pread(handle, max(0, os.fstat(handle).st_size - end), end)
            if b"\n" in rest:
                return False
            Path(source).unlink()
        except BlockingIOError:
            return False
        finally:
            os.close(handle)
        return True

    def read_run(self, run_id: str) -> list[UsageEvent]:
        """The run's events, each once. An intent that was never settled stands for its reserve."""
        return resolve_events(event for _, path in self.files(run_id) for event in read_file(path))

    def read_runs(self) -> Iterator[tuple[str, list[Path], list[UsageEvent]]]:
        """Every run with its files and its events, the folder being listed once."""
        for run_id, group in groupby(self.files(), key=itemgetter(0)):
            paths = [path for _, path in group]
            yield run_id, paths, resolve_events(event for path in paths for event in read_file(path))


def resolve_events(events: Iterable[UsageEvent]) -> list[UsageEvent]:
    """Each event id once, in order of first appearance: the first settlement, else the first intent."""
    found: dict[str, UsageEvent] = {}
    for event in events:
        seen = found.get(event.event_id)
        if seen is None or (seen.phase == "intent" and event.phase == "settled"):
            found[event.event_id] = event
    return list(found.values())


def read_file(path: Path) -> Iterator[UsageEvent]:
    """Raises CostError (`spool-corrupt`) for a line that is damaged rather than torn."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:  # compacted meanwhile
        return
    except OSError as error:
        raise CostError(
            f"the usage spool cannot be read: {error.strerror}", place=str(path), code="spool-read"
        ) from error
    lines = data.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn, or empty
        event = decode_line(line, f"{path}:{number}")
        if event is not None:
            yield event


def _open_locked(path: Path) -> int:
    """Opens the file for its only writer. Raises BlockingIOError while there is another.

    A compactor removes a file that has nothing left to publish, which is any new one, under the same lock:
    who meets it waits for a moment, and begins anew what is gone.
    """
    for left in range(_TRIES, -1, -1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file).st_nlink:
                return file
            os.close(file)
        except OSError as error:
            os.close(file)
            if not (left and isinstance(error, BlockingIOError)):
                raise
            time.sleep(_PAUSE)
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))


def _start(path: Path) -> int:
    _, _, start = path.name.rsplit(".", 2)[1].partition("-")
    return int(start) if start.isdigit() else 0


def _ends_with_newline(path: Path, size: int) -> bool:
    with path.open("rb") as file:
        file.seek(size - 1)
        return file.read(1) == b"\n"


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_error(error: OSError, path: Path) -> CostError:
    """`disk-full` or `spool-write`, with what to do."""
    if error.errno in _OUT_OF_SPACE:
        return CostError(
            "the disk is full, no usage was recorded",
            place=str(path),
            remedy="free space, then retry the run",
            code="disk-full",
        )
    return CostError(
        f"usage cannot be recorded: {error.strerror or error}",
        place=str(path),
        remedy="make the folder writable, then retry the run",
        code="spool-write",
    )
