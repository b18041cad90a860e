"""Runs that ended after the backup, taken over from their evidence.

Evidence in an object store survives the loss of the project. To a journal from a backup such a run is still
open, or not known at all: its event waits in the inbox, or a poll finds it again, and its id is the same.
Done again, it would do everything twice and then fail to store other evidence. The bundle tells what the
journal would have known, so the journal is told that instead.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maestro_dagster.costs.account import is_of_run
from maestro_dagster.costs.counter_sqlite import unpack_keys
from maestro_dagster.engine import reading, writing
from maestro_dagster.engine.lease import BEGUN
from maestro_dagster.engine.row import FINAL, WHOLE, RunRow, dump
from maestro_dagster.errors import EvidenceError
from maestro_dagster.evidence.store import EvidenceStore
from maestro_dagster.evidence.verify import verify_bundle
from maestro_dagster.project.adopt_row import EndedRun, make_rows, read_ended
from maestro_dagster.telemetry.span import open_path, trace_path

if TYPE_CHECKING:
    from maestro_dagster.database.interface import Connection

Keep = Callable[[str, bytes], object]
COLUMNS = ("run_id", "flow_digest", "evidence_digest")  # of each run, as `KnownRun` has it
_TRIED = frozenset({"done", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run of the restored journal. `evidence` is the digest of its bundle, None while it has none."""

    flow_digest: str
    evidence: str | None


@dataclass(frozen=True, slots=True)
class Believed:
    """Whose bundles count. `keys` are all that are trusted, `own` those of this project at the time."""

    keys: Sequence[bytes]
    own: Sequence[bytes]
    tenant: str
    env: str

    def is_ours(self, context: Mapping[str, Any]) -> bool:
        """Others may have the same key: two environments of one project."""
        return (context.get("tenant"), context.get("env")) == (self.tenant, self.env)


def find_ended(
    store: EvidenceStore, known: Mapping[str, KnownRun], believed: Believed, keep: Keep
) -> list[EndedRun]:
    """Runs without evidence in the journal that have some in the store, oldest first.

    `keep` gets the bundle of each. Raises EvidenceError (`evidence-unreachable`; `evidence-refused`: the
    bundle of a run of the journal does not hold).
    """
    there = sorted(store.runs())
    found = []
    for run_id in there:
        run = known.get(run_id)
        if run is None:
            data = _read_own(store, run_id, believed)
        elif run.evidence is None:
            data = _read_checked(store, run_id, run, believed.keys)
        else:
            continue
        if data is None:
            continue
        ended = read_ended(data)
        if run is None and not believed.is_ours(ended.context):
            continue
        found.append(ended)
        keep(run_id, data)
    return sorted(found, key=lambda ended: (ended.begun_at, ended.run_id))


def adopt_runs(connection: Connection, ended: Iterable[EndedRun], place: Callable[[str], str]) -> None:
    """Writes into the journal how they ended. `place` is where everybody finds the bundle of a run."""
    for each in ended:
        if (run := reading.read_run(connection, each.run_id)) is None:
            request = each.to_request()
            writing.insert_run(connection, request, each.flow_digest, each.flow, each.begun_at)
            run = reading.read_run(connection, each.run_id)
        if run is not None:
            _adopt(connection, run, each, place(each.run_id))


def release_budgets(connection: Connection, ended: Iterable[EndedRun], prefix: str = "") -> None:
    """What the runs had reserved is free again, and nothing is booked for them any more.

    `prefix`: of the names of the tables.
    """
    entry, account = f"{prefix}entry", f"{prefix}account"
    for run_id in (each.run_id for each in ended):
        query = f"SELECT keys, nano, tokens, open FROM {entry} WHERE run_id = ?"  # noqa: S608 - names above
        for keys, nano, tokens, is_open in connection.execute(query, (run_id,)).fetchall():
            for key in unpack_keys(keys):
                if is_of_run(key, run_id):
                    connection.execute(f"DELETE FROM {account} WHERE key = ?", (key,))  # noqa: S608
                elif is_open:
                    connection.execute(
                        f"UPDATE {account} SET reserved_nano = reserved_nano - ?,"  # noqa: S608
                        " reserved_tokens = reserved_tokens - ? WHERE key = ?",
                        (nano, tokens, key),
                    )
        connection.execute(f"DELETE FROM {entry} WHERE run_id = ?", (run_id,))  # noqa: S608
        connection.execute(f"INSERT INTO {prefix}ended VALUES (?) ON CONFLICT DO NOTHING", (run_id,))  # noqa: S608


def clear_stage(stage: Path, ended: Sequence[EndedRun]) -> None:
    """The same in the files of the state folder that is to be."""
    budgets = stage / "budgets.sqlite"
    if ended and budgets.is_file():
        with closing(sqlite3.connect(budgets)) as connection, connection:
            release_budgets(connection, ended)
    for each in ended:
        if each.traced:  # whole in the evidence; what the backup has of it stops in the middle
            trace_path(stage / "traces", each.run_id).unlink(missing_ok=True)
            open_path(stage / "traces", each.run_id).unlink(missing_ok=True)


def _read_checked(store: EvidenceStore, run_id: str, run: KnownRun, keys: Sequence[bytes]) -> bytes:
    """The bundle of an open run of the journal: one that does not hold would stop the run at its end."""
    data = store.read(run_id)
    report = verify_bundle(data, keys)
    problems = list(map(str, report.problems[:3]))
    if not problems:
        problems = list(_differences(run_id, run, report.run_id, report.flow_digest, report.run_status))
    if problems:
        raise refuse(store.place(run_id), run_id, "; ".join(problems))
    return data


def _differences(
    run_id: str, run: KnownRun, signed_id: str | None, flow_digest: str | None, status: str | None
) -> Iterator[str]:
    if signed_id != run_id:
        yield f"it is of the run {signed_id}"
    if flow_digest != run.flow_digest:
        yield f"it is of the flow {flow_digest}, the journal's run is of {run.flow_digest}"
    if status not in FINAL:
        yield f"it says that the run ended as {status!r}"


def _read_own(store: EvidenceStore, run_id: str, believed: Believed) -> bytes | None:
    """The bundle of a run that the journal does not know; None where no key of this project signed it.

    Others may keep theirs in the same place, and nothing of the journal waits for it.
    """
    if not believed.own:
        return None
    try:
        data = store.read(run_id)
    except EvidenceError as error:
        if error.error_code == "evidence-unreachable":
            raise
        return None
    report = verify_bundle(data, believed.own)
    if not report.ok or report.run_id != run_id or report.run_status not in FINAL:
        return None
    return data


def refuse(place: str, run_id: str, why: str) -> EvidenceError:
    return EvidenceError(
        f"the run {run_id}, open in the backup, has evidence that cannot be taken over: {why}",
        place=place,
        remedy="give the key that signed it with --key; if somebody changed it, put its first version back, "
        "or move it away or name another place in the setting evidence: the run goes on from the backup "
        "then, and does again what it did since",
        code="evidence-refused",
    )


def _adopt(connection: Connection, run: RunRow, ended: EndedRun, place: str) -> None:
    run_id = ended.run_id
    if run.status in FINAL and run.status != ended.status:
        raise refuse(place, run_id, f"it ended as {ended.status}, and in the journal as {run.status}")
    rows = list(make_rows(ended, reading.read_steps(connection, run_id), run.git))
    for row in rows:
        # Its last attempt may have begun before the backup.
        if row.iteration == WHOLE and row.status in _TRIED:
            at = row.finished_at or 0.0
            writing.end_attempt(connection, run_id, row, row.attempts, row.status, row.error, at)
    writing.finish_run(  # which changes nothing where the journal lacks the evidence alone
        connection, run_id, ended.status, ended.finished_at, rows, ended.record, ended.error
    )
    connection.execute(
        "UPDATE run SET started_at = coalesce(started_at, ?), decision = coalesce(decision, ?),"
        " cancel = coalesce(cancel, ?) WHERE run_id = ?",
        (
            ended.started_at,
            None if ended.decision is None else dump(dict(ended.decision)),
            ended.context.get("cancelled_because"),
            run_id,
        ),
    )
    writing.store_evidence(connection, run_id, place, ended.digest)
    connection.execute("DELETE FROM lease WHERE run_id = ?", (run_id,))
    # Closed, and Dagster does not know it: the loop looks once more, records the rest, and runs nothing.
    connection.execute("INSERT INTO lease VALUES (?, ?, '', 1, 0)", (run_id, BEGUN))
