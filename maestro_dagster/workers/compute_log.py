"""What a Dagster run prints, kept without secrets and without the four processes that stock Dagster starts.

Stock keeps it as it is, and mirrors it back to the terminal through `tail`. A worker has no terminal, and a
command in the foreground shows progress of its own there, which must not end up in a file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from dagster._core.execution.compute_logs import redirect_stream
from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
from dagster._core.storage.local_compute_log_manager import IO_TYPE_EXTENSION, LocalComputeLogManager
from dagster._serdes import ConfigurableClassData

from maestro_dagster.telemetry.stream import OutputCopier, descriptor_of

Capture = Literal["stock", "file", "off"]


class _Mode:
    """Of this process: `file` in workers, `off` in the foreground; `stock`, also on the terminal, else."""

    capture: Capture = "stock"


def set_capture(capture: Capture) -> None:
    _Mode.capture = capture


class WorkerComputeLogManager(LocalComputeLogManager):
    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> WorkerComputeLogManager:
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        if _Mode.capture == "off":
            yield CapturedLogContext(log_key)
            return
        copier = OutputCopier()
        with ExitStack() as redirected:
            redirected.callback(copier.stop)  # last, when nobody prints there any more
            for kind, stream in ((ComputeIOType.STDOUT, sys.stdout), (ComputeIOType.STDERR, sys.stderr)):
                path = Path(self.get_captured_local_path(log_key, IO_TYPE_EXTENSION[kind]))
                path.parent.mkdir(parents=True, exist_ok=True)
                mirror = descriptor_of(stream) if _Mode.capture == "stock" else None
                redirected.enter_context(redirect_stream(copier.open(path, mirror), stream))
            copier.start()
            yield CapturedLogContext(log_key)
        Path(self.complete_artifact_path(log_key)).touch()  # type: ignore[no-untyped-call]
