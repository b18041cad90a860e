"""Every push is requested once, whatever happens to the process that takes it in."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.events.hook import install_hook
from maestro_dagster.events.inbox import Inbox

Git = Any  # of conftest.py
SOAK = os.environ.get("MAESTRO_SOAK") == "1"
PUSHES = 1000 if SOAK else 100
KILLS = 25 if SOAK else 5

# Takes events in as the loop does: ingest, ask for a run (a line in a file, fsynced), note it.
TAKER = """
import os, sys, time
from pathlib import Path
from maestro_dagster.events.inbox import Inbox
from maestro_dagster.events.interface import run_id_for

inbox = Inbox(Path(sys.argv[1]), Path(sys.argv[2]))
requests = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
while True:
    inbox.ingest()
    for event in inbox.pending():
        run_id = run_id_for(event.event_id, "flow")
        os.write(requests, f"{run_id} {event.after} {event.ref}\\n".encode())
        os.fsync(requests)
        inbox.mark_requested(event.event_id, [run_id])
    time.sleep(0.005)
"""


@pytest.mark.timeout(900)
def test_pushes_while_the_taker_dies(git: Git, inbox: Inbox, tmp_path: Path) -> None:
    install_hook(git.bare, inbox.folder)
    rng = random.Random(7)
    requests = tmp_path / "requests"
    arguments = [sys.executable, "-c", TAKER, str(inbox.folder), inbox.database.place, str(requests)]
    kills = set(rng.sample(range(PUSHES), KILLS))
    taker = subprocess.Popen(arguments)
    pushed = []
    try:
        for number in range(PUSHES):
            ref = "refs/heads/busy" if number % 10 == 0 else f"refs/heads/b{number}"
            git.run("commit", "--quiet", "--allow-empty", "--message", str(number))
            git.push(f"HEAD:{ref}")
            pushed.append((git.run("rev-parse", "HEAD"), ref))
            if number in kills:
                taker.send_signal(signal.SIGKILL)
                taker.wait()
                taker = subprocess.Popen(arguments)
        deadline = time.monotonic() + 60
        while (len(inbox.recent(PUSHES + 1)) < PUSHES or inbox.pending()) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        taker.kill()
        taker.wait()
    lines = [line.split() for line in requests.read_text().splitlines()]
    # Asking twice is allowed (a kill between asking and noting), but for the same run.
    runs = {run_id: (after, ref) for run_id, after, ref in lines}
    assert Counter(runs.values()) == Counter(pushed)
    assert len(lines) - len(runs) <= KILLS
    assert inbox.pending() == ()
    assert list((inbox.folder / "bad").iterdir()) == []
