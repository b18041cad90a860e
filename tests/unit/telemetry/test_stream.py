"""What is printed comes out without secrets, however it is cut into pieces on its way."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from maestro_dagster.telemetry.redaction import Redactor, hide_printed
from maestro_dagster.telemetry.stream import LineHider, OutputCopier, hide_output

SECRET = "hunter2-and-some-more"


@pytest.fixture
def redactor() -> Redactor:
    found = Redactor()
    found.add(SECRET)
    return found


def test_pieces_of_any_size_give_the_same_text(redactor: Redactor) -> None:
    said = "".join(f"line {number} {SECRET}\n" for number in range(50)) + f"no end {SECRET}"
    wanted = redactor.hide(said)
    for seed in range(20):
        chance = random.Random(seed)
        hider, left, found = LineHider(redactor.hide), said.encode(), b""
        while left:
            size = chance.randint(1, 40)
            found += hider.feed(left[:size])
            left = left[size:]
        assert (found + hider.feed(b"", last=True)).decode() == wanted
    assert SECRET not in wanted


@pytest.mark.parametrize("before", [256 * 1024 - 5, 256 * 1024 + 5, 300_000])
def test_of_a_line_without_end_only_what_is_sure_is_shown(redactor: Redactor, before: int) -> None:
    """The secret lies across the place where the line is cut, and again in what is left out."""
    hider = LineHider(redactor.hide)
    said = ("x" * before + SECRET + "y" * 5000 + SECRET + "\nnext\n").encode()
    found = b"".join(hider.feed(said[at : at + 4099]) for at in range(0, len(said), 4099))
    found += hider.feed(b"", last=True)
    head, _, rest = found.partition(b" [cut]\n")
    assert rest == b"next\n"
    assert set(head) == {ord("x")}
    assert len(head) > 100_000


def test_what_processes_print_is_copied_without_secrets(redactor: Redactor, tmp_path: Path) -> None:
    copier = OutputCopier(redactor.hide)
    with (tmp_path / "mirror").open("wb") as mirror:
        raw = copier.open(tmp_path / "out", mirror.fileno())
        copier.start()
        subprocess.run(["/bin/echo", SECRET], stdout=raw, check=True)
        os.write(raw.fileno(), f"no end {SECRET}".encode())
        copier.stop()
    assert (tmp_path / "out").read_text() == "***\nno end ***"
    assert (tmp_path / "mirror").read_text() == "***\nno end ***"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mirror", "out"]


def test_python_prints_no_secret_of_any_redactor(monkeypatch: pytest.MonkeyPatch, redactor: Redactor) -> None:
    other = Redactor()
    other.add("another-secret")
    out, err = StringIO(), StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with hide_output():
        print("say", SECRET, "and", "another-secret")  # noqa: T201 - what this is about
        sys.stderr.writelines([f"{SECRET}\n", "a@example.com\n"])
        assert not sys.stdout.isatty()
    assert sys.stdout is out
    assert (out.getvalue(), err.getvalue()) == ("say *** and ***\n", "***\n[personal]\n")
    assert other.hide(SECRET) == SECRET, "each knows its own"


def test_nothing_is_needed_to_hide_what_gives_itself_away() -> None:
    assert hide_printed("ghp_" + "a" * 36) == "***"


def test_closed_streams_stay_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with hide_output():
        assert sys.stdout is None
        print("to nobody")  # noqa: T201 - as above


def test_processes_print_no_secret_on_the_terminal_either() -> None:
    script = f"""
import os, subprocess, sys
from maestro_dagster.telemetry.redaction import Redactor
from maestro_dagster.telemetry.stream import hide_output
redactor = Redactor()
redactor.add("{SECRET}")
print("before", "{SECRET}")
with hide_output(children=True):
    print("python {SECRET}")
    subprocess.run(["/bin/echo", "child {SECRET}"], check=True)
    os.write(2, b"no end {SECRET}")
print("after", "{SECRET}")
os.write(2, b"{SECRET}")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-1]) == (f"before {SECRET}", f"after {SECRET}")
    assert sorted(lines[1:-1]) == ["child ***", "python ***"]
    assert done.stderr == f"no end ***{SECRET}"
