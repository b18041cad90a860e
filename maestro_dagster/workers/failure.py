"""What made a Dagster run fail, out of its own events: as the error that it was before Dagster took it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from maestro_dagster.errors import MaestroError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagster._core.execution.plan.objects import StepFailureData
    from dagster_shared.error import SerializableErrorInfo

_PAGE = 1000


def find_cause(instance: dg.DagsterInstance, dagster_run_id: str) -> MaestroError | None:
    """The first failure that stopped the run; one that the journal knows of a step if there is no other."""
    errors = [(_is_of_step(failure), _to_error(failure)) for failure in _failures(instance, dagster_run_id)]
    return min(errors, key=lambda pair: pair[0])[1] if errors else None


def _failures(instance: dg.DagsterInstance, dagster_run_id: str) -> Iterator[StepFailureData]:
    page = instance.get_records_for_run(dagster_run_id, of_type=dg.DagsterEventType.STEP_FAILURE, limit=_PAGE)
    for record in page.records:
        event = record.event_log_entry.dagster_event
        if event is not None:
            yield event.step_failure_data


def _is_of_step(failure: StepFailureData) -> bool:
    return failure.user_failure_data is not None and "step" in failure.user_failure_data.metadata


def _to_error(failure: StepFailureData) -> MaestroError:
    told = failure.user_failure_data
    if told is not None and told.metadata:
        said = {name: str(value.value) for name, value in told.metadata.items()}
        return MaestroError(
            said.get("fact") or told.description or "a step failed",
            place=said.get("place", ""),
            remedy=said.get("remedy", ""),
            code=said.get("code") or "dagster-run",
        )
    return MaestroError(
        f"Dagster could not run a step: {_root(failure.error)}",
        remedy="see the run's events in the Dagster UI",
        code="dagster-run",
    )


def _root(error: SerializableErrorInfo | None) -> str:
    """The first line of what began it."""
    while error is not None and error.cause is not None:
        error = error.cause
    lines = error.message.strip().splitlines() if error is not None else []
    return lines[0][:300] if lines else "it did not say why"
