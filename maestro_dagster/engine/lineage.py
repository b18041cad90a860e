"""What a run's steps made, of what, and what each cost: the records that its end leaves for the lake."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.lineage import NO_COST, LineageInput, LineageRecord, StepCost, sum_steps
from maestro_dagster.engine.row import WHOLE, RunRow, StepRow
from maestro_dagster.engine.services import Services
from maestro_dagster.errors import JournalError


def run_lineage(
    services: Services, run: RunRow, rows: Sequence[StepRow], events: Sequence[UsageEvent]
) -> list[LineageRecord]:
    """A record per row of an ended run, and one for usage that no row stands for: nothing goes missing.

    The same journal and the same events give the same records.
    """
    costs = sum_steps(events)
    steps = {row.step: row for row in rows if row.iteration == WHOLE}
    parts: dict[str, list[StepRow]] = defaultdict(list)  # of a control/map
    for row in sorted(rows, key=lambda row: (row.step, row.iteration)):
        if row.iteration != WHOLE:
            parts[row.step].append(row)
    whole = [each for step in sorted(steps) for each in (steps[step], *parts[step])]
    records = [
        _record(
            services,
            run,
            row,
            costs.pop((row.step, row.iteration), NO_COST),
            tuple(_inputs(run, row, steps, parts)),
        )
        for row in whole
    ]
    for (step, iteration), cost in sorted(costs.items()):
        lost = StepRow(step=step, uses="", status="failed", iteration=iteration, finished_at=run.finished_at)
        records.append(_record(services, run, lost, cost, ()))
    return records


def _record(
    services: Services, run: RunRow, row: StepRow, cost: StepCost, inputs: tuple[LineageInput, ...]
) -> LineageRecord:
    artifact = row.artifact if row.status in {"done", "reused"} else None
    source = _maker(services, row) if row.status == "reused" else None
    return LineageRecord(
        run_id=run.run_id,
        flow=run.flow,
        flow_digest=run.flow_digest,
        step=row.step,
        iteration=row.iteration,
        uses=row.uses,
        status=row.status,
        attempts=row.attempts,
        day=_day(row, run),
        finished_at=_time(row.finished_at or run.finished_at or 0.0),
        tenant=services.tenant,
        project=services.project_name,
        env=services.env,
        digest=artifact.digest if artifact else "",
        media_type=artifact.media_type if artifact else "",
        size=artifact.size if artifact else 0,
        inputs=inputs,
        known_nano=cost.known_nano,
        unknown=cost.unknown,
        missing=cost.missing,
        failed_nano=cost.failed_nano,
        retry_nano=cost.retry_nano,
        reused=row.status == "reused",
        source_run=row.reused_from or "",
        source_day="" if source is None else _day(source),
        saved_nano=0 if row.status != "reused" else source.cost_nano if source is not None else None,
    )


def _inputs(
    run: RunRow, row: StepRow, steps: Mapping[str, StepRow], parts: Mapping[str, Sequence[StepRow]]
) -> Iterator[LineageInput]:
    """What the step read, as its claim says, and of a control/map the iterations that it is made of."""
    claimed = steps[row.step].claim
    for each in json.loads(claimed).get("inputs", ()) if claimed else ():
        kind, _, source = each["source"].partition(":")
        if kind == "step" and source in steps:
            yield LineageInput(each["digest"], run.run_id, source, WHOLE, _day(steps[source], run))
        elif kind == "run":
            maker, _, step = source.partition("/")
            yield LineageInput(each["digest"], maker, step)
        else:
            yield LineageInput(each["digest"])
    if row.iteration == WHOLE:
        for part in parts.get(row.step, ()):
            digest = part.artifact.digest if part.artifact and part.status == "done" else ""
            yield LineageInput(digest, run.run_id, part.step, part.iteration, _day(part, run))


def _maker(services: Services, row: StepRow) -> StepRow | None:
    """The row of the run that made what was taken over; None when the journal has it no more."""
    if row.reused_from is None:
        return None
    try:
        found = services.journal.steps(row.reused_from, row.step)
    except JournalError:
        return None
    return next((each for each in found if each.iteration == WHOLE and each.status == "done"), None)


def _day(row: StepRow, run: RunRow | None = None) -> str:
    """When the work began, as of its usage; that of its run for a step that never began. `""`: not known."""
    began = row.started_at or (None if run is None else run.started_at or run.finished_at)
    return "" if began is None else _time(began)[:10]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
