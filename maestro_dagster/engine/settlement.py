"""How a step's end becomes one row of the journal, with its claim's bytes made once and for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from maestro_dagster.artifacts.interface import TREE_MEDIA_TYPE, Artifact
from maestro_dagster.engine.attempt import Trial
from maestro_dagster.engine.row import RunRow, StepRow
from maestro_dagster.engine.scope import Prepared, digest_raw
from maestro_dagster.errors import MaestroError
from maestro_dagster.evidence.claim import claim_bytes
from maestro_dagster.evidence.interface import BuiltArtifact, Claim, OutputRef
from maestro_dagster.manifest.model import Task
from maestro_dagster.manifest.money import format_nano
from maestro_dagster.telemetry.redaction import Redactor

NO_PREPARATION = Prepared({}, {}, (), "", "")


@dataclass(frozen=True, slots=True)
class Bill:
    """What a step used over all its attempts. `nano` is 10^-9 USD, None when a price is unknown."""

    nano: int | None = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Settler:
    """Makes rows with claims for one run. `files_of` lists a tree's (path, digest) pairs.

    Every row passes the redactor here, whatever it came from: a step, another run, the engine itself.
    """

    run: RunRow
    files_of: Callable[[Artifact], tuple[tuple[str, str], ...]]
    redactor: Redactor

    def settle_trial(
        self,
        row: StepRow,
        prepared: Prepared,
        trial: Trial,
        bill: Bill,
        *,
        now: float,
        attempts: int,
        preview: str = "",
        iterations: Sequence[Mapping[str, Any]] = (),
        calls: Sequence[Mapping[str, Any]] = (),
    ) -> StepRow:
        """The end of a step that was tried: done, failed or cancelled."""
        result = trial.result
        status = name_status(trial)
        facts = dict(trial.facts)
        if result is not None and result.chosen is not None:
            facts["chosen"] = list(result.chosen)
        detail: dict[str, Any] = {}
        if result is not None:
            detail = describe_result(result.built, result.sbom, result.warnings)
        if calls:
            detail["calls"] = list(calls)
        ended = replace(
            row,
            status=status,
            attempts=attempts,
            finished_at=now,
            duration_ms=max(0, round((now - (row.started_at or now)) * 1000)),
            artifact=trial.artifact if status == "done" else None,
            cost_nano=bill.nano,
            tokens=bill.tokens,
            facts=facts,
            preview=preview,
            error=trial.error.to_json() if trial.error else None,
            reason="the run was cancelled" if trial.cancelled else None,
            chosen=result.chosen if result else None,
            detail=detail,
        )
        return self._claim(
            ended,
            prepared,
            isolation=trial.isolation,
            egress=trial.egress,
            model=dict(result.model) if result and result.model else None,
            iterations=iterations,
        )

    def settle_error(self, row: StepRow, error: MaestroError, bill: Bill, *, now: float) -> StepRow:
        """A step that failed before an attempt could be made, or whose attempts died with their process."""
        started = row.started_at
        failed = replace(
            row,
            status="failed",
            finished_at=now,
            duration_ms=0 if started is None else max(0, round((now - started) * 1000)),
            cost_nano=bill.nano,
            tokens=bill.tokens,
            error=error.to_json(),
        )
        return self._claim(failed, NO_PREPARATION)

    def settle_unrun(self, row: StepRow, status: str, reason: str, bill: Bill, *, now: float) -> StepRow:
        """A step that was skipped, or cancelled before it could end."""
        started = row.started_at
        ended = replace(
            row,
            status=status,  # type: ignore[arg-type]
            finished_at=now,
            duration_ms=0 if started is None else max(0, round((now - started) * 1000)),
            cost_nano=bill.nano,
            tokens=bill.tokens,
            reason=reason,
        )
        return self._claim(ended, NO_PREPARATION)

    def settle_reused(
        self,
        row: StepRow,
        source: StepRow,
        source_run: str,
        prepared: Prepared,
        *,
        now: float,
        reason: str | None = None,
    ) -> StepRow:
        """A step whose result another run has made from the same inputs. It costs nothing here."""
        reused = replace(
            row,
            status="reused",
            finished_at=now,
            artifact=source.artifact,
            input_digest=source.input_digest,
            config_digest=source.config_digest,
            cost_nano=0,
            facts=source.facts,
            preview=source.preview,
            chosen=source.chosen,
            detail=source.detail,
            reused_from=source.reused_from or source_run,
            reason=reason,
        )
        return self._claim(reused, prepared)

    def _claim(
        self,
        row: StepRow,
        prepared: Prepared,
        *,
        isolation: str | None = None,
        egress: tuple[str, ...] = (),
        model: Mapping[str, Any] | None = None,
        iterations: Sequence[Mapping[str, Any]] = (),
    ) -> StepRow:
        hide = self.redactor.hide_in
        row = replace(
            row,
            facts=hide(row.facts),
            preview=hide(row.preview),
            error=hide(row.error),
            reason=hide(row.reason),
            detail=self._hide_detail(row.detail),
        )
        output = None
        if row.artifact is not None:
            files = self.files_of(row.artifact) if row.artifact.media_type == TREE_MEDIA_TYPE else ()
            output = OutputRef(row.artifact.digest, row.artifact.media_type, row.artifact.size, files)
        claim = Claim(
            run_id=self.run.run_id,
            flow=self.run.flow,
            flow_digest=self.run.flow_digest,
            step=row.step,
            uses=row.uses,
            status=row.status,  # type: ignore[arg-type]
            attempts=row.attempts,
            started_at=None if row.started_at is None else format_time(row.started_at),
            finished_at=format_time(row.finished_at or 0.0),
            duration_ms=row.duration_ms,
            config_digest=row.config_digest or prepared.config_digest,
            inputs=prepared.refs,
            output=output,
            cost_usd=None if row.cost_nano is None else format_nano(row.cost_nano),
            isolation=isolation,
            egress=egress,
            reused_from=row.reused_from,
            error=row.error,
            reason=row.reason,
            model=hide(model),
            facts=row.facts,
            iterations=tuple(
                {**each, "error": hide(each["error"])} if "error" in each else each for each in iterations
            ),
        )
        return replace(row, claim=claim_bytes(claim))

    def _hide_detail(self, detail: Mapping[str, Any]) -> dict[str, Any]:
        """Names and warnings only: digests are no words."""
        hide = self.redactor.hide_in
        hidden = dict(detail)
        if "warnings" in hidden:
            hidden["warnings"] = hide(hidden["warnings"])
        if "built" in hidden:
            hidden["built"] = [{**each, "name": hide(each["name"])} for each in hidden["built"]]
        return hidden


def name_status(trial: Trial) -> Literal["done", "failed", "cancelled"]:
    if trial.cancelled:
        return "cancelled"
    return "failed" if trial.error else "done"


def describe_result(
    built: Sequence[BuiltArtifact], sbom: Artifact | None, warnings: Sequence[str]
) -> dict[str, Any]:
    """What the bundle needs of a result, as JSON; empty parts are left out."""
    detail: dict[str, Any] = {}
    if built:
        detail["built"] = [asdict(each) for each in built]
    if sbom is not None:
        detail["sbom"] = asdict(sbom)
    if warnings:
        detail["warnings"] = list(warnings)
    return detail


def plain_row(task: Task, row: StepRow) -> StepRow:
    """The row of a step whose `with:` was never resolved: its digest is that of the text as it stands."""
    return row if row.config_digest is not None else replace(row, config_digest=digest_raw(task))


def waiting_row(task: Task, *, asset: bool) -> StepRow:
    """The row of a step that will not be tried."""
    return plain_row(task, StepRow(step=task.id, uses=task.uses, status="waiting", asset=asset))


def format_time(seconds: float) -> str:
    """RFC 3339 UTC with milliseconds."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
