"""From a row of the outbox to what is said at the forge's desk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from maestro_dagster.errors import EventError
from maestro_dagster.events.outbox import Entry
from maestro_dagster.events.report import RunReport
from maestro_dagster.events.report_call import CommentNote, Desk, EvidenceNote, StatusNote, Talk
from maestro_dagster.events.report_text import describe, make_comment, make_summary, make_title

ReadEvidence = Callable[[str], bytes]  # the bundle of a run id


def make_talk(desk: Desk, entry: Entry, read_evidence: ReadEvidence) -> Talk:
    """Raises EventError (`report-evidence`) where the bundle is not the one that was reported."""
    if entry.kind == "status":
        return desk.set_status(make_status(entry), entry.known)
    if entry.kind == "comment":
        told = [RunReport.from_json(form) for form in entry.body["runs"].values()]
        # Rows that were written when ids of releases and pipelines were taken for numbers are not sent.
        reports = [report for report in told if report.request == entry.body["number"]]
        if not reports:
            return _say_nothing(entry)
        text = make_comment(reports, html=desk.html)
        note = CommentNote(entry.body["number"], entry.body["marker"], text)
        return desk.set_comment(note, entry.known)
    return desk.attach_evidence(_evidence(entry, read_evidence))


def _say_nothing(entry: Entry) -> Talk:
    yield from ()
    return dict(entry.known)


def make_status(entry: Entry) -> StatusNote:
    report = RunReport.from_json(entry.body["report"])
    return StatusNote(
        context=entry.body["context"],
        sha=report.sha,
        ref=report.ref,
        standing=report.standing,
        description=describe(report),
        title=make_title(report),
        summary=make_summary(report),
        run_id=report.run_id,
        url=report.url,
        number=report.request,
        started_at=report.started_at,
        finished_at=report.finished_at,
        unsure=entry.unsure,
    )


def _evidence(entry: Entry, read_evidence: ReadEvidence) -> EvidenceNote:
    body = entry.body
    data = read_evidence(body["run_id"])
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != body["digest"]:
        raise EventError(
            "the evidence bundle is not the one that the run ended with, so it is not attached",
            place=f"run {body['run_id']}",
            remedy="restore it from a backup",
            code="report-evidence",
        )
    return EvidenceNote(body["tag"], body["run_id"], body["name"], body["digest"], len(data), lambda: data)
