"""A run's rows of the journal, made from its signed bundle.

What no bundle tells stays as the journal had it, or empty: the preview of an output, how many calls went to
which model, the SBOM of one step.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from maestro_dagster.artifacts.interface import Artifact
from maestro_dagster.engine.interface import RunRequest
from maestro_dagster.engine.row import WHOLE, StepRow, dump
from maestro_dagster.engine.settlement import describe_result
from maestro_dagster.engine.trace_closing import pack_trace
from maestro_dagster.errors import JournalError, MaestroError
from maestro_dagster.evidence.archive import read_archive
from maestro_dagster.evidence.bundle import CLAIMS, COSTS, DECISIONS, FLOW, RECEIPT, SLOS, TRACE
from maestro_dagster.evidence.claim import parse_claim
from maestro_dagster.evidence.content import read_artifact
from maestro_dagster.evidence.dsse import read_envelope
from maestro_dagster.evidence.interface import BuiltArtifact, Claim
from maestro_dagster.manifest.canonical import canonical_json, digest_bytes
from maestro_dagster.manifest.money import parse_usd
from maestro_dagster.manifest.normal import flow_from_normal
from maestro_dagster.steps.catalogue import load_catalogue


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run as its bundle tells of it. `digest` is the bundle's; `claims` are (canonical bytes, claim)."""

    run_id: str
    status: str
    digest: str
    flow_digest: str
    flow: bytes  # normal form
    begun_at: float  # seconds since the epoch: when it was started, or requested if nothing of it began
    finished_at: float
    claims: tuple[tuple[bytes, Claim], ...]
    context: Mapping[str, Any]
    decision: Mapping[str, Any] | None  # None: it was never admitted
    tokens: Mapping[str, int]  # by step
    details: Mapping[str, Mapping[str, Any]]  # by step
    record: str  # what the bundle was made of, as the journal keeps it
    traced: bool

    @property
    def started_at(self) -> float | None:
        return self.begun_at if any(claim.started_at for _, claim in self.claims) else None

    @property
    def error(self) -> dict[str, str] | None:
        """Why it failed: the first of its steps that did, in the flow's order."""
        if self.status != "failed":
            return None
        failed = {claim.step: claim.error for _, claim in self.claims if claim.status == "failed"}
        for task in flow_from_normal(self.flow).tasks:
            if error := failed.get(task.id):
                return dict(error)
        return JournalError(
            "the run ended before all of its steps could begin",
            place=f"run {self.run_id}",
            remedy=f"`maestro retry {self.run_id}` runs what is missing",
            code="run-incomplete",
        ).to_json()

    def to_request(self) -> RunRequest:
        """What was asked for, as far as the evidence says: it has a surrogate in the place of the person."""
        told = self.context
        return RunRequest(
            run_id=self.run_id,
            flow=flow_from_normal(self.flow),
            params=told.get("params", {}),
            git=told.get("git", {}),
            partition=told.get("partition"),
            cause=told["cause"],
            region=told.get("region"),
            reuse_from=told.get("reused_from"),
            selection=tuple(told["selection"]) if "selection" in told else None,
        )


def read_ended(data: bytes) -> EndedRun:
    """From the bytes of a bundle that was verified: nothing is checked here."""
    files = read_archive(data)
    envelope = read_envelope(files[RECEIPT])
    about: dict[str, Any] = json.loads(envelope.payload)["predicate"]
    claims = tuple((line, parse_claim(line)) for line in files[CLAIMS].split(b"\n")[:-1])
    costs, decision = json.loads(files[COSTS]), json.loads(files[DECISIONS])
    steps = [claim.step for _, claim in claims]
    record = {
        "order": steps,
        "slos": json.loads(files[SLOS]),
        "cost_report": costs,
        "context": about["context"],
        "signer": envelope.hint,
        "trace": pack_trace(files[TRACE]) if TRACE in files else None,
    }
    return EndedRun(
        run_id=about["run"]["id"],
        status=about["run"]["status"],
        digest=digest_bytes(data),
        flow_digest=about["flow"]["digest"],
        flow=files[FLOW],
        begun_at=_seconds(about["run"]["startedAt"]),
        finished_at=_seconds(about["run"]["finishedAt"]),
        claims=claims,
        context=about["context"],
        decision=decision if "engine" in decision else None,
        tokens={line["step"]: line["tokens_in"] + line["tokens_out"] for line in costs["by_step"]},
        details=_read_details(files, steps, about["warnings"]),
        record=dump(record),
        traced=TRACE in files,
    )


def make_rows(ended: EndedRun, known: Iterable[StepRow], git: Mapping[str, str]) -> Iterator[StepRow]:
    """The rows that are not in `known` yet, or not as the evidence says."""
    before = {(row.step, row.iteration): row for row in known}
    tasks = {task.id: task for task in flow_from_normal(ended.flow).tasks}
    for line, claim in ended.claims:
        old = before.get((claim.step, WHOLE))
        if old is None or old.claim != line:
            assets = [(name, f"asset:{key}") for name, key in tasks[claim.step].assets.items()]
            yield _make_row(ended, claim, line, old, _digest_input(claim, assets, git))
    parts = {claim.step: claim for _, claim in ended.claims}
    for row in before.values():
        if row.iteration != WHOLE and not row.ended:
            yield _end_iteration(row, parts[row.step])


def _make_row(
    ended: EndedRun, claim: Claim, line: bytes, old: StepRow | None, input_digest: str | None
) -> StepRow:
    output, chosen = claim.output, claim.facts.get("chosen")
    return StepRow(
        step=claim.step,
        uses=claim.uses,
        status=claim.status,
        input_digest=input_digest,
        config_digest=claim.config_digest,
        attempts=claim.attempts,
        started_at=None if claim.started_at is None else _seconds(claim.started_at),
        finished_at=_seconds(claim.finished_at),
        duration_ms=claim.duration_ms,
        artifact=None if output is None else Artifact(output.digest, output.media_type, output.size),
        cost_nano=None if claim.cost_usd is None else parse_usd(claim.cost_usd),
        tokens=ended.tokens.get(claim.step, 0),
        facts=claim.facts,
        preview=old.preview if old else "",
        error=claim.error,
        reason=claim.reason,
        asset=old.asset if old else _is_asset(claim.uses),
        chosen=tuple(chosen) if isinstance(chosen, list) else None,
        reused_from=claim.reused_from,
        detail=ended.details.get(claim.step, {}),
        claim=line,
    )


def _is_asset(uses: str) -> bool:
    try:
        return load_catalogue().is_asset(uses)
    except MaestroError:
        return True


def _digest_input(claim: Claim, assets: Sequence[tuple[str, str]], git: Mapping[str, str]) -> str | None:
    """What `RunScope.finish` called the step's input: another run takes the result over by it.

    None for a step that made nothing, and for one taken over that read nothing itself.
    """
    if claim.status not in {"done", "reused"} or claim.reason is not None:
        return None
    read = {each.source: each.digest for each in claim.inputs}
    named = [[name, read[source]] for name, source in assets if source in read]
    named += [[source[5:], digest] for source, digest in read.items() if source.startswith("step:")]
    return digest_bytes(canonical_json([claim.uses, claim.config_digest, sorted(named), dict(git)]))


def _end_iteration(row: StepRow, claim: Claim) -> StepRow:
    """Of an item that the claim does not list, nothing came."""
    told = next((each for each in claim.iterations if each["index"] == row.iteration), {})
    return replace(
        row,
        status=told.get("status", "cancelled"),
        finished_at=_seconds(claim.finished_at),
        attempts=told.get("attempts", row.attempts),
        error=told.get("error"),
    )


def _read_details(
    files: Mapping[str, bytes], steps: Iterable[str], warnings: Iterable[str]
) -> dict[str, Mapping[str, Any]]:
    """What each step built and warned of."""
    built: dict[str, list[BuiltArtifact]] = defaultdict(list)
    for name in sorted(name for name in files if name.startswith("provenance/")):
        artifact = read_artifact(json.loads(read_envelope(files[name]).payload))
        built[artifact.step].append(artifact)
    said: dict[str, list[str]] = defaultdict(list)
    for warning in warnings:
        step, _, text = warning.partition(": ")
        said[step].append(text)
    return {step: describe_result(built[step], None, said[step]) for step in steps}


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
