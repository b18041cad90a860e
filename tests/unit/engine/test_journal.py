"""The journal: durable, shared, and plain about what is wrong with it."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from maestro_dagster.database.interface import Database
from maestro_dagster.engine.engine import Engine
from maestro_dagster.engine.journal import Journal
from maestro_dagster.engine.lease import is_live
from maestro_dagster.engine.process import ProcessMark, mark_process
from maestro_dagster.engine.schema import check_journal, open_connection, open_file
from maestro_dagster.engine.writer import Delivery, GroupWriter
from maestro_dagster.errors import JournalError, MaestroError

BOTH = pytest.mark.parametrize("journal_kind", ["sqlite", "postgres"], indirect=True)
Store = Callable[[], Database]
FLIPS = 5000 if os.environ.get("MAESTRO_SOAK") == "1" else 200


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(MaestroError) as caught:
        call()
    assert caught.value.remedy
    return caught.value.error_code


@pytest.fixture
def journal(tmp_path: Path, engine: Engine, perform: Any, support: ModuleType) -> Path:
    """A journal with one closed run of some steps, checkpointed into one file."""
    perform(support.make_flow(*({"id": f"s{number}"} for number in range(30))))
    engine.services.journal.close()
    path = Path(engine.services.journal.place)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    assert check_journal(path) == []
    return path


def test_a_journal_cut_anywhere_is_a_coded_error_and_is_left_as_it_is(journal: Path, tmp_path: Path) -> None:
    whole = journal.read_bytes()
    for size in (1, 50, 99, 100, 4095, 4096, len(whole) // 2, len(whole) - 4096, len(whole) - 1):
        cut = tmp_path / f"cut{size}" / "journal.sqlite"
        cut.parent.mkdir()
        cut.write_bytes(whole[:size])
        assert code_of(lambda cut=cut: Journal(cut).runs()) == "journal-corrupt"  # type: ignore[misc]
        assert cut.read_bytes() == whole[:size]


def test_a_journal_of_other_bytes_is_a_coded_error(journal: Path, tmp_path: Path) -> None:
    size = journal.stat().st_size
    for name, data in {"text": b"hello\n" * 2000, "random": os.urandom(size), "zeros": bytes(size)}.items():
        other = tmp_path / name
        other.write_bytes(data)
        assert code_of(lambda other=other: Journal(other).runs()) == "journal-corrupt"  # type: ignore[misc]
        assert other.read_bytes() == data


def test_damage_inside_is_a_coded_error_never_a_traceback(journal: Path, tmp_path: Path) -> None:
    whole = bytearray(journal.read_bytes())
    for page in range(1, len(whole) // 4096):
        damaged = tmp_path / f"page{page}.sqlite"
        data = bytearray(whole)
        data[page * 4096 : page * 4096 + 200] = os.urandom(200)
        damaged.write_bytes(data)
        assert read_all(damaged) in {"", "journal-corrupt"}
        assert damaged.read_bytes() == data


def test_a_flipped_byte_anywhere_is_a_coded_error_or_harmless(journal: Path, tmp_path: Path) -> None:
    whole = journal.read_bytes()
    chance = random.Random(7)
    positions = [*range(100), *(chance.randrange(len(whole)) for _ in range(FLIPS))]
    codes = set()
    for position in positions:
        damaged = tmp_path / f"flip{position}.sqlite"
        data = bytearray(whole)
        data[position] ^= 0xFF
        damaged.write_bytes(data)
        codes.add(read_all(damaged))
        for path in tmp_path.glob("flip*"):
            path.unlink()
    assert codes <= {"", "journal-corrupt", "journal-foreign", "journal-newer", "journal-unavailable"}
    assert "journal-corrupt" in codes


def read_all(path: Path) -> str:
    """The code of the error that reading the whole journal gives, empty when it gives none."""
    journal = Journal(path)
    try:
        for run in journal.runs():
            journal.flow(run.flow_digest)
            journal.steps(run.run_id)
            journal.record(run.run_id)
        check_journal(path)
    except JournalError as error:
        return error.error_code
    finally:
        journal.close()
    return ""


def test_a_torn_write_ahead_log_loses_only_what_was_not_committed(
    tmp_path: Path, support: ModuleType
) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    flow = support.make_flow({"id": "one"})
    for number in range(5):
        journal.request([support.make_request(f"r{number}", flow)])
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tmp_path.glob("journal.sqlite*"):
        shutil.copy(path, copy)
    wal = copy / "journal.sqlite-wal"
    wal.write_bytes(wal.read_bytes()[:-100])
    (copy / "journal.sqlite-shm").unlink()
    assert [run.run_id for run in Journal(copy / "journal.sqlite").runs()] == ["r3", "r2", "r1", "r0"]
    journal.close()


def test_an_empty_file_becomes_a_journal(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").touch()
    assert Journal(tmp_path / "journal.sqlite").runs() == []


def test_other_databases_and_later_versions_are_refused(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE notes (text)")
    other.commit()
    other.close()
    assert code_of(lambda: Journal(tmp_path / "other").runs()) == "journal-foreign"
    open_connection(tmp_path / "later").close()
    later = sqlite3.connect(tmp_path / "later")
    later.execute("PRAGMA user_version=99")
    later.close()
    assert code_of(lambda: Journal(tmp_path / "later").runs()) == "journal-newer"


def test_a_folder_that_cannot_be_written_is_a_coded_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert code_of(lambda: Journal(tmp_path / "file" / "journal.sqlite").runs()) == "journal-unavailable"


def test_a_full_disk_is_said_and_nothing_of_the_batch_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"

    connection = open_connection(path)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.close()
    writer = GroupWriter(open_file(path))
    writer.call(lambda c: c.execute(f"PRAGMA max_page_count={pages + 1}"))

    def fill(connection: sqlite3.Connection) -> None:
        for number in range(100):
            connection.execute("INSERT INTO flow VALUES (?, ?)", (str(number), b"x" * 4000))

    assert code_of(lambda: writer.call(fill)) == "disk-full"
    assert writer.call(lambda c: c.execute("SELECT count(*) FROM flow").fetchone()[0]) == 0
    writer.close()


@BOTH
def test_what_is_submitted_together_shares_deliveries_and_keeps_its_order(open_store: Store) -> None:
    writer = GroupWriter(open_store())
    delivered: list[list[int]] = []
    order: list[int] = []
    hold = threading.Event()
    writer.submit(lambda _: hold.wait(5))

    def piece(number: int) -> Callable[[sqlite3.Connection], int]:
        def work(connection: sqlite3.Connection) -> int:
            connection.execute("INSERT INTO rate VALUES (?, 0)", (str(number),))
            order.append(number)
            if number == 3:
                raise JournalError("no", code="test")
            return number

        return work

    take = delivered.append
    futures = [writer.submit(piece(number), [Delivery(take, [number])]) for number in range(6)]  # type: ignore[arg-type]
    hold.set()
    assert [future.result() for future in futures if future is not futures[3]] == [0, 1, 2, 4, 5]
    assert isinstance(futures[3].exception(), JournalError)
    assert order == list(range(6))
    assert [number for numbers in delivered for number in numbers] == list(range(6))
    assert len(delivered) < 6
    keys = writer.call(lambda c: [row[0] for row in c.execute("SELECT key FROM rate ORDER BY key")])
    assert keys == ["0", "1", "2", "4", "5"]
    writer.close()
    assert code_of_closed(writer) == "journal-closed"


def code_of_closed(writer: GroupWriter) -> str:
    with pytest.raises(JournalError) as caught:
        writer.call(lambda _: None)
    return caught.value.error_code


def _insert(database: Database, start: int, count: int) -> None:
    writer = GroupWriter(database)
    for number in range(start, start + count):
        writer.call(lambda c, number=number: c.execute("INSERT INTO rate VALUES ('k', ?)", (number,)))  # type: ignore[misc]
    writer.close()


@BOTH
def test_several_processes_share_the_file(open_store: Store) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_insert, args=(open_store(), number * 100, 25)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    with open_store().read() as connection:
        assert connection.execute("SELECT count(DISTINCT at) FROM rate").fetchone()[0] == 75


@BOTH
def test_a_forked_child_writes_and_reads_by_itself(open_store: Store, support: ModuleType) -> None:
    journal = Journal(open_store())
    flow = support.make_flow({"id": "one"})
    journal.request([support.make_request("parent", flow)])
    assert len(journal.runs()) == 1
    child = os.fork()
    if child == 0:
        try:
            journal.request([support.make_request("child", flow)])
            os._exit(0 if len(journal.runs()) == 2 else 1)
        except BaseException:  # noqa: BLE001 - the parent looks at the status
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert {run.run_id for run in journal.runs()} == {"parent", "child"}
    journal.close()


def test_opening_again_keeps_the_locks_of_this_process(tmp_path: Path) -> None:
    """fcntl(2): closing any descriptor of the file would drop them, and another process the WAL."""
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    journal.acquire_rate("k", 1, 60)
    threads = [threading.Thread(target=journal.runs) for _ in range(3)]
    for thread in threads:
        thread.start()
        thread.join()
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM rate'); c.close()"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert path.with_name("journal.sqlite-wal").exists()
    assert journal.acquire_rate("k", 1, 60) > 0
    journal.close()


@BOTH
def test_the_rate_window_never_lets_more_through(open_store: Store) -> None:
    journal = Journal(open_store())
    passed: list[float] = []
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        if journal.acquire_rate("k", 3, 0.1) == 0.0:
            passed.append(time.time())
    journal.close()
    # Any four that passed lie further apart than the window, but for their way back from the journal.
    assert len(passed) >= 6
    for index in range(len(passed) - 3):
        assert passed[index + 3] - passed[index] >= 0.07


@BOTH
def test_leases_end_with_their_process_or_their_time(open_store: Store) -> None:
    journal = Journal(open_store())
    assert journal.take_lease("r", "a", 0.2)
    assert not journal.take_lease("r", "b", 0.2)
    assert journal.take_lease("r", "a", 0.2)
    time.sleep(0.25)
    assert journal.take_lease("r", "b", 30)
    assert journal.renew_lease("r", "b", 30)
    journal.release_lease("r", "b")
    assert not journal.renew_lease("r", "b", 30)
    assert not journal.has_live_lease("r")
    journal.close()


def test_a_process_is_known_by_more_than_its_pid() -> None:
    mine = mark_process()
    assert mine.is_alive() is True
    assert ProcessMark.parse(f"{mine}#part") == mine
    assert ProcessMark(mine.host, mine.pid, mine.born + 1).is_alive() is False
    assert ProcessMark("elsewhere", 1, 1).is_alive() is None
    assert ProcessMark.parse("nonsense") is None
    later, earlier = time.time() + 10, time.time() - 10
    assert is_live(str(mine), earlier, exclusive=False)
    assert not is_live(str(mine), earlier, exclusive=True)
    assert is_live("elsewhere/1/1", later, exclusive=False)
    assert not is_live("elsewhere/1/1", earlier, exclusive=False)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # ended, and left a zombie
    stat = Path(f"/proc/{child}/stat").read_text()
    born = int(stat[stat.rfind(")") + 2 :].split()[19])
    assert ProcessMark(mine.host, child, born).is_alive() is False  # a zombie
    os.waitpid(child, 0)


def test_an_emptied_journal_beside_evidence_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "r1.zip").write_bytes(b"proof")
    (tmp_path / "journal.sqlite").touch()
    assert code_of(lambda: Journal(tmp_path / "journal.sqlite").runs()) == "journal-corrupt"
    assert (tmp_path / "journal.sqlite").stat().st_size == 0


def test_damage_is_noticed_before_the_first_write(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    connection = open_connection(path)
    connection.executemany("INSERT INTO flow VALUES (?, ?)", [(str(n), b"x" * 3000) for n in range(40)])
    connection.close()
    data = bytearray(path.read_bytes())
    page = int.from_bytes(data[16:18], "big")
    data[-2 * page : -page] = b"\x55" * page
    path.write_bytes(data)
    writer = GroupWriter(open_file(path))
    assert code_of(lambda: writer.call(lambda c: c.execute("INSERT INTO rate VALUES ('a', 0)"))) == (
        "journal-corrupt"
    )
    assert path.read_bytes() == data
