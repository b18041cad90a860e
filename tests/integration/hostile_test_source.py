"""What a hostile commit calls its tests. Each fails when it gets hold of something."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

# The key's content stands here backwards, so that this file itself is no find.
MARKS = (b"@YEK@"[::-1], b"CANARY-" + b"SECRET-7fb1")
SKIPPED = ("/proc", "/dev")
# The system and the interpreter: only names are looked at there, there are thousands.
SYSTEM = ("/usr", "/lib", "/bin", "/sbin", sys.prefix, sys.base_prefix)


def test_no_file_holds_a_secret():
    found = []
    for folder, folders, files in os.walk("/", followlinks=False):
        if folder.startswith(SKIPPED):
            folders[:] = []
            continue
        for name in files:
            path = Path(folder) / name
            if name.endswith(("journal.sqlite", "maestro.pem", "inbox.sqlite")):
                found.append(str(path))
            if folder.startswith(SYSTEM):
                continue
            try:
                content = path.read_bytes() if path.stat().st_size < 100_000 else b""
            except OSError:
                continue
            if any(mark in content for mark in MARKS):
                found.append(str(path))
    assert not found


def test_the_home_of_the_project_is_not_there():
    assert not Path("@HOME@").exists()
    assert not Path("@PROJECT@").exists()


def test_environment_tells_nothing():
    assert not [name for name in os.environ if name.startswith(("MAESTRO_", "DAGSTER_", "AWS_"))]
    assert b"CANARY" not in Path("/proc/self/environ").read_bytes()


def test_other_processes_are_not_visible():
    assert not Path("/proc/@PID@/cmdline").exists() or b"@SENTINEL@" not in Path("/proc/@PID@/cmdline").read_bytes()
    seen = b"".join(path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline"))
    assert b"@SENTINEL@" not in seen


def test_signals_reach_nobody_outside():
    for number in range(2, 32768, 7):
        if number not in (os.getpid(), os.getppid()):
            try:
                os.kill(number, 0)
            except OSError:
                continue
            if b"pytest" not in Path(f"/proc/{number}/cmdline").read_bytes():
                os.kill(number, signal.SIGCONT)
    # The process itself watches whether it lives: a kill by number must not find it.
    try:
        os.kill(@PID@, signal.SIGKILL)
    except OSError:
        return


def test_the_network_is_closed():
    for address in (("127.0.0.1", @PORT@), ("10.0.0.1", 80), ("169.254.169.254", 80), ("1.1.1.1", 53)):
        probe = socket.socket()
        probe.settimeout(2)
        try:
            probe.connect(address)
        except OSError:
            continue
        raise AssertionError(f"reached {address}")


def test_nothing_can_be_mounted_or_left_behind():
    assert subprocess.run(["mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False).returncode != 0
    subprocess.Popen(["sleep", "31.4159"], start_new_session=True)
