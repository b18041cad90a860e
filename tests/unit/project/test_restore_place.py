"""A restore fills the state folder where it is, alone, and to the end even when it is killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from maestro_dagster.errors import MaestroError
from maestro_dagster.project.backup import back_up
from maestro_dagster.project.restore import RestoreReport, restore
from maestro_dagster.project.root import Project, find_project, open_project
from maestro_dagster.project.services import open_services
from maestro_dagster.project.unfinished import MARK, STAGE

PASSPHRASE = "correct horse battery staple"
KILLS = 12 if os.environ.get("MAESTRO_SOAK") == "1" else 6


@pytest.fixture
def target(used: Project, tmp_path: Path) -> str:
    back_up(used, str(tmp_path / "backups"), passphrase=PASSPHRASE)
    return str(tmp_path / "backups")


@pytest.fixture
def lost(used: Project, target: str) -> Path:
    """What the state folder was: it is gone."""
    assert target
    return used.home.rename(used.root / "lost")


def fault(call: Callable[[], object]) -> str:
    with pytest.raises(MaestroError) as caught:
        call()
    return caught.value.error_code


def files(folder: Path) -> set[str]:
    """What a backup keeps of a state folder."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
        and path.relative_to(folder).parts[0] not in {"run", "scratch", "cache"}
        and not path.name.endswith(("lock", "-wal", "-shm"))
    }


def runs(project: Project) -> list[str]:
    services = open_services(project)
    try:
        return sorted(run.run_id for run in services.journal.runs(10))
    finally:
        services.policy.close()
        services.journal.close()


@pytest.fixture
def mounted(used: Project, lost: Path) -> Iterator[Path]:
    """The state folder is a file system of its own, as in a container; a new one of ext4 has one folder."""
    assert lost
    used.home.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "none", str(used.home)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("only root may mount")
    (used.home / "lost+found").mkdir(mode=0o700)
    yield used.home
    subprocess.run(["umount", str(used.home)], check=True)


def test_a_state_folder_that_is_a_mount_point(used: Project, target: str, mounted: Path, lost: Path) -> None:
    restore(used, target, passphrase=PASSPHRASE)
    assert files(mounted) == files(lost)
    assert os.path.ismount(mounted)
    assert runs(used) == ["r0", "r1"]
    assert not (mounted / STAGE).exists()
    assert not (mounted / MARK).exists()


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_keys_that_are_a_volume_of_their_own(used: Project, tmp_path: Path, mode: str) -> None:
    """As in the compose file and the chart: of the keys of today, and read only."""
    target, lost, given = str(tmp_path / "backups"), used.root / "lost", tmp_path / "given"
    (used.keys / "older.pub.pem").write_bytes((used.keys / "maestro.pub.pem").read_bytes())
    back_up(used, target, passphrase=PASSPHRASE)
    used.home.rename(lost)
    shutil.copytree(lost / "keys", given)
    (given / "older.pub.pem").unlink()
    used.keys.mkdir(parents=True)
    bind = ["mount", "--bind", str(given), str(used.keys)]
    if subprocess.run(bind, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount")
    try:
        subprocess.run(["mount", "-o", f"remount,bind,{mode}", str(used.keys)], check=True)
        if mode == "ro":
            private = (given / "maestro.pem").rename(tmp_path / "maestro.pem")
            assert fault(lambda: restore(used, target, passphrase=PASSPHRASE)) == "restore-place"
            assert [path.name for path in used.home.iterdir()] == ["keys"]
            private.rename(given / "maestro.pem")
        done = restore(used, target, passphrase=PASSPHRASE)
        assert done.unplaced == (("keys/older.pub.pem",) if mode == "ro" else ())
        assert files(used.home) == files(lost) - set(done.unplaced)
    finally:
        subprocess.run(["umount", str(used.keys)], check=True)


def test_a_state_folder_that_cannot_be_renamed(
    used: Project, target: str, lost: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a mount point, where nobody may mount."""
    used.home.mkdir()
    rename = Path.rename

    def busy(path: Path, goal: Path) -> Path:
        if used.home in {path, goal}:
            raise OSError(16, "Device or resource busy")
        return rename(path, goal)

    monkeypatch.setattr(Path, "rename", busy)
    restore(used, target, passphrase=PASSPHRASE)
    assert files(used.home) == files(lost)


def test_nothing_is_left_beside_the_state_folder(used: Project, target: str, lost: Path) -> None:
    """Keys in clear least of all: a repository would take them. What older releases left goes away."""
    old = used.root / f".{used.home.name}.restoring-abc123" / "keys"
    old.mkdir(parents=True)
    (old / "maestro.pem").write_text("key")
    before = {path.name for path in used.root.iterdir()}
    seen: set[str] = set()

    def look(_: str) -> None:
        seen.update(path.name for path in used.root.iterdir())

    restore(used, target, passphrase=PASSPHRASE, say=look)
    assert seen - before <= {used.home.name}
    assert old.parent.name not in {path.name for path in used.root.iterdir()}
    assert lost.is_dir()


def test_a_check_writes_no_key_and_nothing_into_the_project(
    used: Project, target: str, lost: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    before = sorted(used.root.rglob("*"))
    seen: set[str] = set()

    def look(_: str) -> None:
        seen.update(path.name for path in place.rglob("*"))
        assert all(path.stat().st_mode & 0o077 == 0 for path in place.iterdir())

    assert not restore(used, target, passphrase=PASSPHRASE, check=True, say=look).written
    assert "maestro.pub.pem" in seen
    assert "maestro.pem" not in seen
    assert sorted(used.root.rglob("*")) == before
    assert list(place.iterdir()) == []
    assert lost.is_dir()


def test_two_restores_at_once(used: Project, target: str, lost: Path) -> None:
    """One is done, the other is told; and nobody else uses the folder meanwhile."""
    told: list[str] = []

    def second(_: str) -> None:
        if not told:
            told.append(fault(lambda: restore(used, target, passphrase=PASSPHRASE)))
            told.append(fault(lambda: find_project(used.root, {})))

    restore(used, target, passphrase=PASSPHRASE, say=second)
    assert told == ["restore-running", "restore-unfinished"]
    assert find_project(used.root, {}) == used
    assert files(used.home) == files(lost)


def test_what_arises_meanwhile_stays(used: Project, target: str, lost: Path) -> None:
    witness = used.home / "journal.sqlite"

    def write(text: str) -> None:
        if text.startswith("evidence"):
            witness.write_text("of somebody else")

    assert fault(lambda: restore(used, target, passphrase=PASSPHRASE, say=write)) == "restore-occupied"
    assert [path.name for path in used.home.iterdir() if path.name != "run"] == [witness.name]
    assert witness.read_text() == "of somebody else"
    witness.unlink()
    restore(used, target, passphrase=PASSPHRASE)
    assert files(used.home) == files(lost)


def test_a_loop_that_runs_is_not_restored_under(used: Project, target: str) -> None:
    from maestro_dagster.workers.guard import LoopGuard

    shutil.rmtree(used.home)
    with LoopGuard(used.home):
        assert fault(lambda: restore(used, target, passphrase=PASSPHRASE)) == "loop-running"


def test_a_folder_that_cannot_be_made(used: Project, target: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    project = open_project(used.root, {"MAESTRO_HOME": str(tmp_path / "file" / "home")})
    key = used.keys / "maestro.pub.pem"
    assert fault(lambda: restore(project, target, keys=[key])) == "restore-place"
    assert restore(project, target, keys=[key], check=True).receipts == 2


RESTORE = """
import sys
from pathlib import Path
from maestro_dagster.project.restore import restore
from maestro_dagster.project.root import open_project

def say(text):
    print(text, flush=True)

say("begin")
project = open_project(Path(sys.argv[1]), unfinished=True)
restore(project, sys.argv[2], keys=[Path(sys.argv[3])], passphrase=sys.argv[4], say=say)
say("end")
"""


class Killer:
    """Restores in a process that is killed a while after it has begun."""

    def __init__(self, project: Project, target: str, key: Path, environment: dict[str, str]) -> None:
        self._given = [sys.executable, "-c", RESTORE, str(project.root), target, str(key), PASSPHRASE]
        self._environment = os.environ | environment

    def restore(self, seconds: float | None) -> bool:
        """Whether it came to its end."""
        process = subprocess.Popen(self._given, stdout=subprocess.PIPE, env=self._environment, text=True)
        assert process.stdout
        assert process.stdout.readline() == "begin\n"
        timer = threading.Timer(600 if seconds is None else seconds, process.send_signal, [signal.SIGKILL])
        timer.start()
        said = process.stdout.read()
        process.wait()
        timer.cancel()
        process.stdout.close()
        return process.returncode == 0 and said.endswith("end\n")


def kill_at_random(project: Project, target: str, key: Path, environment: dict[str, str]) -> int:
    """Later and later, until one restore is through; gives how many were killed on the way."""
    killer = Killer(project, target, key, environment)
    seed = random.SystemRandom().getrandbits(32)
    chance = random.Random(seed)
    for killed in range(KILLS):
        if killer.restore(chance.uniform(0, 0.4 * (killed + 1))):
            assert killed, seed
            return killed
        if (project.home / "evidence").is_dir() and not (project.home / MARK).exists():
            return killed + 1  # it was through, and had only not said so yet: the caller compares
    assert killer.restore(None), seed
    return KILLS


def test_killed_at_random_it_is_completed_by_the_same_command(used: Project, target: str, lost: Path) -> None:
    killed = kill_at_random(used, target, lost / "keys" / "maestro.pub.pem", {})
    assert files(used.home) == files(lost), killed
    assert runs(used) == ["r0", "r1"]


class StoppedError(BaseException):
    """As a kill: nobody cleans up after it."""


@pytest.mark.parametrize("moves", [0, 1, 3])
def test_stopped_while_it_moves_in(
    used: Project, target: str, lost: Path, moves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = restore(used, target, passphrase=PASSPHRASE, check=True)
    stop_after(moves, monkeypatch)
    with pytest.raises(StoppedError):
        restore(used, target, passphrase=PASSPHRASE)
    monkeypatch.undo()
    assert fault(lambda: find_project(used.root, {})) == "restore-unfinished"
    newer = back_up(open_project(lost.parent, {"MAESTRO_HOME": str(lost)}), target)
    assert (
        fault(lambda: restore(used, target, backup=newer.id, passphrase=PASSPHRASE)) == "restore-unfinished"
    )
    done = restore(used, target)  # the same backup, although there is a newer one; its keys are there already
    assert same(done, whole)
    assert files(used.home) == files(lost)
    assert runs(used) == ["r0", "r1"]


def same(done: RestoreReport, checked: RestoreReport) -> bool:
    return done.written and done.to_json() == checked.to_json() | {"restored": True}


def stop_after(moves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from maestro_dagster.project.restore_place import Place

    move, count = Place._move, [0]

    def moving(place: Place, source: Path) -> None:
        if count[0] == moves:
            raise StoppedError
        count[0] += 1
        move(place, source)

    monkeypatch.setattr(Place, "_move", moving)


class TestWithDatabase:
    """The commit of its tables decides whether a restore has happened."""

    @pytest.fixture
    def project(
        self, used: Project, new_database: Callable[[], str], run_hello: Callable[..., None]
    ) -> Project:
        pytest.importorskip("psycopg2")
        shutil.rmtree(used.home / "evidence")
        for name in ("journal.sqlite", "budgets.sqlite"):
            (used.home / name).unlink(missing_ok=True)
        project = open_project(used.root, {"MAESTRO_DATABASE": new_database()})
        run_hello(project, "d0")
        run_hello(project, "d1", close=False)
        return project

    @pytest.fixture
    def moved(self, project: Project, new_database: Callable[[], str], tmp_path: Path) -> Project:
        """The same project with an empty database and an empty state folder."""
        back_up(project, str(tmp_path / "kept"), passphrase=PASSPHRASE)
        project.home.rename(tmp_path / "lost")
        return open_project(project.root, {"MAESTRO_DATABASE": new_database()})

    @pytest.mark.parametrize("moment", ["before", "after", "moving"])
    def test_stopped_around_the_commit(
        self, moved: Project, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from maestro_dagster.project.dump import Load

        commit, target = Load.commit, str(tmp_path / "kept")

        def stopped(load: Load) -> None:
            if moment == "after":
                commit(load)
            raise StoppedError

        if moment == "moving":
            stop_after(2, monkeypatch)
        else:
            monkeypatch.setattr(Load, "commit", stopped)
        with pytest.raises(StoppedError):
            restore(moved, target, passphrase=PASSPHRASE)
        monkeypatch.undo()
        assert (moved.home / MARK).is_file()
        done = restore(moved, target, passphrase=PASSPHRASE)
        assert (done.receipts, done.open_runs, done.written) == (1, 1, True)
        assert files(moved.home) == files(tmp_path / "lost")
        assert runs(moved) == ["d0", "d1"]
        assert not (moved.home / STAGE).exists()

    def test_killed_at_random(self, moved: Project, tmp_path: Path) -> None:
        environment = {"MAESTRO_DATABASE": str(moved.settings.database)}
        key = tmp_path / "lost" / "keys" / "maestro.pub.pem"
        killed = kill_at_random(moved, str(tmp_path / "kept"), key, environment)
        assert files(moved.home) == files(tmp_path / "lost"), killed
        assert runs(moved) == ["d0", "d1"]

    def test_a_check_counts_runs_and_compares_evidence(self, moved: Project, tmp_path: Path) -> None:
        """It reads the tables of the backup, without a database to load them into."""
        done = restore(moved, str(tmp_path / "kept"), passphrase=PASSPHRASE, check=True)
        assert (done.receipts, done.open_runs) == (1, 1)


LAID = """
import os, sys
from pathlib import Path
from maestro_dagster.project.restore import restore
from maestro_dagster.project.restore_place import Place
from maestro_dagster.project.root import open_project

Place.set_ready = lambda *_: os._exit(9)
restore(open_project(Path(sys.argv[1])), sys.argv[2], passphrase=sys.argv[3])
"""


class TestWithLakeElsewhere:
    """What a restore lays into a lake outside of the state folder does not stand in the way of the next."""

    @pytest.fixture(params=["folder", "bucket"])
    def lake(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        bucket = request.getfixturevalue("s3_bucket") if request.param == "bucket" else ""
        return f"{bucket}/lake" if bucket else str(tmp_path / "lake")

    @pytest.fixture
    def project(self, used: Project, lake: str, tmp_path: Path) -> Project:
        from maestro_dagster.project.compaction import compact_project_days, list_waiting_days

        assert list(compact_project_days(used, list_waiting_days(used)))
        back_up(used, str(tmp_path / "kept"), passphrase=PASSPHRASE)
        used.home.rename(used.root / "lost")
        return open_project(used.root, {"MAESTRO_LAKE": lake})

    def test_killed_when_it_was_laid(self, project: Project, lake: str, tmp_path: Path) -> None:
        from maestro_dagster.project.backup_source import open_source

        target = str(tmp_path / "kept")
        given = [sys.executable, "-c", LAID, str(project.root), target, PASSPHRASE]
        done = subprocess.run(given, env=os.environ | {"MAESTRO_LAKE": lake}, check=False)
        laid = set(open_source(lake).list())
        assert (done.returncode, bool(laid)) == (9, True)
        restore(project, target, passphrase=PASSPHRASE)
        assert set(open_source(lake).list()) == laid
        assert runs(project) == ["r0", "r1"]

    def test_refused_when_it_was_laid(
        self, project: Project, lake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from maestro_dagster.project.backup_source import open_source
        from maestro_dagster.project.restore_place import Place, occupied

        def refuse(*_: object) -> None:
            raise occupied("here", "somebody was faster")

        monkeypatch.setattr(Place, "set_ready", refuse)
        target = str(tmp_path / "kept")
        assert fault(lambda: restore(project, target, passphrase=PASSPHRASE)) == "restore-occupied"
        assert not open_source(lake).list()
        assert not project.home.exists()
        monkeypatch.undo()
        restore(project, target, passphrase=PASSPHRASE)
        assert open_source(lake).list()
