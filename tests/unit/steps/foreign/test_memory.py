"""Memory of caged commands is charged: the largest process's peak, for as long as the command took."""

from __future__ import annotations

from typing import Any

from maestro_dagster.steps.shell_run import ShellRun

_HOLD = "import time; held = bytearray(300_000_000); time.sleep(0.3)"


async def test_a_command_is_charged_for_the_memory_it_held(bench: Any) -> None:
    await bench.run(ShellRun, {"argv": ["python3", "-c", _HOLD]})
    assert bench.meter.memory > 300_000_000 * 0.3
