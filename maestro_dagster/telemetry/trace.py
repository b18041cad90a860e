"""Reading a run's spans back, from whichever processes wrote them, and the document that evidence holds."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from maestro_dagster.manifest.canonical import canonical_json
from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.span import open_path, trace_id_for, trace_path

MOST_SPANS: Final = 20_000  # in a document: of a run with more, calls are left out first
_RANK: Final = {
    name.RUN_SPAN: 0,
    name.PUSH_SPAN: 0,
    name.ADMISSION_SPAN: 1,
    name.SEGMENT_SPAN: 1,
    name.STEP_SPAN: 2,
}
_CALL_RANK: Final = 3
_ERROR: Final = 2


@dataclass(frozen=True, slots=True)
class TraceSpan:
    """A span as it was written. Times are nanoseconds since the epoch; `end` is 0 while it goes on."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    start: int
    end: int
    attributes: Mapping[str, Any]
    failed: bool
    message: str
    body: Mapping[str, Any] = field(compare=False)  # as it stands in the file
    resource: Mapping[str, Any] = field(compare=False, default_factory=dict)

    @property
    def what(self) -> str:
        """One of the *_SPAN names."""
        return str(self.attributes.get(name.SPAN_KIND, ""))

    @property
    def step(self) -> str:
        return str(self.attributes.get(name.TASK_NAME, ""))

    @property
    def duration_ms(self) -> float:
        return max(0, self.end - self.start) / 1e6

    def to_json(self) -> dict[str, Any]:
        """The stable shape of `maestro trace --json`. Times are seconds since the epoch."""
        return {
            "span_id": self.span_id,
            "parent_id": self.parent_id or None,
            "name": self.name,
            "kind": self.what,
            "start": self.start / 1e9,
            "end": self.end / 1e9 if self.end else None,
            "duration_ms": round(self.duration_ms, 3) if self.end else None,
            "failed": self.failed,
            "message": self.message,
            "attributes": dict(self.attributes),
        }


def read_trace(folder: Path, run_id: str) -> list[TraceSpan]:
    """Every span of the run once, ended or not, by their beginning. Torn lines are passed over."""
    found = {span.span_id: span for span in read_open(folder, run_id)}
    found.update({span.span_id: span for span in read_ended(folder, run_id)})
    return sorted(found.values(), key=_order)


def read_ended(folder: Path, run_id: str) -> list[TraceSpan]:
    """Those that have ended; of several lines about one span the last counts."""
    found: dict[str, TraceSpan] = {}
    for line in _lines(trace_path(folder, run_id)):
        for span in parse_request(line):
            found[span.span_id] = span
    return [span for span in found.values() if span.trace_id == trace_id_for(run_id)]


def read_open(folder: Path, run_id: str) -> list[TraceSpan]:
    """Those that have begun, also when they have ended since."""
    found: dict[str, TraceSpan] = {}
    for line in _lines(open_path(folder, run_id)):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            span = _parse_span(line, {})
            found.setdefault(span.span_id, span)
    return [span for span in found.values() if span.trace_id == trace_id_for(run_id)]


def parse_request(request: Mapping[str, Any]) -> Iterator[TraceSpan]:
    """The spans of an ExportTraceServiceRequest in JSON; what is none is passed over."""
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
        for group in request["resourceSpans"]:
            resource = read_attributes(group["resource"]["attributes"])
            for scope in group["scopeSpans"]:
                for body in scope["spans"]:
                    yield _parse_span(body, resource)


def write_document(spans: Iterable[TraceSpan]) -> bytes:
    """The whole trace as one ExportTraceServiceRequest in RFC 8785 JSON, the same for the same spans."""
    chosen = sorted(spans, key=lambda span: (_RANK.get(span.what, _CALL_RANK), *_order(span)))[:MOST_SPANS]
    resource = next((span.resource for span in chosen if span.resource), {})
    body = {
        "resource": {"attributes": [_attribute(key, value) for key, value in sorted(resource.items())]},
        "scopeSpans": [
            {"scope": {"name": name.SCOPE}, "spans": [span.body for span in sorted(chosen, key=_order)]}
        ],
    }
    return canonical_json({"resourceSpans": [body]})


def read_document(data: bytes) -> list[TraceSpan]:
    """The spans of a document that `write_document` made, by their beginning."""
    try:
        value = json.loads(data)
    except ValueError:
        return []
    return sorted(parse_request(value), key=_order) if isinstance(value, dict) else []


def read_attributes(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {str(item["key"]): _plain(item["value"]) for item in items}


def _order(span: TraceSpan) -> tuple[int, int, str]:
    return span.start, _RANK.get(span.what, _CALL_RANK), span.span_id


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            for raw in file:
                with contextlib.suppress(ValueError):
                    line = json.loads(raw)
                    if isinstance(line, dict):
                        yield line
    except OSError:  # telling of a run never fails it: what is missing is told from the journal
        return


def _parse_span(body: Mapping[str, Any], resource: Mapping[str, Any]) -> TraceSpan:
    status = body.get("status", {})
    return TraceSpan(
        trace_id=str(body["traceId"]),
        span_id=str(body["spanId"]),
        parent_id=str(body.get("parentSpanId", "")),
        name=str(body["name"]),
        kind=int(body["kind"]),
        start=int(body["startTimeUnixNano"]),
        end=int(body["endTimeUnixNano"]),
        attributes=read_attributes(body.get("attributes", ())),
        failed=status.get("code") == _ERROR,
        message=str(status.get("message", "")),
        body=body,
        resource=resource,
    )


def _plain(value: Mapping[str, Any]) -> Any:
    kind, plain = next(iter(value.items()))
    if kind == "intValue":
        return int(plain)
    if kind == "arrayValue":
        return [_plain(each) for each in plain.get("values", ())]
    return plain


def _attribute(key: str, value: Any) -> dict[str, Any]:
    return {"key": key, "value": {"stringValue": str(value)}}
