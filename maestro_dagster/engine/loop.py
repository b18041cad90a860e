"""control/map: one kind for each item of a list. Each iteration is journaled, so a resume repeats none."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from maestro_dagster.artifacts.digest import digest_content
from maestro_dagster.artifacts.interface import Artifact, ArtifactStore
from maestro_dagster.engine import writing
from maestro_dagster.engine.attempt import Assignment, Trial, validate_config
from maestro_dagster.engine.row import RunRow, StepRow
from maestro_dagster.engine.scope import RunScope
from maestro_dagster.engine.services import KindSource
from maestro_dagster.engine.settlement import name_status
from maestro_dagster.engine.trying import Effort, Submit, Trier
from maestro_dagster.engine.writer import Delivery
from maestro_dagster.errors import MaestroError, StepError
from maestro_dagster.steps.interface import StepResult

MAP = "pkg:control/map@"
KEPT = ("uses", "with")  # resolved for each item, not for the step
_SMALL = 4096  # bytes of an item's JSON that the list repeats


@dataclass(slots=True)
class MapRun:
    """One control/map step. `known` holds the iterations that the journal has already, by index."""

    run: RunRow
    scope: RunScope
    trier: Trier
    catalogue: KindSource
    store: ArtifactStore
    submit: Submit
    known: Mapping[int, StepRow]
    assignment: Assignment
    failed: bool = False

    async def work(self, number: int) -> tuple[Effort, list[dict[str, Any]]]:
        """The step's effort with the list of all outputs, and what the claim says of each iteration."""
        began = time.time()
        trial = Trial(began)
        rows: list[StepRow | None] = []
        try:
            rows = await self._iterate()
            self._conclude(trial, rows)
        except MaestroError as error:
            trial.error = error
        trial.wall_ms = round((time.time() - began) * 1000)
        return Effort(trial, number), [_describe(row) for row in rows if row is not None]

    async def _iterate(self) -> list[StepRow | None]:
        task = self.assignment.task
        config = validate_config(self.assignment.kind, self.assignment.prepared.config, task.id)
        items = self._items(config.items)
        if len(items) > config.max_items:
            raise StepError(
                f"the list has {len(items)} items, the step allows {config.max_items}",
                place=f"step {task.id}",
                remedy="raise max_items (up to 1000), or give it a shorter list",
                code="map-too-many",
            )
        gate = asyncio.Semaphore(config.concurrency)
        work = [
            asyncio.create_task(self._run_item(gate, config.uses, config.with_, index, item))
            for index, item in enumerate(items)
        ]
        try:
            return await asyncio.gather(*work)
        except BaseException:
            for each in work:
                each.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            raise

    def _items(self, items: Any) -> Sequence[Any]:
        place = f"step {self.assignment.task.id}"
        if items is None:
            inputs = list(self.assignment.prepared.inputs.values())
            if len(inputs) != 1:
                raise StepError(
                    f"without `items` the step reads one input, it has {len(inputs)}",
                    place=place,
                    remedy="name the list: `items: ${{ steps.<id>.output }}`",
                    code="map-items",
                )
            try:
                items = json.loads(self.store.read(inputs[0].digest))
            except ValueError as error:
                raise StepError("its input is not JSON", place=place, code="map-items") from error
        if not isinstance(items, list | tuple):
            raise StepError(
                f"`items` is no list but {type(items).__name__}",
                place=place,
                remedy="give a JSON array",
                code="map-items",
            )
        return items

    async def _run_item(
        self, gate: asyncio.Semaphore, uses: str, raw: Mapping[str, Any], index: int, item: Any
    ) -> StepRow | None:
        """None for an item that was not begun, because another one failed."""
        async with gate:
            if self.failed:
                return None
            prepared = self.scope.prepare_item((uses, raw), self.assignment.prepared, index, item)
            known = self.known.get(index)
            if known is not None and known.status == "done" and known.input_digest == prepared.input_digest:
                return known
            task = self.assignment.task
            row = StepRow(
                step=task.id,
                uses=uses,
                status="running",
                iteration=index,
                input_digest=prepared.input_digest,
                config_digest=prepared.config_digest,
                started_at=time.time(),
                asset=False,
            )
            assignment = Assignment(task, uses, self.catalogue.kind(uses), prepared, index)
            owner, run_id = self.trier.owner, self.run.run_id
            number = await self.submit(
                lambda c: writing.begin_attempt(c, run_id, row, owner, row.started_at or 0.0)
            )
            effort = await self.trier.persist(assignment, row, number)
            return await self._acknowledge(row, effort)

    async def _acknowledge(self, row: StepRow, effort: Effort) -> StepRow:
        trial, now = effort.trial, time.time()
        status = name_status(trial)
        self.failed = self.failed or status != "done"
        error = trial.error.to_json() if trial.error else None
        ended = replace(
            row,
            status=status,
            attempts=effort.number,
            finished_at=now,
            duration_ms=round((now - (row.started_at or now)) * 1000),
            artifact=trial.artifact,
            error=error,
        )
        deliveries = list(effort.deliveries)
        if trial.data is not None and trial.artifact is not None:
            deliveries.append(Delivery(self.store.put_many, ((trial.data, trial.artifact.media_type),)))
        run_id, owner, number = self.run.run_id, self.trier.owner, effort.number

        def work(connection: Any) -> None:
            writing.end_attempt(connection, run_id, ended, number, status, error, now)
            writing.acknowledge(connection, run_id, ended, owner)

        await self.submit(work, deliveries)
        return ended

    def _conclude(self, trial: Trial, rows: Sequence[StepRow | None]) -> None:
        bad = next((row for row in rows if row is not None and row.status != "done"), None)
        if bad is not None:
            if bad.status == "cancelled":
                trial.cancelled = True
                return
            error = bad.error or {}
            raise StepError(
                f"item {bad.iteration} failed: {error.get('fact', '')}",
                place=f"step {bad.step}, item {bad.iteration}",
                remedy=error.get("remedy", ""),
                code="map-item-failed",
            )
        listed = [self._list_item(row) for row in rows if row is not None]
        trial.data = json.dumps(listed, sort_keys=True, separators=(",", ":")).encode()
        trial.artifact = Artifact(digest_content(trial.data), "application/json", len(trial.data))
        trial.facts = {"items": len(listed)}
        trial.result = StepResult(data=trial.data, media_type="application/json", facts=trial.facts)

    def _list_item(self, row: StepRow) -> dict[str, Any]:
        artifact = row.artifact
        if artifact is None:
            return {"index": row.iteration, "digest": None, "media_type": None, "size": 0}
        item: dict[str, Any] = {
            "index": row.iteration,
            "digest": artifact.digest,
            "media_type": artifact.media_type,
            "size": artifact.size,
        }
        if artifact.size <= _SMALL and artifact.media_type.partition(";")[0].endswith("json"):
            try:
                item["json"] = json.loads(self.store.read(artifact.digest))
            except ValueError:
                return item  # the kind said JSON and made something else: the digest tells
        return item


def _describe(row: StepRow) -> dict[str, Any]:
    described: dict[str, Any] = {
        "index": row.iteration,
        "status": row.status,
        "attempts": row.attempts,
        "input_digest": row.input_digest,
    }
    if row.artifact is not None:
        described["output_digest"] = row.artifact.digest
    if row.error is not None:
        described["error"] = dict(row.error)
    return described
