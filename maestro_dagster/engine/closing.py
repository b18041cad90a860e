"""The end of a run: a claim for every step, the final status, and the evidence bundle."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.lineage import write_lineage
from maestro_dagster.costs.report import cost_report
from maestro_dagster.engine.lineage import run_lineage
from maestro_dagster.engine.objective import measure_objectives
from maestro_dagster.engine.redaction import hide_context, learn_secrets
from maestro_dagster.engine.row import FINAL, RunRow, StepRow, dump
from maestro_dagster.engine.schedule import Skip, Standing, build_graph, judge
from maestro_dagster.engine.services import Services
from maestro_dagster.engine.settlement import Settler, format_time, waiting_row
from maestro_dagster.engine.trace_closing import finish_trace, pack_trace, unpack_trace
from maestro_dagster.engine.trying import bill_events, open_budget
from maestro_dagster.errors import EvidenceError, JournalError, KeyMissingError, MaestroError, StepError
from maestro_dagster.evidence.bundle import build_bundle
from maestro_dagster.evidence.claim import parse_claim
from maestro_dagster.evidence.interface import BuiltArtifact, RunRecord
from maestro_dagster.evidence.sbom import assemble_sbom
from maestro_dagster.manifest.canonical import digest_bytes
from maestro_dagster.manifest.graph import topological_order
from maestro_dagster.manifest.model import Flow


def close_run(services: Services, run_id: str) -> Path:
    """Ends the run if it has not ended, and gives the path of its bundle: the same bytes each time.

    Raises JournalError (`run-busy`) while another process runs its steps, KeyMissingError without a key.
    """
    folder = services.evidence_folder
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder / f".{run_id}.lock"):
        run = services.journal.run(run_id)
        store = services.evidence
        if run.evidence_digest is not None and (path := store.fetch(run_id, run.evidence_digest)) is not None:
            return path
        if run.status not in FINAL:
            _finish(services, run)
            run = services.journal.run(run_id)
        steps = services.journal.steps(run_id)
        data = _build(services, run, steps)
        digest = digest_bytes(data)
        if run.evidence_digest not in {None, digest}:
            raise EvidenceError(
                "the bundle of this run was lost and cannot be made again with the same bytes",
                place=store.place(run_id),
                remedy="restore it from a backup; it was signed with another key or by another release",
                code="evidence-lost",
            )
        if run.evidence_digest is None:  # else its usage may have left the spool already
            _write_lineage(services, run, steps)
            # Not before the run has ended for good: a run that goes on could not book any more.
            flow = services.journal.flow(run.flow_digest)
            open_budget(services.budgets, run, flow).reconcile(services.spool.read_run(run_id), end=True)
        path = store.publish(run_id, data)
        services.journal.store_evidence(run_id, store.place(run_id), digest)
        services.journal.shrink_log()
    shutil.rmtree(services.scratch_folder / run_id, ignore_errors=True)
    return path


def _finish(services: Services, run: RunRow) -> None:
    """Ends what is still open and stores all that the bundle is made of."""
    if services.journal.has_live_lease(run.run_id, shared=True):
        raise JournalError(
            "the run's steps are still at work in another process",
            place=f"run {run.run_id}",
            remedy="wait for them, or `maestro cancel` the run",
            code="run-busy",
        )
    if services.signer is None:
        raise no_key(services, run.run_id)
    flow = services.journal.flow(run.flow_digest)
    learn_secrets(services, run, flow)
    events = services.spool.read_run(run.run_id)
    known_rows = services.journal.steps(run.run_id)
    known = {row.step: row for row in known_rows if row.iteration < 0}
    now = time.time()
    rows = _end_steps(services, run, flow, known, events, now)
    whole = {**known, **{row.step: row for row in rows}}
    status, error = _final_status(run, flow, whole)
    order = topological_order(flow)
    finished = replace(run, status=status, finished_at=now)  # type: ignore[arg-type]
    iterations = [row for row in known_rows if row.iteration >= 0]
    trace = finish_trace(services, finished, [*whole.values(), *iterations], error=error)
    record = {
        "order": order,
        "slos": measure_objectives(finished, [whole[step] for step in order]),
        "cost_report": cost_report(events),
        "context": _context(services, run),
        "signer": services.signer.hint,
        "trace": pack_trace(trace),
    }
    services.journal.finish_run(run.run_id, status, now, rows, dump(record), error)


def _end_steps(
    services: Services,
    run: RunRow,
    flow: Flow,
    known: Mapping[str, StepRow],
    events: Sequence[UsageEvent],
    now: float,
) -> list[StepRow]:
    """Rows with claims for the steps that have not ended, in the order of their needs."""
    settler = Settler(run, lambda artifact: _files(services, artifact.digest), services.redactor)
    graph = build_graph(flow)
    tasks = {task.id: task for task in flow.tasks}
    standing = {step: Standing(row.status, _chosen(row)) for step, row in known.items() if row.ended}
    denied = run.decision is not None and not run.decision.get("allow")
    ended: list[StepRow] = []
    for step in topological_order(flow):
        if step in standing:
            continue
        row = known.get(step) or waiting_row(tasks[step], asset=_is_asset(services, tasks[step].uses))
        bill = bill_events(event for event in events if event.step == step)
        if denied or run.decision is None:
            reason = "the run was denied" if denied else "the run was never admitted"
            row = settler.settle_unrun(row, "skipped", reason, bill, now=now)
        elif run.cancel is not None:
            row = settler.settle_unrun(row, "cancelled", "the run was cancelled", bill, now=now)
        elif row.status == "running":
            lost = StepError(
                "the step's process ended before the step did, and nobody took it up again",
                place=f"run {run.run_id}, step {step}",
                remedy=f"`maestro retry {run.run_id}` runs what is missing",
                code="attempt-lost",
            )
            row = settler.settle_error(row, lost, bill, now=now)
        else:
            verdict = judge(graph, step, standing)
            if isinstance(verdict, Skip):
                row = settler.settle_unrun(row, "skipped", verdict.reason, bill, now=now)
            else:
                reason = "the run ended before the step could begin"
                row = settler.settle_unrun(row, "cancelled", reason, bill, now=now)
        standing[step] = Standing(row.status)
        ended.append(row)
    return ended


def _final_status(
    run: RunRow, flow: Flow, rows: Mapping[str, StepRow]
) -> tuple[str, Mapping[str, str] | None]:
    if run.decision is not None and not run.decision.get("allow"):
        return "denied", None
    if run.cancel is not None and any(row.status == "cancelled" for row in rows.values()):
        return "cancelled", None
    if run.decision is None:  # its steps are skipped, and skipped steps alone do not fail a run
        return ("failed", _incomplete(run, "it was admitted")) if run.cancel is None else ("cancelled", None)
    for task in flow.tasks:
        if rows[task.id].status == "failed":
            return "failed", rows[task.id].error
    for task in flow.tasks:
        if rows[task.id].status == "cancelled":
            return "failed", _incomplete(run, f"{task.id} could begin")
    return "succeeded", None


def _incomplete(run: RunRow, what: str) -> Mapping[str, str]:
    return JournalError(
        f"the run ended before {what}",
        place=f"run {run.run_id}",
        remedy=f"`maestro retry {run.run_id}` runs what is missing",
        code="run-incomplete",
    ).to_json()


def _write_lineage(services: Services, run: RunRow, steps: Sequence[StepRow]) -> None:
    """What each step made and cost, durable before anything may take the run's usage out of the spool."""
    records = run_lineage(services, run, steps, services.spool.read_run(run.run_id))
    write_lineage(services.spool.lineage, run.run_id, records)


def _build(services: Services, run: RunRow, steps: Sequence[StepRow]) -> bytes:
    """The bundle of an ended run, from what the journal keeps: the same bytes whenever it is built."""
    if services.signer is None:
        raise no_key(services, run.run_id)
    stored = services.journal.record(run.run_id)
    if stored is None:
        raise JournalError("the run ended without a record", place=f"run {run.run_id}", code="run-incomplete")
    record = json.loads(stored)
    rows = {row.step: row for row in steps if row.iteration < 0}
    ordered = [rows[step] for step in record["order"]]
    claims = tuple(row.claim for row in ordered if row.claim is not None)
    flow = services.journal.flow_bytes(run.flow_digest)
    built = tuple(
        BuiltArtifact(
            name=item["name"],
            digest=item["digest"],
            step=row.step,
            dependencies=tuple((uri, digest) for uri, digest in item["dependencies"]),
        )
        for row in ordered
        for item in row.detail.get("built", ())
    )
    finished_at = format_time(run.finished_at or 0.0)
    sbom, warnings = _assemble(services, run, ordered, claims, json.loads(flow), built, finished_at)
    return build_bundle(
        RunRecord(
            run_id=run.run_id,
            status=run.status,
            started_at=format_time(run.started_at or run.requested_at),
            finished_at=finished_at,
            flow_json=flow,
            flow_digest=run.flow_digest,
            claims=claims,
            decisions=run.decision or {"allow": False, "verdicts": [], "reason": "never admitted"},
            sbom=sbom,
            slos=record["slos"],
            cost_report=record["cost_report"],
            trace=unpack_trace(record.get("trace")),
            built=built,
            context=record["context"],
            warnings=tuple(dict.fromkeys([*_warnings(run, ordered), *warnings])),
        ),
        services.signer,
    )


def _assemble(
    services: Services,
    run: RunRow,
    rows: Sequence[StepRow],
    claims: Sequence[bytes],
    flow: Mapping[str, Any],
    built: Sequence[BuiltArtifact],
    finished_at: str,
) -> tuple[bytes, list[str]]:
    """The SBOM, with those of the steps merged in; one that cannot be read is named in the warnings."""
    parts: list[bytes] = []
    warnings: list[str] = []
    parsed = [parse_claim(claim) for claim in claims]

    def assemble(merged: Sequence[bytes]) -> bytes:
        return assemble_sbom(
            run_id=run.run_id,
            finished_at=finished_at,
            flow=flow,
            flow_digest=run.flow_digest,
            claims=parsed,
            built=built,
            merged=merged,
        )

    for row in rows:
        if (found := row.detail.get("sbom")) is None:
            continue
        try:
            part = services.store.read(found["digest"])
            assemble([part])
        except MaestroError as error:
            warnings.append(f"the SBOM of step {row.step} is not in the run's SBOM: {error.fact}")
        else:
            parts.append(part)
    return assemble(parts), warnings


def _warnings(run: RunRow, rows: Sequence[StepRow]) -> Iterator[str]:
    for verdict in (run.decision or {}).get("verdicts", ()):
        yield from verdict.get("warnings", ())
    for row in rows:
        yield from (f"{row.step}: {warning}" for warning in row.detail.get("warnings", ()))


def _context(services: Services, run: RunRow) -> dict[str, Any]:
    context: dict[str, Any] = {
        "tenant": services.tenant,
        "env": services.env,
        "cause": run.cause,
        # Evidence outlives a person's wish to be forgotten: it names them as their usage does.
        "actor": services.subject_of(run.actor) if run.actor else "",
        "git": dict(run.git),
        "params": dict(run.params),
        "partition": run.partition,
        "region": run.region or services.region,
        "reused_from": run.reuse_from,
        "selection": None if run.selection is None else list(run.selection),
        "dagster_runs": list(run.dagster_runs),
        "pins": (run.decision or {}).get("pins", {}),
        "cancelled_because": run.cancel,
    }
    kept = {name: value for name, value in context.items() if value not in (None, "", {}, [])}
    return hide_context(services, kept)


def no_key(services: Services, run_id: str = "") -> KeyMissingError:
    """Why nothing can be signed: what is wrong with the key that there is, or that there is none."""
    if (found := services.key_error) is not None and found.error_code != KeyMissingError.code:
        return found
    return KeyMissingError(
        "the project has no key, and nothing runs that cannot be signed",
        place=found.place if found is not None else f"run {run_id}" if run_id else "",
        remedy="make one with `maestro init .` in the project's folder",
    )


def _files(services: Services, digest: str) -> tuple[tuple[str, str], ...]:
    return tuple((entry.path, entry.digest) for entry in services.store.read_tree(digest))


def _chosen(row: StepRow) -> frozenset[str] | None:
    return None if row.chosen is None else frozenset(row.chosen)


def _is_asset(services: Services, uses: str) -> bool:
    try:
        return bool(services.catalogue.kind(uses).asset)
    except MaestroError:
        return True


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """One process at a time; the lock falls with the process that holds it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
