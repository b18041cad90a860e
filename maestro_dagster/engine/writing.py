"""What is written to the journal. Each function runs inside a transaction of the group writer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from maestro_dagster.database.interface import Connection
from maestro_dagster.engine.interface import RunRequest
from maestro_dagster.engine.lease import owner_lives, release_lease
from maestro_dagster.engine.row import ENDED, StepRow, dump
from maestro_dagster.errors import JournalError

_COLUMNS = (
    "status, input_digest, config_digest, attempts, owner, uses, started_at, finished_at, duration_ms,"
    " digest, media_type, size, cost_nano, tokens, facts, preview, error, reason, asset, chosen, reused_from,"
    " detail, claim"
)
_STEP = (
    f"INSERT INTO step (run_id, step, iteration, {_COLUMNS})"  # noqa: S608 - constants of this file
    f" VALUES (?,?,?{',?' * len(_COLUMNS.split(','))}) ON CONFLICT (run_id, step, iteration) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS.split(", "))
)


def insert_run(connection: Connection, request: RunRequest, digest: str, body: bytes, now: float) -> bool:
    connection.execute("INSERT INTO flow VALUES (?, ?) ON CONFLICT DO NOTHING", (digest, body))
    flow = request.flow
    cursor = connection.execute(
        "INSERT INTO run (run_id, flow, flow_version, flow_digest, params, git, partition_key,"
        " cause, actor, budget_nano, region, reuse_from, selection, status, requested_at)"
        " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,'requested',?) ON CONFLICT DO NOTHING",
        (
            request.run_id,
            flow.name,
            flow.version,
            digest,
            dump(dict(request.params)),
            dump(dict(request.git)),
            request.partition,
            request.cause,
            request.actor,
            request.budget_nano,
            request.region,
            request.reuse_from,
            None if request.selection is None else dump(list(request.selection)),
            now,
        ),
    )
    return cursor.rowcount == 1


def store_decision(connection: Connection, run_id: str, decision: Mapping[str, Any]) -> bool:
    cursor = connection.execute(
        "UPDATE run SET decision = ? WHERE run_id = ? AND decision IS NULL", (dump(dict(decision)), run_id)
    )
    return cursor.rowcount == 1


def start_run(connection: Connection, run_id: str, now: float) -> None:
    connection.execute(
        "UPDATE run SET status = 'running', started_at = coalesce(started_at, ?)"
        " WHERE run_id = ? AND status = 'requested'",
        (now, run_id),
    )


def cancel_run(connection: Connection, run_id: str, why: str) -> bool:
    cursor = connection.execute(
        "UPDATE run SET cancel = coalesce(cancel, ?) WHERE run_id = ? AND status IN ('requested', 'running')",
        (why, run_id),
    )
    return cursor.rowcount == 1


def add_dagster_run(connection: Connection, run_id: str, dagster_run_id: str) -> None:
    row = connection.execute("SELECT dagster_runs FROM run WHERE run_id = ?", (run_id,)).fetchone()
    known = [] if row is None else json.loads(row[0])
    if dagster_run_id not in known:
        connection.execute(
            "UPDATE run SET dagster_runs = ? WHERE run_id = ?", (dump([*known, dagster_run_id]), run_id)
        )


def begin_attempt(
    connection: Connection,
    run_id: str,
    row: StepRow,
    owner: str,
    now: float,
) -> int:
    """Numbers the next attempt and makes the step this process's own.

    Raises JournalError (`step-acknowledged`, `step-elsewhere`): what is done is never begun again, and
    what another live process does is left to it.
    """
    found = connection.execute(
        "SELECT status, owner, attempts FROM step WHERE run_id = ? AND step = ? AND iteration = ?",
        (run_id, row.step, row.iteration),
    ).fetchone()
    place = f"run {run_id}, step {row.step}"
    if found is not None and found[0] in ENDED:
        fact = f"the step ended as {found[0]} before"
        raise JournalError(fact, place=place, code="step-acknowledged")
    if found is not None and found[1] not in {None, owner} and owner_lives(connection, run_id, found[1]):
        raise JournalError(
            "another process runs this step",
            place=place,
            remedy="wait for it, or end that process; the step is taken up again then",
            code="step-elsewhere",
        )
    if found is None:
        attempt = 1
        _insert_running(connection, run_id, row, owner, now)
    else:
        attempt = int(found[2]) + 1
        connection.execute(
            "UPDATE step SET status = 'running', attempts = ?, owner = ?, input_digest = ?,"
            " config_digest = ?, started_at = coalesce(started_at, ?)"
            " WHERE run_id = ? AND step = ? AND iteration = ?",
            (attempt, owner, row.input_digest, row.config_digest, now, run_id, row.step, row.iteration),
        )
    connection.execute(
        "INSERT INTO attempt (run_id, step, iteration, attempt, owner, input_digest, started_at)"
        " VALUES (?,?,?,?,?,?,?)",
        (run_id, row.step, row.iteration, attempt, owner, row.input_digest or "", now),
    )
    return attempt


def _insert_running(connection: Connection, run_id: str, row: StepRow, owner: str, now: float) -> None:
    connection.execute(
        "INSERT INTO step (run_id, step, iteration, status, input_digest, config_digest, attempts,"
        " owner, uses, started_at, asset) VALUES (?,?,?,'running',?,?,1,?,?,?,?)",
        (
            run_id,
            row.step,
            row.iteration,
            row.input_digest,
            row.config_digest,
            owner,
            row.uses,
            now,
            int(row.asset),
        ),
    )


def end_attempt(
    connection: Connection,
    run_id: str,
    row: StepRow,
    attempt: int,
    outcome: str,
    error: Mapping[str, str] | None,
    now: float,
) -> None:
    connection.execute(
        "UPDATE attempt SET finished_at = ?, outcome = ?, error = ?"
        " WHERE run_id = ? AND step = ? AND iteration = ? AND attempt = ?",
        (now, outcome, _json(error), run_id, row.step, row.iteration, attempt),
    )


def acknowledge(connection: Connection, run_id: str, row: StepRow, owner: str) -> None:
    """The step has ended. Raises JournalError (`step-elsewhere`) when it is no longer this process's own."""
    found = connection.execute(
        "SELECT status, owner FROM step WHERE run_id = ? AND step = ? AND iteration = ?",
        (run_id, row.step, row.iteration),
    ).fetchone()
    if found is None:
        taken = False
    elif found[0] in ENDED:
        taken = True
    else:
        taken = found[1] not in {None, owner} and owner_lives(connection, run_id, found[1])
    if taken:
        raise JournalError(
            "another process took the step over, its result counts",
            place=f"run {run_id}, step {row.step}",
            code="step-elsewhere",
        )
    insert_step(connection, run_id, row)


def insert_step(connection: Connection, run_id: str, row: StepRow) -> None:
    artifact = row.artifact
    connection.execute(
        _STEP,
        (
            run_id,
            row.step,
            row.iteration,
            row.status,
            row.input_digest,
            row.config_digest,
            row.attempts,
            None,
            row.uses,
            row.started_at,
            row.finished_at,
            row.duration_ms,
            artifact.digest if artifact else None,
            artifact.media_type if artifact else None,
            artifact.size if artifact else None,
            row.cost_nano,
            row.tokens,
            dump(dict(row.facts)),
            _plain(row.preview),
            _json(row.error),
            None if row.reason is None else _plain(row.reason),
            int(row.asset),
            None if row.chosen is None else dump(list(row.chosen)),
            row.reused_from,
            dump(dict(row.detail)),
            row.claim,
        ),
    )


def finish_run(
    connection: Connection,
    run_id: str,
    status: str,
    finished_at: float,
    rows: Sequence[StepRow],
    record: str,
    error: Mapping[str, str] | None,
) -> None:
    found = connection.execute("SELECT record FROM run WHERE run_id = ?", (run_id,)).fetchone()
    if found is None or found[0] is not None:
        return  # another process was faster, and both saw the same
    for row in rows:
        insert_step(connection, run_id, row)
    connection.execute(
        "UPDATE run SET status = ?, finished_at = ?, record = ?, error = ? WHERE run_id = ?",
        (status, finished_at, record, _json(error), run_id),
    )
    connection.execute("DELETE FROM lease WHERE run_id = ? AND exclusive = 0", (run_id,))


def store_evidence(connection: Connection, run_id: str, path: str, digest: str) -> None:
    connection.execute(
        "UPDATE run SET evidence_path = ?, evidence_digest = ? WHERE run_id = ?", (path, digest, run_id)
    )


def acquire_rate(connection: Connection, key: str, limit: int, seconds: float, now: float) -> float:
    connection.execute("DELETE FROM rate WHERE key = ? AND at <= ?", (key, now - seconds))
    count, oldest = connection.execute("SELECT count(*), min(at) FROM rate WHERE key = ?", (key,)).fetchone()
    if count < limit:
        connection.execute("INSERT INTO rate VALUES (?, ?)", (key, now))
        return 0.0
    return max(0.001, float(oldest) + seconds - now)


def leave(connection: Connection, run_id: str, owner: str) -> None:
    """Gives up a lease; steps left in the middle may be begun again, by this process too."""
    connection.execute("UPDATE step SET owner = NULL WHERE run_id = ? AND owner = ?", (run_id, owner))
    release_lease(connection, run_id, owner)


def _json(value: Any) -> str | None:
    return None if value is None else dump(dict(value))


def _plain(text: str) -> str:
    """What a step printed may hold NUL, which not every database keeps in a text."""
    return text.replace("\0", "\ufffd")
