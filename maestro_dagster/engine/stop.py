"""Why a run stopped before its end: the last line of its log, for whoever asks what became of it.

The journal knows only how runs end; one that was stopped by its surroundings (an object store that refuses,
a key that is missing) stays open, and goes on later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from maestro_dagster.engine.log import RunLog, read_log

if TYPE_CHECKING:
    from pathlib import Path

    from maestro_dagster.engine.services import Services
    from maestro_dagster.errors import MaestroError
    from maestro_dagster.telemetry.redaction import Redactor

_KEYS = ("code", "fact", "place", "remedy")


def hide_error(error: MaestroError, redactor: Redactor) -> None:
    """Takes secrets out of what the error says: a store may quote who asked it."""
    error.fact, error.place, error.remedy = (
        redactor.hide_all(text) for text in (error.fact, error.place, error.remedy)
    )
    error.args = (error.fact,)


def note_stop(services: Services, run_id: str, error: MaestroError) -> None:
    """Never raises. The error's words have no secrets any more."""
    log = RunLog(
        services.log_folder,
        run_id,
        line_limit=services.limits.log_line,
        file_limit=services.limits.log_file,
        redactor=services.redactor,
    )
    log.write(f"the run stopped: {error}", error=error.to_json())
    log.close()


def find_stop(log_folder: Path, run_id: str) -> Mapping[str, str] | None:
    """The error that stopped the run; None where it has gone on since, as its log says."""
    last = None
    for line in read_log(log_folder, run_id):
        last = line
    error = (last or {}).get("error")
    if not isinstance(error, dict):
        return None
    return {key: str(error.get(key, "")) for key in _KEYS}
