from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

from maestro_dagster.engine.schema import open_connection


def test_a_second_connection_here_keeps_the_wal_from_other_processes(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    first = open_connection(path)
    second = open_connection(path)
    second.execute("INSERT INTO rate VALUES ('a', 1.0)")
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
        "print(c.execute('SELECT count(*) FROM rate').fetchone()[0]); c.close()"
    )
    command = [sys.executable, "-c", script, str(path)]
    assert subprocess.check_output(command).split() == [b"1"]
    # Had that process believed itself the last user, it would have removed the WAL under our feet.
    assert (tmp_path / "journal.sqlite-wal").exists()
    second.execute("INSERT INTO rate VALUES ('b', 2.0)")
    assert subprocess.check_output(command).split() == [b"2"]
    first.close()
    second.close()
    assert sqlite3.connect(path).execute("SELECT count(*) FROM rate").fetchone() == (2,)
