"""A run in the process of a command: the main thread answers signals, another thread runs Dagster.

Dagster turns a signal into an exception in the main thread, wherever that is; in the middle of the
engine's event loop it would lose what the steps are doing. So the engine is told to cancel instead.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from maestro_dagster.telemetry.stream import hide_output
from maestro_dagster.workers.compute_log import set_capture
from maestro_dagster.workers.execute import execute_run

if TYPE_CHECKING:
    from maestro_dagster.engine.interface import RunView, StepOutcome
    from maestro_dagster.translate.runtime import Runtime

_ENDED = frozenset({"done", "failed", "skipped", "cancelled", "reused"})


def execute_in_foreground(
    runtime: Runtime, run_id: str, tell: Callable[[StepOutcome], None] | None = None
) -> RunView:
    """Runs to the end; SIGINT and SIGTERM cancel the run, which still gets its evidence.

    `tell` is called with each step that ends. Raises what `execute_run` raises.
    """
    set_capture("off")
    found: list[RunView] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            found.append(execute_run(runtime, run_id))
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            errors.append(error)

    worker = threading.Thread(target=work, name=f"run-{run_id}")
    asked = threading.Event()
    with _on_signals(asked.set), hide_output(children=True):  # steps print, also into the log of a CI
        worker.start()
        told: set[str] = set()
        cancelled = False
        while worker.is_alive():
            worker.join(0.2)
            if asked.is_set() and not cancelled:
                cancelled = True
                runtime.engine.cancel(run_id)
            if tell is not None:
                _tell_new(runtime, run_id, told, tell)
    if errors:
        raise errors[0]
    return found[0]


def _tell_new(runtime: Runtime, run_id: str, told: set[str], tell: Callable[[StepOutcome], None]) -> None:
    for step in runtime.engine.view(run_id).steps:
        if step.status in _ENDED and step.step not in told:
            told.add(step.step)
            tell(step)


@contextmanager
def _on_signals(act: Callable[[], None]) -> Iterator[None]:
    """Signals can only be taken over in the main thread; elsewhere their handling stays as it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: act()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
