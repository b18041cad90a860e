"""Runs that somebody launches in the Dagster UI are handed to the loop of `maestro dev`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import StringSource
from dagster._core.launcher.base import LaunchRunContext, RunLauncher
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from maestro_dagster.errors import ProjectError
from maestro_dagster.workers.guard import socket_path
from maestro_dagster.workers.socket_file import connect_to

if TYPE_CHECKING:
    from dagster._config.config_schema import UserConfigSchema

_SECONDS = 10.0


class MaestroRunLauncher(RunLauncher, ConfigurableClass):
    """Asks the loop for a warm process. Standing alone it starts nothing, and says so."""

    def __init__(self, home: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._home = Path(home)
        self._inst_data = inst_data
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {"home": StringSource}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> MaestroRunLauncher:
        return cls(inst_data=inst_data, **config_value)

    def launch_run(self, context: LaunchRunContext) -> None:
        ask_loop(self._home, {"op": "launch", "id": context.dagster_run.run_id})

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        answer = ask_loop(
            self._home, {"op": "cancel", "id": run_id, "maestro": run.tags.get("maestro/run_id", "")}
        )
        return bool(answer.get("ok"))


def ask_loop(home: Path, question: Mapping[str, str]) -> dict[str, Any]:
    """One question to the loop of the project, one answer.

    Raises ProjectError `loop-missing` when no loop runs, `loop-refused` when it says no.
    """
    path = socket_path(home)
    try:
        with connect_to(path, _SECONDS) as client, client.makefile("rwb") as stream:
            stream.write(json.dumps(question).encode() + b"\n")
            stream.flush()
            answer: dict[str, Any] = json.loads(stream.readline())
    except (OSError, ValueError) as error:
        raise ProjectError(
            "the loop of this project does not run, so nothing can start the run",
            place=str(path),
            remedy="start it with `maestro dev` in the project's folder, then launch again",
            code="loop-missing",
        ) from error
    if not answer.get("ok"):
        raise ProjectError(
            f"the loop refused: {answer.get('error', 'no reason given')}",
            place=str(path),
            remedy="see the output of `maestro dev`",
            code="loop-refused",
        )
    return answer
