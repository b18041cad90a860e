"""Spans of a run: one file of OTLP/JSON lines, appended by every process that works on the run.

    traces/<run_id>.jsonl   one ended span a line, each a whole ExportTraceServiceRequest
    traces/<run_id>.open    spans that have begun; it goes away when the run has ended

The form is that of the OTLP file exporter (https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/).
The ids of the trace, of the run's span and of the push's follow from the run id, so a resume in another
process goes on in the same trace. A process that is killed leaves its spans in the second file, and
whoever ends the run ends them. Telling never fails what is told of: without room on the disk there are
no spans.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.redaction import Redactor

INTERNAL: Final = 1  # SpanKind of opentelemetry/proto/trace/v1/trace.proto
SERVER: Final = 2
CLIENT: Final = 3
CONSUMER: Final = 5
_OK, _ERROR = 1, 2
_LONGEST_TEXT = 1024  # characters of an attribute
_MOST_KEPT = 500  # values whose hidden form is remembered
_MOST_BYTES = 64 * 1024 * 1024  # of one run's file: what follows is not kept


@dataclass(slots=True)
class Span:
    """One piece of work. Times are nanoseconds since the epoch; `end` is 0 while it goes on."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    start: int
    attributes: dict[str, Any] = field(default_factory=dict)
    end: int = 0
    error: str = ""  # the code of what went wrong; empty: nothing did
    message: str = ""
    links: tuple[tuple[str, str], ...] = ()  # (trace id, span id) of what this one goes back to

    @property
    def traceparent(self) -> str:
        """For those who are called (https://www.w3.org/TR/trace-context/, version 00, sampled)."""
        return f"00-{self.trace_id}-{self.span_id}-01"

    def fail(self, code: str, message: str = "") -> None:
        self.error, self.message = code, message


def trace_id_for(run_id: str) -> str:
    """The one trace of a run: 32 hexadecimal digits."""
    return hashlib.sha256(f"trace\0{run_id}".encode()).hexdigest()[:32]


def span_id_for(run_id: str, *what: object) -> str:
    """An id that every process finds again: 16 hexadecimal digits."""
    text = "\0".join(("span", run_id, *map(str, what)))
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def run_span_id(run_id: str) -> str:
    return span_id_for(run_id, name.RUN_SPAN)


def push_span_id(run_id: str) -> str:
    return span_id_for(run_id, name.PUSH_SPAN)


def new_span_id() -> str:
    return os.urandom(8).hex()


def trace_path(folder: Path, run_id: str) -> Path:
    return folder / f"{run_id}.jsonl"


def open_path(folder: Path, run_id: str) -> Path:
    return folder / f"{run_id}.open"


class Trace:
    """Writes the spans of one run. Safe between threads; whole lines between processes (O_APPEND)."""

    def __init__(
        self,
        folder: Path,
        run_id: str,
        *,
        redactor: Redactor | None = None,
        resource: Mapping[str, Any] | None = None,
    ) -> None:
        self.run_id = run_id
        self.trace_id = trace_id_for(run_id)
        self._redactor = redactor or Redactor()
        self._ended = _LineFile(trace_path(folder, run_id))
        self._begun = _LineFile(open_path(folder, run_id))
        self._head = _resource_json(resource or {})
        self._hidden: dict[str, str] = {}  # most values of a run are said again and again
        self._generation = -1

    def begin(
        self,
        title: str,
        what: str,
        *,
        parent: Span | str | None = None,
        span_id: str = "",
        kind: int = INTERNAL,
        start: float | None = None,
        attributes: Mapping[str, Any] | None = None,
        links: tuple[tuple[str, str], ...] = (),
    ) -> Span:
        """Notes that it goes on from now (or from `start`, seconds since the epoch). `what` is a *_SPAN."""
        parent_id = parent.span_id if isinstance(parent, Span) else parent or ""
        known = {name.SPAN_KIND: what, name.PIPELINE_RUN_ID: self.run_id, **(attributes or {})}
        span = Span(
            self.trace_id,
            span_id or new_span_id(),
            parent_id,
            title,
            kind,
            time.time_ns() if start is None else round(start * 1e9),
            known,
            links=links,
        )
        self._begun.write(json.dumps(self._to_json(span), ensure_ascii=False))
        return span

    def end(self, span: Span, *, end: float | None = None) -> str:
        """Notes that it has ended now (or at `end`); gives the line. A span that was ended stays as it is."""
        if span.end:
            return ""
        span.end = max(span.start, time.time_ns() if end is None else round(end * 1e9))
        return self.write(span)

    def write(self, span: Span) -> str:
        """A whole span in one go; of two with one id the later one counts. Gives the line."""
        body = json.dumps(self._to_json(span), ensure_ascii=False)
        line = self._head + body + "]}]}]}"
        self._ended.write(line)
        return line

    @contextlib.contextmanager
    def span(self, title: str, what: str, **options: Any) -> Iterator[Span]:
        """Around a piece of work, which is what `current_span` gives within. Takes what `begin` takes."""
        span = self.begin(title, what, **options)
        token = _CURRENT.set((self, span))
        try:
            yield span
        except BaseException as error:
            if not span.error:
                span.fail(name_error(error), str(error))
            raise
        finally:
            _CURRENT.reset(token)
            self.end(span)

    def close(self) -> None:
        self._ended.close()
        self._begun.close()

    def _to_json(self, span: Span) -> dict[str, Any]:
        found: dict[str, Any] = {"traceId": span.trace_id, "spanId": span.span_id}
        if span.parent_id:
            found["parentSpanId"] = span.parent_id
        found |= {
            "name": self._hide(span.name),
            "kind": span.kind,
            "startTimeUnixNano": str(span.start),
            "endTimeUnixNano": str(span.end),
            "attributes": self._attributes(span),
        }
        if span.links:
            found["links"] = [{"traceId": trace, "spanId": each} for trace, each in span.links]
        if span.error:
            message = self._redactor.hide_all(span.message)[:_LONGEST_TEXT]
            found["status"] = {"code": _ERROR, "message": message}
        elif span.end:
            found["status"] = {"code": _OK}
        return found

    def _attributes(self, span: Span) -> list[dict[str, Any]]:
        values = dict(span.attributes)
        if span.error:
            values[name.ERROR_TYPE] = span.error
        return [
            {"key": key, "value": _value_json(self._hide(value))}
            for key, value in values.items()
            if value is not None
        ]

    def _hide(self, value: Any) -> Any:
        if isinstance(value, str):
            if self._generation != self._redactor.generation or len(self._hidden) > _MOST_KEPT:
                self._hidden, self._generation = {}, self._redactor.generation
            known = self._hidden  # another thread may put a new one in its place meanwhile
            if (found := known.get(value)) is None:
                found = known[value] = self._redactor.hide_all(value)[:_LONGEST_TEXT]
            return found
        return [self._hide(each) for each in value] if isinstance(value, list | tuple) else value


_CURRENT: ContextVar[tuple[Trace, Span] | None] = ContextVar("maestro_span", default=None)


def current_span() -> Span | None:
    """The span that the caller works within, in this task and the threads that it starts."""
    found = _CURRENT.get()
    return None if found is None else found[1]


@contextlib.contextmanager
def open_call(title: str, *, kind: int = CLIENT, **attributes: Any) -> Iterator[Span]:
    """A span around a call to the outside, below the one the caller works within.

    Keywords are attributes, `__` for a dot. Outside every run it is a span that nobody writes down, without
    a `traceparent` worth sending: `span.trace_id` is empty.
    """
    found = _CURRENT.get()
    if found is None:
        yield Span("", "", "", title, kind, time.time_ns())
        return
    trace, parent = found
    known = {key.replace("__", "."): value for key, value in attributes.items()}
    own = {key: parent.attributes[key] for key in _INHERITED if key in parent.attributes}
    with trace.span(title, name.CALL_SPAN, parent=parent, kind=kind, attributes={**own, **known}) as span:
        yield span


_INHERITED: Final = (name.TASK_NAME, name.STEP_ITERATION, name.STEP_ATTEMPT)


def name_error(error: BaseException) -> str:
    """The stable code of an error of ours, else its class."""
    return str(getattr(error, "error_code", "") or type(error).__name__)


class _LineFile:
    """Opened with the first line. Whatever is wrong with the disk ends the writing, never the work."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._handle = -1
        self._pid = 0
        self._size = 0
        self._full = False

    def write(self, line: str) -> None:
        data = line.encode(errors="replace") + b"\n"
        with self._lock:
            if self._full:
                return
            try:
                if self._handle < 0 or self._pid != os.getpid():
                    self._open()
                self._size += len(data)
                if self._size > _MOST_BYTES or os.write(self._handle, data) != len(data):
                    self._full = True
            except OSError:
                self._full = True

    def close(self) -> None:
        with self._lock:
            if self._handle >= 0 and self._pid == os.getpid():
                os.close(self._handle)
            self._handle = -1

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._pid = os.getpid()
        self._size = os.fstat(self._handle).st_size
        if self._size and os.pread(self._handle, 1, self._size - 1) != b"\n":
            os.write(self._handle, b"\n")  # a writer died in the middle of a line


def _resource_json(resource: Mapping[str, Any]) -> str:
    """The beginning of a line, up to the span."""
    attributes = [{"key": key, "value": _value_json(value)} for key, value in resource.items()]
    scope = json.dumps({"name": name.SCOPE})
    head = json.dumps({"attributes": attributes}, ensure_ascii=False)
    return f'{{"resourceSpans":[{{"resource":{head},"scopeSpans":[{{"scope":{scope},"spans":['


def _value_json(value: Any) -> dict[str, Any]:
    """An AnyValue of opentelemetry/proto/common/v1/common.proto in JSON: 64-bit integers are texts."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list | tuple):
        return {"arrayValue": {"values": [_value_json(each) for each in value]}}
    return {"stringValue": str(value)}
