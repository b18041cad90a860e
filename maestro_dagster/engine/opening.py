"""Before steps run: what ended already, what the run does not select, and what another run has made."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.database.interface import Connection
from maestro_dagster.engine import writing
from maestro_dagster.engine.interface import StepOutcome
from maestro_dagster.engine.redaction import learn_secrets
from maestro_dagster.engine.row import FINAL, RunRow, StepRow
from maestro_dagster.engine.segment import Segment
from maestro_dagster.engine.services import Services
from maestro_dagster.engine.settlement import NO_PREPARATION, Bill, Settler, waiting_row
from maestro_dagster.engine.source import Source
from maestro_dagster.errors import DeniedError, JournalError, UsageError
from maestro_dagster.manifest.graph import ancestors
from maestro_dagster.manifest.model import Flow


def open_segment(
    services: Services,
    run_id: str,
    step_ids: Sequence[str],
    *,
    owner: str,
    assets: Mapping[str, Artifact] | None,
    chance: Callable[[], float],
) -> tuple[list[StepOutcome], Segment | None, queue.SimpleQueue[Any]]:
    """(outcomes of steps that ended before, the segment of the others, where it puts theirs)."""
    journal = services.journal
    run = journal.run(run_id)
    flow = journal.flow(run.flow_digest)
    unknown = sorted(set(step_ids) - {task.id for task in flow.tasks})
    if unknown:
        raise UsageError(f"the flow {flow.name} has no step {unknown[0]}", code="step-unknown")
    rows = journal.steps(run_id)
    emitted: queue.SimpleQueue[Any] = queue.SimpleQueue()
    if run.status in FINAL:
        by_step = {row.step: row for row in rows if row.iteration < 0}
        if run.status == "denied":
            raise _denied(run)
        if not set(step_ids) <= by_step.keys():
            raise _closed(run)
        return [by_step[step].to_outcome(fresh=False) for step in step_ids], None, emitted
    learn_secrets(services, run, flow)
    journal.start_run(run_id)
    source = None
    if run.reuse_from is not None:
        source = Source(run.reuse_from, journal.steps(run.reuse_from), services.store)
    if run.selection is not None:
        rows = _settle_unselected(services, run, flow, rows, source, owner)
    ended = {row.step: row for row in rows if row.iteration < 0 and row.ended}
    outcomes = [ended[step].to_outcome(fresh=False) for step in step_ids if step in ended]
    if len(outcomes) == len(step_ids):
        return outcomes, None, emitted
    segment = Segment(
        services,
        run,
        flow,
        rows,
        selected=step_ids,
        owner=owner,
        emit=emitted.put,
        # What was selected is wanted anew, even if another run has made the same.
        source=source if run.selection is None else None,
        assets=assets,
        chance=chance,
    )
    return outcomes, segment, emitted


def _settle_unselected(
    services: Services,
    run: RunRow,
    flow: Flow,
    rows: list[StepRow],
    source: Source | None,
    owner: str,
) -> list[StepRow]:
    """What was not selected ends first: taken over from the named run where it is needed, or skipped."""
    selected = set(run.selection or ())
    needed = frozenset[str]().union(*(ancestors(flow, step) for step in selected))
    known = {row.step for row in rows if row.iteration < 0}
    settler = Settler(run, lambda artifact: _files(services, artifact), services.redactor)
    now = time.time()
    ended: list[StepRow] = []
    for task in flow.tasks:
        if task.id in selected or task.id in known:
            continue
        row = waiting_row(task, asset=services.catalogue.kind(task.uses).asset)
        found = source.find_any(task) if source and task.id in needed else None
        if found is not None and source is not None:
            ended.append(
                settler.settle_reused(
                    row, found, source.run_id, NO_PREPARATION, now=now, reason="not selected"
                )
            )
        else:
            ended.append(settler.settle_unrun(row, "skipped", "not selected", Bill(), now=now))
    if not ended:
        return rows

    def work(connection: Connection) -> None:
        for row in ended:
            writing.acknowledge(connection, run.run_id, row, owner)

    try:
        services.journal.submit(work).result()
    except JournalError as error:
        if error.error_code != "step-elsewhere":  # else another process did the same a moment ago
            raise
    return services.journal.steps(run.run_id)


def _files(services: Services, artifact: Artifact) -> tuple[tuple[str, str], ...]:
    return tuple((entry.path, entry.digest) for entry in services.store.read_tree(artifact.digest))


def _denied(run: RunRow) -> DeniedError:
    violations = [
        violation
        for verdict in (run.decision or {}).get("verdicts", ())
        for violation in verdict.get("violations", ())
    ]
    first = violations[0] if violations else {}
    return DeniedError(
        f"the run was denied: {first.get('message', 'no pack allowed it')}",
        place=f"run {run.run_id}",
        remedy=first.get("remedy", "see `maestro policy eval`"),
    )


def _closed(run: RunRow) -> JournalError:
    return JournalError(
        f"the run has ended as {run.status}",
        place=f"run {run.run_id}",
        remedy=f"`maestro retry {run.run_id}` makes a new run of it",
        code="run-closed",
    )
