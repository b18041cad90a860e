"""What a Dagster run prints, kept without the four processes that stock Dagster starts for it.

Stock mirrors the output back to the terminal through `tail`. A worker has no terminal, and a command in
the foreground shows progress of its own there, which must not end up in a file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from dagster._core.execution.compute_logs import redirect_to_file
from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
from dagster._core.storage.local_compute_log_manager import IO_TYPE_EXTENSION, LocalComputeLogManager
from dagster._serdes import ConfigurableClassData

Capture = Literal["stock", "file", "off"]


class _Mode:
    """Of this process: `file` in workers, `off` in the foreground, `stock` where Dagster started it."""

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
        if _Mode.capture == "stock":
            with super().capture_logs(log_key) as context:
                yield context
            return
        if _Mode.capture == "off":
            yield CapturedLogContext(log_key)
            return
        paths = {
            kind: Path(self.get_captured_local_path(log_key, IO_TYPE_EXTENSION[kind]))
            for kind in (ComputeIOType.STDOUT, ComputeIOType.STDERR)
        }
        paths[ComputeIOType.STDOUT].parent.mkdir(parents=True, exist_ok=True)
        with (
            redirect_to_file(sys.stdout, str(paths[ComputeIOType.STDOUT])),
            redirect_to_file(sys.stderr, str(paths[ComputeIOType.STDERR])),
        ):
            yield CapturedLogContext(log_key)
        Path(self.complete_artifact_path(log_key)).touch()  # type: ignore[no-untyped-call]
