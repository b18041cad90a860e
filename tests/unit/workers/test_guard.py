from __future__ import annotations

from pathlib import Path

import pytest

from maestro_dagster.errors import ProjectError
from maestro_dagster.workers.guard import LoopGuard, is_loop_ready, is_loop_running
from maestro_dagster.workers.socket_file import connect_to, listen_on


def test_two_loops_on_one_project_refuse(tmp_path: Path) -> None:
    with LoopGuard(tmp_path) as guard:
        guard.set_ready()
        with pytest.raises(ProjectError) as caught, LoopGuard(tmp_path):
            pass
        assert caught.value.error_code == "loop-running"
        assert (tmp_path / "run" / "ready").exists(), "the refused one changes nothing"
    with LoopGuard(tmp_path):
        assert not (tmp_path / "run" / "ready").exists()


def test_a_loop_is_ready_once_it_takes_work_and_no_longer_than_it_lives(tmp_path: Path) -> None:
    assert not is_loop_ready(tmp_path)
    with LoopGuard(tmp_path) as guard:
        assert is_loop_running(tmp_path)
        assert not is_loop_ready(tmp_path)
        guard.set_ready()
        assert is_loop_ready(tmp_path)
        guard.clear()  # it ends what runs, and begins nothing
        assert not is_loop_ready(tmp_path)
        guard.set_ready()
    (tmp_path / "run" / "ready").touch()  # of a loop that was killed
    assert not is_loop_ready(tmp_path)


def test_a_socket_works_in_a_folder_with_a_long_path(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120) / "loop.sock"
    with listen_on(path) as server, connect_to(path, 1.0) as client:
        assert path.stat().st_mode & 0o077 == 0
        other, _ = server.accept()
        with other:
            client.sendall(b"hello")
            assert other.recv(5) == b"hello"
    with listen_on(path):
        pass  # what an earlier process left is replaced
