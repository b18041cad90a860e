"""The traces of a project: read, sent to a collector, and begun with the event that asked for a run."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from maestro_dagster.errors import MaestroError
from maestro_dagster.project.root import Project

if TYPE_CHECKING:
    from maestro_dagster.engine.interface import RunRequest
    from maestro_dagster.events.inbox import Inbox
    from maestro_dagster.telemetry.export import ExportThread, TraceExporter
    from maestro_dagster.telemetry.trace import TraceSpan

Request = Callable[[Sequence["RunRequest"]], object]


def trace_folder(project: Project) -> Path:
    return project.home / "traces"


def read_run_trace(project: Project, run_id: str) -> list[TraceSpan]:
    """The spans of a run by their beginning: from the project's own file, else from the run's evidence."""
    from maestro_dagster.telemetry.trace import read_document, read_trace

    if spans := read_trace(trace_folder(project), run_id):
        return spans
    try:
        with zipfile.ZipFile(project.evidence / f"{run_id}.zip") as bundle:
            return read_document(bundle.read("trace.json"))
    except (OSError, KeyError, zipfile.BadZipFile):
        return []


def open_exporter(project: Project) -> TraceExporter | None:
    """What sends the traces; None when the project names no receiver."""
    from maestro_dagster.project.secret import secret_source
    from maestro_dagster.telemetry.export import OtlpWire, TraceExporter, parse_headers

    settings = project.settings
    if settings.otlp_endpoint is None:
        return None
    headers = ""
    if settings.otlp_headers_secret is not None:
        headers = secret_source(project.home)(settings.otlp_headers_secret) or ""
    wire = OtlpWire(settings.otlp_endpoint, parse_headers(headers))
    return TraceExporter(trace_folder(project), wire)


def start_export(project: Project, say: Callable[[str], None]) -> ExportThread | None:
    """Sends the traces of the project from now on, in a thread of its own; None when there is no receiver."""
    from maestro_dagster.telemetry.export import ExportThread

    try:
        exporter = open_exporter(project)
    except MaestroError as error:
        say(f"traces are not sent: {error}")
        return None
    if exporter is None:
        return None
    return ExportThread(
        exporter, say, urlsplit(project.settings.otlp_endpoint or "").netloc.rpartition("@")[2]
    )


def trace_requests(project: Project, inbox: Inbox, request: Request) -> Request:
    """The same `request`; of runs that an event asks for, the trace begins with the event."""

    def ask(requests: Sequence[RunRequest]) -> object:
        from maestro_dagster.events.figure import read_received
        from maestro_dagster.project.redaction import open_redactor

        known = read_received(inbox.database, [each.git["event_id"] for each in requests if _has_event(each)])
        redactor = open_redactor(project)
        for each in requests:
            if _has_event(each) and (received := known.get(each.git["event_id"])) is not None:
                _record(project, each, received, redactor)
        return request(requests)

    return ask


def _has_event(request: RunRequest) -> bool:
    return bool(request.git.get("event_id"))


def _record(project: Project, request: RunRequest, received: float, redactor: Any) -> None:
    from maestro_dagster.engine.trace import record_push
    from maestro_dagster.telemetry import name

    git = request.git
    record_push(
        trace_folder(project),
        request.run_id,
        received,
        {
            name.PIPELINE_NAME: request.flow.name,
            name.REPOSITORY: git.get("repository"),
            name.REF_NAME: git.get("ref"),
            name.REVISION: git.get("sha"),
            name.EVENT_ID: git["event_id"],
            name.RUN_CAUSE: request.cause,
        },
        redactor=redactor,
    )
