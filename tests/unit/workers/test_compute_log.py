"""The captured output of a Dagster run has no secrets, in each of the ways in which it is captured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOKEN = "ghp_" + "a" * 36
SCRIPT = """
import os, subprocess, sys
from maestro_dagster.workers.compute_log import WorkerComputeLogManager, set_capture
folder, mode, token = sys.argv[1:]
set_capture(mode)
key = ["run", "compute_logs", "key"]
manager = WorkerComputeLogManager(folder)
print("before")
with manager.capture_logs(key):
    print("printed", token)
    os.write(2, f"written {token}".encode())
    subprocess.run(["/bin/echo", "echoed", token], check=True)
    assert not manager.is_capture_complete(key)
assert manager.is_capture_complete(key) == (mode != "off")
print("after")
"""


@pytest.mark.parametrize("mode", ["file", "stock", "off"])
def test_what_is_captured(tmp_path: Path, mode: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), mode, TOKEN],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    folder = tmp_path / "run" / "compute_logs"
    captured = {path.name: path.read_text() for path in folder.glob("key.*")}
    if mode == "off":
        assert captured == {}
        assert done.stdout.count(TOKEN) == 2, "the foreground has its own way to hide"
        return
    assert sorted(captured.pop("key.out").splitlines()) == ["echoed ***", "printed ***"]
    assert captured == {"key.err": "written ***", "key.complete": ""}
    shown = ["before", "after", *(["echoed ***", "printed ***"] if mode == "stock" else [])]
    assert sorted(done.stdout.splitlines()) == sorted(shown)
    assert done.stderr == ("written ***" if mode == "stock" else "")
