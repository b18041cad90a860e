"""The state folder that a restore fills. It may be a mount point, so it never moves: what is to be lies in a
hidden folder in it, and its entries are renamed into their places one after the other.

    <home>/restoring.json       the mark: others keep away, and who runs the restore again goes on
    <home>/.restoring/state/    the state folder that is to be
    <home>/run/*.lock           fall with the process: no second restore, no loop
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from maestro_dagster.errors import ProjectError
from maestro_dagster.project.backup_source import PUBLIC_SUFFIX, SECRET_FOLDERS
from maestro_dagster.project.unfinished import MARK, STAGE, Mark, read_mark, sync_folder

_LOCK: Final = "restore.lock"
_OURS: Final = frozenset({_LOCK, "loop.lock", "loop.json"})
_RUN: Final = "run"
_ALLOWED: Final = frozenset({*SECRET_FOLDERS, STAGE, MARK, "lost+found"})  # what may stand there before


class Place:
    """A state folder that this process holds. `mark` is what an earlier restore left, None without one."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.mark = read_mark(home)
        self.begun = False
        self.kept = self.mark is not None and self.mark.ready  # it cannot be as before any more

    @property
    def stage(self) -> Path:
        return self.home / STAGE / "state"

    def refuse_occupied(self) -> None:
        """Nothing is restored over something: keys and secrets may stand there, and nothing else.

        Raises ProjectError (`restore-occupied`).
        """
        others = [path.name for path in sorted(self.home.iterdir()) if not _is_allowed(path)]
        if others:
            raise occupied(str(self.home), f"the state folder holds {', '.join(others[:5])}")

    def begin(self, backup: str) -> Path:
        """Marks the folder and gives an empty stage."""
        with plain_errors(self.home):
            shutil.rmtree(self.home / STAGE, ignore_errors=True)
            (self.home / STAGE).mkdir(mode=0o700)
            self.stage.mkdir()
            self.mark = Mark(backup, secrets.token_hex(16))
            self.mark.write(self.home)
        self.begun, self.kept = True, False
        return self.stage

    def keep_secrets(self) -> None:
        """Those that the folder has already stay; a different one of the same name is refused."""
        for name in SECRET_FOLDERS:
            given = self.home / name
            for path in sorted(given.rglob("*")):
                goal = self.stage / path.relative_to(self.home)
                if not path.is_file():
                    continue
                if not goal.exists():
                    goal.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    shutil.copy2(path, goal)
                elif goal.read_bytes() != path.read_bytes():
                    raise occupied(str(path), "another key or secret of this name")

    def fit_secrets(self) -> tuple[str, ...]:
        """Keys may come from a volume that can only be read. Public ones that it lacks are left out and told.

        Raises ProjectError (`restore-place`) for others.
        """
        left_out = []
        for path in [each for name in SECRET_FOLDERS for each in sorted((self.stage / name).rglob("*"))]:
            name = path.relative_to(self.stage)
            goal = self.home / name
            if not path.is_file() or goal.exists() or _is_writable(goal.parent):
                continue
            if not path.name.endswith(PUBLIC_SUFFIX):
                raise ProjectError(
                    f"the folder can only be read, and lacks {goal.name}",
                    place=str(goal.parent),
                    remedy="put it there first, from where the folder comes; or make the folder writable",
                    code="restore-place",
                )
            path.unlink()
            left_out.append(name.as_posix())
        return tuple(left_out)

    def set_ready(self, report: Mapping[str, Any]) -> None:
        """From here on the restore is completed, not begun anew; with a database once that has committed."""
        self.refuse_occupied()
        os.sync()  # thousands of files at once; a commit must not be more durable than they are
        assert self.mark is not None  # noqa: S101 - begin was called
        self.mark = self.mark.as_ready(report)
        self.kept = True
        self.mark.write(self.home)

    def move_in(self) -> None:
        """What lies in the stage takes its place; done again it goes on where it was stopped."""
        self.kept = True
        with plain_errors(self.home):
            for source in sorted(self.stage.iterdir()) if self.stage.is_dir() else ():
                self._move(source)
            sync_folder(self.home)
            shutil.rmtree(self.home / STAGE, ignore_errors=True)
            (self.home / MARK).unlink(missing_ok=True)
            sync_folder(self.home)

    def _move(self, source: Path) -> None:
        goal = self.home / source.relative_to(self.stage)
        secret = goal.relative_to(self.home).parts[0] in SECRET_FOLDERS
        if not os.path.lexists(goal):
            _shift(source, goal)
        elif secret and source.is_dir() and goal.is_dir():  # a volume of its own, perhaps
            for each in sorted(source.iterdir()):
                self._move(each)
        elif secret and goal.is_file() and goal.read_bytes() == source.read_bytes():
            source.unlink()
        else:
            raise occupied(str(goal), "it arose while the backup was restored")


@contextmanager
def hold_home(home: Path) -> Iterator[Place]:
    """The state folder, made if need be; as it was before when anything fails, unless the restore is ready.

    Raises ProjectError (`restore-running`, `loop-running`, `restore-place`).
    """
    from maestro_dagster.workers.guard import LoopGuard

    with plain_errors(home):
        made = not home.is_dir()
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        ran = (home / _RUN).is_dir()
        (home / _RUN).mkdir(exist_ok=True, mode=0o700)
    with ExitStack() as stack:
        stack.enter_context(_hold(home / _RUN / _LOCK))
        stack.enter_context(LoopGuard(home))
        place = Place(home)
        try:
            yield place
        except BaseException:
            if not place.kept and (place.begun or place.mark is None):
                _undo(home, made=made, ran=ran)
            raise


@contextmanager
def plain_errors(home: Path) -> Iterator[None]:
    """Raises ProjectError (`restore-place`)."""
    try:
        yield
    except OSError as error:
        if find_full(error):
            raise
        raise ProjectError(
            f"the state folder cannot be written: {error.strerror or error}",
            place=str(error.filename or home),
            remedy="make the folder writable for you, or name another one in MAESTRO_HOME; then run the same "
            "`maestro restore` again",
            code="restore-place",
        ) from error


def find_full(error: OSError) -> bool:
    from maestro_dagster.engine.disk import find_full_disk

    return find_full_disk(error) is not None


def occupied(place: str, why: str) -> ProjectError:
    return ProjectError(
        f"there is something already where the backup is to go: {why}",
        place=place,
        remedy="stop what runs there and move it away, or set MAESTRO_HOME to a new folder",
        code="restore-occupied",
    )


def remove_leftovers(home: Path) -> None:
    """Of releases that laid out the folder beside its place, keys among it, and were killed."""
    for path in home.parent.glob(f".{home.name}.restoring-*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def _shift(source: Path, goal: Path) -> None:
    """A rename, also into a folder that is a volume of its own."""
    try:
        source.rename(goal)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        if source.is_dir():
            shutil.copytree(source, goal)
            return
        draft = goal.with_name(f".{goal.name}.tmp")
        shutil.copy2(source, draft)
        draft.replace(goal)
        sync_folder(goal.parent)


def _is_writable(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK)


def _is_allowed(path: Path) -> bool:
    if path.name == _RUN and path.is_dir():
        return {each.name for each in path.iterdir()} <= _OURS
    return path.name in _ALLOWED


@contextmanager
def _hold(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = path.stat().st_ino == os.fstat(handle).st_ino  # not one that its holder has removed
        except OSError:
            ours = False
        if not ours:
            raise ProjectError(
                "a restore into this state folder is at work",
                place=str(path),
                remedy="wait for its end",
                code="restore-running",
            )
        yield
    finally:
        os.close(handle)


def _undo(home: Path, *, made: bool, ran: bool) -> None:
    shutil.rmtree(home / STAGE, ignore_errors=True)
    (home / MARK).unlink(missing_ok=True)
    with suppress(OSError):
        if not ran:
            for name in _OURS:
                (home / _RUN / name).unlink(missing_ok=True)
            (home / _RUN).rmdir()
        if made:
            home.rmdir()
