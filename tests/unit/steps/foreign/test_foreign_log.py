"""What of a command's output reaches the step's log."""

from __future__ import annotations

from typing import Any

import pytest

from maestro_dagster.errors import StepError
from maestro_dagster.steps.foreign_code import LOG_BYTES, LOG_LINES, bound_lines
from maestro_dagster.steps.shell_run import ShellRun

Bench = Any  # of conftest.py


def numbered(count: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(count))


def test_what_fits_is_whole() -> None:
    assert bound_lines(b"") == []
    assert bound_lines(numbered(LOG_LINES)) == numbered(LOG_LINES).decode().splitlines()


@pytest.mark.parametrize("more", [1, 2, 8000])
def test_of_many_lines_start_and_end_are_kept_and_the_rest_is_counted(more: int) -> None:
    found = bound_lines(numbered(LOG_LINES + more))
    assert found[0] == "line 0"
    assert found[-1] == f"line {LOG_LINES + more - 1}"
    assert found[LOG_LINES // 2] == f"({more} line{'s' if more > 1 else ''} left out)"
    assert len(found) == LOG_LINES + 1


def test_long_lines_count_too_and_none_fills_the_log() -> None:
    found = bound_lines(b"first\n" + b"x" * (4 * LOG_BYTES) + b"\nsecond\n" + b"y" * 999 + b"\nlast\n")
    assert [line[:6] for line in found] == ["first", "xxxxxx", "second", "yyyyyy", "last"]
    assert found[1].endswith(" [cut]")
    many = bound_lines(b"\n".join(b"%d " % number + b"z" * 5000 for number in range(100)))
    assert sum(map(len, many)) <= LOG_BYTES + 100
    assert (many[0][:2], many[-1][:3]) == ("0 ", "99 ")
    assert any(line.endswith("lines left out)") for line in many)


def test_bytes_that_are_no_text() -> None:
    assert bound_lines(b"\xff\n") == ["\ufffd"]


async def test_a_command_that_broke_a_limit_is_heard_too(bench: Bench) -> None:
    with pytest.raises(StepError) as caught:
        await bench.run(ShellRun, {"argv": ["sh", "-c", "echo so far; sleep 60"], "time_limit": 1})
    assert caught.value.error_code == "time-limit"
    assert "so far" in bench.lines


async def test_the_log_of_a_step_has_start_and_end(bench: Bench) -> None:
    await bench.run(ShellRun, {"argv": ["seq", "5000"]})
    assert (bench.lines[0], bench.lines[-1]) == ("1", "5000")
    assert "(3000 lines left out)" in bench.lines
