"""What an artifact cost with all that it was made of, and what a run's money went into.

An artifact's lineage is a graph, not a tree: what two of its parts were both made of is counted once. What
was taken over from another run counts at what it cost there when it was made, and is shown as saved for
the run that took it over. What has no price stays unknown, and what left no record is named: neither is 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from maestro_dagster.costs.ancestry import Ancestry
from maestro_dagster.costs.lineage import WHOLE, LineageInput, LineageRecord, RecordId
from maestro_dagster.errors import CostError
from maestro_dagster.manifest.money import format_nano

SCHEMA = "maestro.cost-explanation/v1"
SHORTEST = 12  # hexadecimal digits that name an artifact
_LISTED = 20


@dataclass(slots=True)
class Lineage:
    """A record with all that it was made of. `depth` counts steps from the artifact, 0 for its own.

    `made_of` are the edges. `lost` are inputs without a record: made outside, before lineage was kept, or
    removed since.
    """

    root: LineageRecord
    records: dict[RecordId, LineageRecord] = field(default_factory=dict)
    depth: dict[RecordId, int] = field(default_factory=dict)
    made_of: dict[RecordId, list[RecordId]] = field(default_factory=dict)
    lost: dict[LineageInput, RecordId] = field(default_factory=dict)

    def closure(self, start: Iterable[RecordId]) -> list[LineageRecord]:
        """These records and all that they were made of, each once."""
        seen = dict.fromkeys(start)
        todo = list(seen)
        while todo:
            for each in self.made_of[todo.pop()]:
                if each not in seen:
                    seen[each] = None
                    todo.append(each)
        return [self.records[each] for each in seen]


def trace(ancestry: Ancestry, root: LineageRecord) -> Lineage:
    """Follows what the record was made of, level by level: each level is looked up at once."""
    lineage = Lineage(root, {root.record_id: root}, {root.record_id: 0})
    level = [root]
    depth = 0
    while level:
        depth += 1
        wanted = {record.record_id: _parts(record) for record in level}
        found = _look_up(ancestry, lineage.records, wanted)
        following: dict[RecordId, LineageRecord] = {}
        for record in level:
            edges = lineage.made_of.setdefault(record.record_id, [])
            for part in wanted[record.record_id]:
                made = found.get((record.record_id, part))
                if made is None:
                    lineage.lost.setdefault(part, record.record_id)
                    continue
                edges.append(made.record_id)
                if made.record_id not in lineage.records:
                    following[made.record_id] = made
        lineage.records |= following
        lineage.depth |= dict.fromkeys(following, depth)
        level = list(following.values())
    return lineage


def explain_artifact(ancestry: Ancestry, prefix: str, *, top: int = _LISTED) -> dict[str, Any]:
    """By digest, or its first digits. Of several makings the newest is explained, the others are named.

    Raises CostError (`digest-invalid`, `digest-ambiguous`, `artifact-unknown`).
    """
    name = prefix.removeprefix("sha256:")
    if not SHORTEST <= len(name) <= 64 or set(name) - set("0123456789abcdef"):  # noqa: PLR2004 - of sha256
        raise CostError(
            f"{prefix[:80]!r} is no digest of an artifact",
            remedy=f"give sha256:<64 hexadecimal digits>, or at least the first {SHORTEST}",
            code="digest-invalid",
        )
    found = ancestry.find_prefix(name)
    if not found:
        raise CostError(
            f"no run is known to have made sha256:{name}",
            remedy="`maestro cost explain RUN` lists what a run made; lineage is kept when a run ends",
            code="artifact-unknown",
        )
    digests = sorted({record.digest for record in found})
    if len(digests) > 1:
        raise CostError(
            f"{len(digests)} artifacts begin with {name}",
            remedy=f"give more of it: {', '.join(digests[:5])}",
            code="digest-ambiguous",
        )
    makings = [record for record in found if not record.reused] or found
    takings = [record for record in found if record.reused]
    value = explain_record(ancestry, makings[0], top=top)
    value["other_makings"] = [_brief(record) for record in makings[1:]]
    value["reuse"] = {"runs": len({record.run_id for record in takings}), **_saved(takings)}
    return value


def explain_step(ancestry: Ancestry, run_id: str, step: str, *, top: int = _LISTED) -> dict[str, Any]:
    """What a step of a run made, or cost without making anything. Raises CostError (`step-unknown`)."""
    records = find_run(ancestry, run_id)
    root = records.get((run_id, step, WHOLE))
    if root is None:
        raise CostError(
            f"the run {run_id} has no record of a step {step}",
            remedy=f"its steps: {', '.join(sorted({record.step for record in records.values()}))}",
            code="step-unknown",
        )
    return explain_record(ancestry, root, top=top)


def explain_record(ancestry: Ancestry, root: LineageRecord, *, top: int = _LISTED) -> dict[str, Any]:
    """The explanation as JSON; `made_of` lists the `top` dearest records, 0 all of them."""
    lineage = trace(ancestry, root)
    described = ancestry.describe(root)
    whole = list(lineage.records.values())
    direct = lineage.made_of[root.record_id]
    upstream = lineage.closure(direct)
    chosen = sorted(
        whole, key=lambda record: (-record.known_nano, lineage.depth[record.record_id], record.record_id)
    )
    return {
        "schema": SCHEMA,
        "kind": "artifact",
        "currency": "USD",
        **_brief(root),
        "media_type": described.media_type,
        "size": described.size,
        "own": _sum([root]),
        "inputs": _sum(upstream),
        "total": _sum(whole, lost=len(lineage.lost)),
        "lineage": {
            "records": len(whole),
            "runs": len({record.run_id for record in whole}),
            "depth": max(lineage.depth.values()),
        },
        "saved": _saved([record for record in whole if record.reused and record.run_id == root.run_id]),
        "missing": sorted({name for record in whole for name in record.missing}),
        "without_record": _lost(lineage),
        "direct_inputs": [
            {
                **_brief(lineage.records[each]),
                "own": _sum([lineage.records[each]]),
                "with_inputs": _sum(lineage.closure([each])),
            }
            for each in dict.fromkeys(direct)
        ],
        "made_of": [
            {"depth": lineage.depth[record.record_id], **_brief(record), **_sum([record])}
            for record in chosen[: top or None]
        ],
    }


def explain_run(ancestry: Ancestry, run_id: str, *, top: int = _LISTED) -> dict[str, Any]:
    """What a run's money went into: the dearest steps, retries, failures, what reuse saved.

    `total` is the run's own cost, as its cost report has it. Raises CostError (`lineage-missing`).
    """
    records = list(find_run(ancestry, run_id).values())
    steps: dict[str, list[LineageRecord]] = defaultdict(list)
    for record in records:
        steps[record.step].append(record)
    ranked = sorted(
        steps.values(), key=lambda group: (-sum(each.known_nano for each in group), group[0].step)
    )
    first = ancestry.describe(records[0])
    return {
        "schema": SCHEMA,
        "kind": "run",
        "currency": "USD",
        "run_id": run_id,
        "flow": first.flow,
        "flow_digest": first.flow_digest,
        "tenant": first.tenant,
        "project": first.project,
        "env": first.env,
        "finished_at": max(record.finished_at for record in records),
        "total": _sum(records),
        "saved": _saved([record for record in records if record.reused]),
        "missing": sorted({name for record in records for name in record.missing}),
        "steps": [_step(group) for group in ranked[: top or None]],
    }


def find_run(ancestry: Ancestry, run_id: str) -> dict[RecordId, LineageRecord]:
    """The records of a run. Raises CostError (`lineage-missing`)."""
    records = ancestry.find_runs({run_id: set()})
    if not records:
        raise CostError(
            f"there is no lineage of run {run_id}",
            remedy="it is written when a run ends; `maestro cost report` shows what was used until now",
            code="lineage-missing",
        )
    return records


def _parts(record: LineageRecord) -> list[LineageInput]:
    """What to follow: of a result that was taken over its maker, whose inputs they are; else the inputs."""
    if not record.reused:
        return list(dict.fromkeys(record.inputs))
    if not record.source_run:
        return []
    return [LineageInput(record.digest, record.source_run, record.step, record.iteration, record.source_day)]


def _look_up(
    ancestry: Ancestry,
    known: dict[RecordId, LineageRecord],
    wanted: dict[RecordId, list[LineageInput]],
) -> dict[tuple[RecordId, LineageInput], LineageRecord]:
    parts = [part for each in wanted.values() for part in each if part.run_id]
    by_run = known | ancestry.find_runs(_days_of(part for part in parts if _name(part) not in known))
    lost = {part.run_id: set[str]() for part in parts if part.day and _name(part) not in by_run}
    by_run |= ancestry.find_runs(lost)  # the hint was wrong, so anywhere
    by_digest = _find_makings(ancestry, known, wanted)
    found: dict[tuple[RecordId, LineageInput], LineageRecord] = {}
    for reader, each in wanted.items():
        for part in each:
            if part.run_id:
                made = by_run.get(_name(part))
            else:
                made = by_digest.get((part.digest, known[reader].finished_at))
            if made is not None and made.digest == part.digest:
                found[reader, part] = made
    return found


def _days_of(parts: Iterable[LineageInput]) -> dict[str, set[str]]:
    """Run -> the days on which it made what is asked for; none when one of them is not known."""
    days: dict[str, set[str]] = {}
    for part in parts:
        days.setdefault(part.run_id, set()).add(part.day)
    return {run_id: set() if "" in found else found for run_id, found in days.items()}


def _find_makings(
    ancestry: Ancestry,
    known: dict[RecordId, LineageRecord],
    wanted: dict[RecordId, list[LineageInput]],
) -> dict[tuple[str, str], LineageRecord]:
    """(digest, when its reader ended) -> who had made it before, for what names no run."""
    times: dict[str, set[str]] = defaultdict(set)
    for reader, parts in wanted.items():
        for part in parts:
            if not part.run_id and part.digest:
                times[part.digest].add(known[reader].finished_at)
    found: dict[tuple[str, str], LineageRecord] = {}
    while times:  # once, unless readers of one artifact ended at different times
        before = {digest: left.pop() for digest, left in times.items()}
        makings = ancestry.find_digests(before)
        found |= {(digest, before[digest]): made for digest, made in makings.items()}
        times = defaultdict(set, {digest: left for digest, left in times.items() if left})
    return found


def _name(part: LineageInput) -> RecordId:
    return part.run_id, part.step, part.iteration


def _sum(records: Sequence[LineageRecord], lost: int = 0) -> dict[str, Any]:
    """`cost_usd` is null as soon as something is unknown; `known_usd` is what has a price."""
    known = sum(record.known_nano for record in records)
    unknown = sum(record.unknown for record in records)
    return {
        "cost_usd": None if unknown or lost else format_nano(known),
        "known_usd": format_nano(known),
        "unknown_events": unknown,
        "failed_usd": format_nano(sum(record.failed_nano for record in records)),
        "retry_usd": format_nano(sum(record.retry_nano for record in records)),
    }


def _saved(records: Sequence[LineageRecord]) -> dict[str, Any]:
    known = [record.saved_nano for record in records if record.saved_nano is not None]
    return {
        "reused": len(records),
        "saved_usd": format_nano(sum(known)),
        "unknown": len(records) - len(known),
    }


def _brief(record: LineageRecord) -> dict[str, Any]:
    return {
        "digest": record.digest or None,
        "run_id": record.run_id,
        "flow": record.flow,
        "step": record.step,
        "iteration": None if record.iteration == WHOLE else record.iteration,
        "status": record.status,
        "attempts": record.attempts,
        "finished_at": record.finished_at,
        "reused_from": record.source_run or None,
    }


def _step(group: Sequence[LineageRecord]) -> dict[str, Any]:
    """A step with its iterations."""
    whole = next((record for record in group if record.iteration == WHOLE), group[0])
    return {
        "step": whole.step,
        "status": whole.status,
        "attempts": sum(record.attempts for record in group),
        "iterations": sum(record.iteration != WHOLE for record in group),
        "digest": whole.digest or None,
        **_sum(group),
        "saved_usd": None if whole.saved_nano is None else format_nano(whole.saved_nano),
        "reused_from": whole.source_run or None,
    }


def _lost(lineage: Lineage) -> list[dict[str, Any]]:
    return [
        {
            "digest": part.digest or None,
            "run_id": part.run_id or None,
            "step": part.step or None,
            "read_by": {"run_id": reader[0], "step": reader[1]},
        }
        for part, reader in sorted(
            lineage.lost.items(), key=lambda item: (item[0].digest, item[0].run_id, item[0].step, item[1])
        )
    ]
