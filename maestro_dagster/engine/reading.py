"""What can be asked of the journal. Every function takes a connection and only reads."""

from __future__ import annotations

import json
from typing import Any

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.database.interface import Connection
from maestro_dagster.engine.lease import BEGUN
from maestro_dagster.engine.row import RunRow, StepRow

_RUN = (
    "run_id, flow, flow_version, flow_digest, params, git, partition_key, cause, actor, budget_nano, region,"
    " reuse_from, selection, status, requested_at, started_at, finished_at, decision, error, cancel,"
    " dagster_runs, evidence_path, evidence_digest"
)
_STEP = (
    "step, uses, status, iteration, input_digest, config_digest, attempts, owner, started_at, finished_at,"
    " duration_ms, digest, media_type, size, cost_nano, tokens, facts, preview, error, reason, asset, chosen,"
    " reused_from, detail, claim"
)
_EMPTY: dict[str, Any] = {}


def read_run(connection: Connection, run_id: str) -> RunRow | None:
    row = connection.execute(f"SELECT {_RUN} FROM run WHERE run_id = ?", (run_id,)).fetchone()  # noqa: S608
    return None if row is None else _run(row)


def list_runs(
    connection: Connection, limit: int, status: str | None, flow: str | None = None
) -> list[RunRow]:
    """Newest first: the last `limit` of those that are asked for."""
    wanted = {name: value for name, value in (("status", status), ("flow", flow)) if value is not None}
    where = f"WHERE {' AND '.join(f'{name} = ?' for name in wanted)}" if wanted else ""
    query = f"SELECT {_RUN} FROM run {where} ORDER BY seq DESC LIMIT ?"  # noqa: S608
    return [_run(row) for row in connection.execute(query, (*wanted.values(), limit))]


def read_flow(connection: Connection, digest: str) -> bytes | None:
    row = connection.execute("SELECT body FROM flow WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else bytes(row[0])


def read_steps(connection: Connection, run_id: str, step: str | None = None) -> list[StepRow]:
    """All rows of a run, or of one step; iterations are rows of their own."""
    more = " AND step = ?" if step is not None else ""
    values = (run_id,) if step is None else (run_id, step)
    query = f"SELECT {_STEP} FROM step WHERE run_id = ?{more} ORDER BY step, iteration"  # noqa: S608
    return [_step(row) for row in connection.execute(query, values)]


def count_attempts(connection: Connection, run_id: str, step: str, iteration: int) -> tuple[int, int, int]:
    """(last number, how many failed, how many died with their process)."""
    row = connection.execute(
        "SELECT coalesce(max(attempt), 0), count(*) FILTER (WHERE outcome = 'failed'),"
        " count(*) FILTER (WHERE outcome IS NULL) FROM attempt"
        " WHERE run_id = ? AND step = ? AND iteration = ?",
        (run_id, step, iteration),
    ).fetchone()
    return int(row[0]), int(row[1]), int(row[2])


def read_leases(connection: Connection, run_id: str) -> list[tuple[str, str, bool, float]]:
    """(owner, process, exclusive, expires) of each lease on a run."""
    query = "SELECT owner, process, exclusive, expires FROM lease WHERE run_id = ?"
    return [
        (owner, process, bool(exclusive), expires)
        for owner, process, exclusive, expires in connection.execute(query, (run_id,))
    ]


def begun_runs(connection: Connection) -> list[str]:
    """Runs that a process took on and has not finished with."""
    query = "SELECT run_id FROM lease WHERE owner = ? ORDER BY run_id"
    return [row[0] for row in connection.execute(query, (BEGUN,))]


def held_runs(connection: Connection, status: str) -> list[tuple[str, str, float, tuple[Any, ...]]]:
    """(run_id, cause, requested_at, (process, exclusive, expires)) of each lease on each run of a status.

    In the order of the requests; a run without any has one row, with None.
    """
    query = (
        "SELECT run.run_id, cause, requested_at, process, exclusive, expires FROM run"
        " LEFT JOIN lease ON lease.run_id = run.run_id WHERE status = ? ORDER BY seq"
    )
    return [(*row[:3], tuple(row[3:])) for row in connection.execute(query, (status,))]


def run_ids(connection: Connection, status: str) -> list[tuple[str, bool]]:
    """(run_id, whether it was handed to Dagster) in the order of the requests."""
    query = "SELECT run_id, dagster_runs <> '[]' FROM run WHERE status = ? ORDER BY seq"
    return [(run_id, bool(submitted)) for run_id, submitted in connection.execute(query, (status,))]


def _load(text: str | None) -> Any:
    if text is None:
        return None
    return _EMPTY if text == "{}" else json.loads(text)


def _tuple(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(json.loads(text))


def _run(row: Any) -> RunRow:
    return RunRow(
        run_id=row[0],
        flow=row[1],
        flow_version=row[2],
        flow_digest=row[3],
        params=_load(row[4]),
        git=_load(row[5]),
        partition=row[6],
        cause=row[7],
        actor=row[8],
        budget_nano=row[9],
        region=row[10],
        reuse_from=row[11],
        selection=_tuple(row[12]),
        status=row[13],
        requested_at=row[14],
        started_at=row[15],
        finished_at=row[16],
        decision=_load(row[17]),
        error=_load(row[18]),
        cancel=row[19],
        dagster_runs=_tuple(row[20]) or (),
        evidence_path=row[21],
        evidence_digest=row[22],
    )


def _step(row: Any) -> StepRow:
    return StepRow(
        step=row[0],
        uses=row[1],
        status=row[2],
        iteration=row[3],
        input_digest=row[4],
        config_digest=row[5],
        attempts=row[6],
        owner=row[7],
        started_at=row[8],
        finished_at=row[9],
        duration_ms=row[10],
        artifact=None if row[11] is None else Artifact(row[11], row[12], row[13]),
        cost_nano=row[14],
        tokens=row[15],
        facts=_load(row[16]),
        preview=row[17],
        error=_load(row[18]),
        reason=row[19],
        asset=bool(row[20]),
        chosen=_tuple(row[21]),
        reused_from=row[22],
        detail=_load(row[23]),
        claim=None if row[24] is None else bytes(row[24]),
    )
