"""When a process that died is started again: soon at first, then after growing pauses."""

from __future__ import annotations

import signal

MOST_DEATHS = 5  # in a row; whoever has died so often is not started by trying again
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_HEALTHY_SECONDS = 60.0  # one that lived so long had started well
_SIGNALLED = 128  # what a shell adds to a signal's number, and our keeper too


class Restarts:
    """Of one process: counts its deaths in a row."""

    def __init__(self) -> None:
        self.deaths = 0

    @property
    def hopeless(self) -> bool:
        return self.deaths >= MOST_DEATHS

    def pause(self, lived: float) -> float:
        """It died after so many seconds: how many pass until it is started again."""
        self.deaths = 1 if lived >= _HEALTHY_SECONDS else self.deaths + 1
        return float(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (self.deaths - 1)))


def describe_end(status: int) -> str:
    """What ended a process, from the exit status of its keeper, as `subprocess` gives it."""
    if status < 0:
        return f"its keeper was ended by {_name(-status)}"
    if status > _SIGNALLED:
        return f"ended by {_name(status - _SIGNALLED)}"
    return f"exit status {status}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
