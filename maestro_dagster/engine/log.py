"""The log of a run: one NDJSON file, written line by line, read while it grows.

    {"ts": 1767225600.123, "run_id": "r...", "trace_id": "0af7...", "step": "fetch", "iteration": -1,
     "attempt": 1, "line": "..."}

Not part of the proof, so nobody waits for the disk here. Secrets never reach the file.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maestro_dagster.telemetry.redaction import Redactor
from maestro_dagster.telemetry.span import trace_id_for


class RunLog:
    """Appends to a run's log. Safe between threads; whole lines between processes (O_APPEND)."""

    def __init__(
        self,
        folder: Path,
        run_id: str,
        *,
        line_limit: int,
        file_limit: int,
        redactor: Redactor | None = None,
    ) -> None:
        self._redactor = redactor or Redactor()
        self._path = log_path(folder, run_id)
        self._run_id = run_id
        self._trace_id = trace_id_for(run_id)
        self._line_limit = line_limit
        self._file_limit = file_limit
        self._lock = threading.Lock()
        self._file = -1
        self._full = False

    def write(
        self,
        message: str,
        *,
        step: str = "",
        iteration: int = -1,
        attempt: int = 0,
        error: Mapping[str, str] | None = None,
    ) -> None:
        """Never raises: a full disk must not fail a step because of what it said.

        `error` is the one that stopped the whole run, in its JSON form and without secrets.
        """
        message = self._redactor.hide_all(message)  # before it is cut: half a secret is not recognised
        if len(message) > self._line_limit:
            message = message[: self._line_limit] + " [cut]"
        with self._lock:
            if self._full:
                return
            try:
                if self._file < 0:
                    self._open()
                if os.fstat(self._file).st_size > self._file_limit:
                    self._full = True
                    message = "the log is full, what follows is not kept"
                line = {
                    "ts": round(time.time(), 3),
                    "run_id": self._run_id,
                    "trace_id": self._trace_id,
                    "step": step,
                    "iteration": iteration,
                    "attempt": attempt,
                    "line": message,
                    **({"error": dict(error)} if error else {}),
                }
                data = json.dumps(line, ensure_ascii=False).encode(errors="replace")
                os.write(self._file, data + b"\n")
            except OSError:
                self._full = True

    def close(self) -> None:
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")  # a writer died in the middle of a line


def log_path(folder: Path, run_id: str) -> Path:
    return folder / f"{run_id}.ndjson"


def read_log(folder: Path, run_id: str, step: str | None = None, offset: int = 0) -> Iterator[dict[str, Any]]:
    """The whole lines so far; each carries `offset`, where to go on reading. Torn lines are passed over."""
    try:
        with log_path(folder, run_id).open("rb") as file:
            file.seek(offset)
            for raw in file:
                if not raw.endswith(b"\n"):
                    return
                offset += len(raw)
                try:
                    line = json.loads(raw)
                except ValueError:
                    continue
                if isinstance(line, dict) and (step is None or line.get("step") == step):
                    yield {**line, "offset": offset}
    except FileNotFoundError:
        return
