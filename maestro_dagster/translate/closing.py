"""The end of a run: its evidence and SBOM as assets, with the checks on them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from maestro_dagster.engine.interface import RunView, StepOutcome
from maestro_dagster.manifest.canonical import digest_bytes
from maestro_dagster.manifest.money import format_nano
from maestro_dagster.telemetry.trace import read_document
from maestro_dagster.telemetry.waterfall import draw_picture, lay_out
from maestro_dagster.translate.check import evidence_checked, policy_checked
from maestro_dagster.translate.event import RUN_TAG, Checked, Made, cost_metadata
from maestro_dagster.translate.plan import FlowPlan
from maestro_dagster.translate.runtime import Runtime
from maestro_dagster.translate.timeline import (
    MOST_ROWS,
    bars_markdown,
    format_seconds,
    show_image,
    timeline_markdown,
)
from maestro_dagster.translate.translator import FlowTranslatorSettings

CLOSED = frozenset({"succeeded", "failed", "denied", "cancelled"})
MOST_SPANS = 40  # of the trace's picture, which goes into an event of the event log
ENDED = frozenset({"done", "failed", "skipped", "cancelled", "reused"})


def is_finished(view: RunView) -> bool:
    """Whether every step has ended, so that the run can be closed."""
    return all(step.status in ENDED for step in view.steps)


def close_run(
    runtime: Runtime, plan: FlowPlan, run_id: str, settings: FlowTranslatorSettings
) -> Iterator[Made | Checked]:
    """Closes the run (again, if it was closed before: the same bytes) and says what came of it."""
    bundle = runtime.engine.close(run_id)
    view = runtime.engine.view(run_id)
    data = bundle.read_bytes()
    metadata = {
        **_evidence_metadata(view, data, settings),
        **_cost_metadata(runtime, run_id),
        **(_trace(view, bundle) if settings.enable_timeline else {}),
    }
    yield Made(plan.evidence_key, digest_bytes(data), metadata, run_id)
    if plan.sbom is not None:
        sbom = read_sbom(bundle)
        yield Made(plan.keys[plan.sbom], digest_bytes(sbom), _sbom_metadata(view, sbom), run_id)
    if not settings.enable_checks:
        return
    yield policy_checked(view, plan.evidence_key)
    signer = runtime.engine.services.signer
    if signer is not None:
        yield from evidence_checked(view, plan.evidence_key, bundle, signer.public_pem)


def _evidence_metadata(view: RunView, data: bytes, settings: FlowTranslatorSettings) -> dict[str, Any]:
    costs = [step.cost_nano for step in view.steps]
    known = [cost for cost in costs if cost is not None]
    begun = view.started_at or view.requested_at
    metadata: dict[str, Any] = {
        "status": view.status,
        **_timeline(view, settings),
        "steps": dg.MetadataValue.md(_table(view)),
        "path": dg.MetadataValue.path(view.evidence or ""),
        "size": dg.MetadataValue.int(len(data)),
        "verify": dg.MetadataValue.md(f"`maestro verify {view.evidence}`"),
        "flow_digest": view.flow_digest,
        "tokens": dg.MetadataValue.int(sum(step.tokens for step in view.steps)),
        "duration_s": dg.MetadataValue.float(round(max((view.finished_at or begun) - begun, 0.0), 3)),
        RUN_TAG: view.run_id,
        **cost_metadata(sum(known) if len(known) == len(costs) else None),
    }
    if view.git:
        metadata["git"] = dg.MetadataValue.json(dict(view.git))
    return metadata


def _cost_metadata(runtime: Runtime, run_id: str) -> dict[str, Any]:
    """What of the run's money went into failures and retries, and what taking results over saved.

    Nothing when the run's lineage has been compacted already: then this was recorded before.
    """
    from maestro_dagster.costs.lineage import lineage_file, read_lineage

    records = read_lineage(lineage_file(runtime.engine.services.spool.lineage, run_id))
    sums = {
        "failures": sum(record.failed_nano for record in records),
        "retries": sum(record.retry_nano for record in records),
        "saved": sum(record.saved_nano or 0 for record in records),
    }
    metadata: dict[str, Any] = {
        f"cost_{name}_usd": dg.MetadataValue.float(nano / 1_000_000_000) for name, nano in sums.items()
    }
    metadata["cost_explained"] = ", ".join(f"{name} {format_nano(nano)} USD" for name, nano in sums.items())
    if any(record.unknown or record.saved_nano is None for record in records):
        metadata["cost_explained"] += "; and what has no price"
    return metadata if records else {}


def _timeline(view: RunView, settings: FlowTranslatorSettings) -> dict[str, Any]:
    if not settings.enable_timeline or not view.steps:
        return {}
    bars = bars_markdown(view)
    inline = {"bars": dg.MetadataValue.md(bars)} if bars else {}
    return {**inline, "timeline": dg.MetadataValue.md(timeline_markdown(view))}


def _trace(view: RunView, bundle: Path) -> dict[str, Any]:
    """The run's trace as a picture, and its id for whoever looks it up elsewhere."""
    with zipfile.ZipFile(bundle) as archive:
        if "trace.json" not in archive.namelist():
            return {}
        spans = read_document(archive.read("trace.json"))
    picture = draw_picture(lay_out(spans), f"{view.flow} {view.flow_version}: {view.status}", MOST_SPANS)
    return {
        "trace": dg.MetadataValue.md(show_image("trace of the run", picture)),
        "trace_id": spans[0].trace_id if spans else "",
    }


def _table(view: RunView) -> str:
    """The steps as a Markdown table; a long run shows what did not succeed and how many did."""
    steps = list(view.steps)
    if len(steps) > MOST_ROWS:
        steps = [step for step in steps if step.status not in {"done", "reused"}][:MOST_ROWS]
    steps.sort(key=lambda step: (step.started_at is None, step.started_at or 0.0))
    rows = "".join(_row(step) for step in steps)
    left_out = len(view.steps) - len(steps)
    more = f"\n{left_out} more steps are not shown.\n" if left_out else ""
    return f"| step | status | attempts | time | USD |\n|---|---|---|---|---|\n{rows}{more}"


def _row(step: StepOutcome) -> str:
    took = format_seconds(step.duration_ms / 1000)
    cost = "unknown" if step.cost_nano is None else format_nano(step.cost_nano)
    return f"| {step.step} | {step.status} | {step.attempts} | {took} | {cost} |\n"


def read_sbom(bundle: Path) -> bytes:
    """The CycloneDX document in a bundle."""
    with zipfile.ZipFile(bundle) as archive:
        return archive.read("sbom.json")


def _sbom_metadata(view: RunView, sbom: bytes) -> dict[str, Any]:
    components = json.loads(sbom).get("components", [])
    lines = [f"| {each.get('name')} | {each.get('version', '')} |" for each in components[:40]]
    return {
        "media_type": "application/vnd.cyclonedx+json",
        "size": dg.MetadataValue.int(len(sbom)),
        "components": dg.MetadataValue.int(len(components)),
        "preview": dg.MetadataValue.md("\n".join(["| component | version |", "|---|---|", *lines])),
        "evidence": dg.MetadataValue.path(view.evidence or ""),
        RUN_TAG: view.run_id,
    }
