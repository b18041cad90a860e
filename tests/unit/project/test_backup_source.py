"""A state folder is looked through while runs make folders in it and take them away."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from maestro_dagster.project.backup_source import find_databases
from maestro_dagster.project.root import find_project
from maestro_dagster.project.scaffold import init_project


def test_folders_that_come_and_go_are_no_reason_to_stop(tmp_path: Path) -> None:
    init_project(tmp_path / "shop")
    project = find_project(tmp_path / "shop")
    (project.home / "inbox").mkdir(exist_ok=True)
    kept = project.home / "inbox" / "inbox.sqlite"
    kept.touch()
    (project.home / "scratch").mkdir(exist_ok=True)
    (project.home / "scratch" / "a.sqlite").touch()
    busy = project.home / "compute_logs"
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            for number in range(40):
                (busy / f"run{number}" / "a" / "b").mkdir(parents=True, exist_ok=True)
            shutil.rmtree(busy)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        found = [find_databases(project)[0] for _ in range(300)]
    finally:
        over.set()
        thread.join()
    assert found == [[kept]] * 300
