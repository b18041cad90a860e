"""Sends the spans of a project's runs to a collector, by OTLP over HTTP, out of the files that hold them.

What is in the files is not lost while nobody listens: it is sent when somebody does, at least once. How
far each file was sent stands in `.sent` beside them, whose lock lets one process send at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.trace import TraceSpan, parse_request

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext
    from requests import Response

STATE = ".sent"
_BATCH = 512  # spans in one request
_MOST_BYTES = 4 * 1024 * 1024  # read of one file at a time
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_TIMEOUT = 10.0


class Wire(Protocol):
    """Sends spans; False when nobody took them, and they have to be sent again.

    `problem` says then what an operator has to change; empty where waiting may help.
    """

    problem: str

    def send(self, spans: Sequence[TraceSpan]) -> bool: ...

    def close(self) -> None: ...


class OtlpWire:
    """The exporter of OpenTelemetry's Python distribution, over spans that were written long ago.

    `endpoint` without a path means `/v1/traces`. `timeout` is in seconds, over all tries of one request.
    """

    def __init__(
        self, endpoint: str, headers: Mapping[str, str] | None = None, timeout: float = _TIMEOUT
    ) -> None:
        import logging

        import requests
        from opentelemetry.exporter.otlp.proto.http import Compression
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        # Its log would go to the loop's own output, with the body of whatever a server answered.
        logging.getLogger("opentelemetry").addHandler(logging.NullHandler())
        self.problem = ""
        session = requests.Session()
        session.hooks["response"].append(self._refuse_redirection)
        self._exporter = OTLPSpanExporter(
            endpoint=endpoint_url(endpoint),
            headers=dict(headers or {}),
            timeout=timeout,
            compression=Compression.Gzip,
            session=session,
        )

    def send(self, spans: Sequence[TraceSpan]) -> bool:
        from opentelemetry.sdk.trace.export import SpanExportResult

        self.problem = ""
        found: bool = self._exporter.export([_readable(span) for span in spans]) is SpanExportResult.SUCCESS
        return found

    def close(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _refuse_redirection(self, response: Response, *_: object, **__: object) -> None:
        """The exporter follows none, and takes each for a success: nobody has the spans."""
        if HTTPStatus.MULTIPLE_CHOICES <= response.status_code < HTTPStatus.BAD_REQUEST:
            self.problem = (
                f"it redirects (status {response.status_code}), which is no delivery; "
                "set otlp_endpoint to the address that it redirects to"
            )
            response.close()
            raise ValueError(self.problem)  # of no kind that it tries again at once


class TraceExporter:
    """Follows the files of a folder. Use it from one thread."""

    def __init__(self, folder: Path, wire: Wire) -> None:
        self._folder = folder
        self._wire = wire
        self._sent: dict[str, int] = {}
        self._state = -1

    def open(self) -> bool:
        """False when another process sends already."""
        if self._state >= 0:
            return True
        self._folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._folder / STATE, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return False
        self._state = handle
        self._read_state()
        return True

    @property
    def problem(self) -> str:
        """What an operator has to change before anything can be sent; empty when nothing is known."""
        return self._wire.problem

    def send_new(self, *, stopping: Callable[[], bool] = lambda: False) -> tuple[int, bool]:
        """(how many spans were taken, whether all that there were)."""
        count = 0
        for path, size in self._files():
            while (done := self._sent.get(path.name, 0)) < size:
                if stopping():
                    return count, False
                spans, end = _read_spans(path, done)
                if end == done:
                    break  # the line is still being written
                for start in range(0, len(spans), _BATCH):
                    if not self._wire.send(spans[start : start + _BATCH]):
                        return count, False
                count += len(spans)
                self._note(path.name, end)
        return count, True

    def close(self) -> None:
        if self._state >= 0:
            os.close(self._state)
            self._state = -1
        self._wire.close()

    def _files(self) -> Iterator[tuple[Path, int]]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(".jsonl"):
                    with contextlib.suppress(FileNotFoundError):
                        size = entry.stat().st_size
                        if size > self._sent.get(entry.name, 0):
                            yield Path(entry.path), size

    def _read_state(self) -> None:
        """The last word on each file counts; what is told of files that are gone is dropped."""
        data = os.pread(self._state, os.fstat(self._state).st_size, 0).decode(errors="replace")
        found: dict[str, int] = {}
        for line in data.splitlines():
            file, _, offset = line.rpartition(" ")
            if offset.isdecimal():
                found[file] = int(offset)
        there = {path.name for path in self._folder.glob("*.jsonl")} if found else set()
        self._sent = {file: offset for file, offset in found.items() if file in there}
        if len(data.splitlines()) > 2 * len(self._sent) + 100:
            text = "".join(f"{file} {offset}\n" for file, offset in self._sent.items()).encode()
            os.ftruncate(self._state, 0)
            os.write(self._state, text)

    def _note(self, file: str, offset: int) -> None:
        self._sent[file] = offset
        with contextlib.suppress(OSError):  # then it is sent twice, which receivers can tell by the ids
            os.write(self._state, f"{file} {offset}\n".encode())


class ExportThread:
    """Sends what is new every second; waits longer while nobody takes it. `say` is told when that changes."""

    def __init__(self, exporter: TraceExporter, say: Callable[[str], None], where: str) -> None:
        self._exporter = exporter
        self._say = say
        self._where = where
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="maestro-traces", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """What is left is sent with the next start."""
        self._stop.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        pause, told = _FIRST_PAUSE, ""
        while True:
            if self._exporter.open():
                _, whole = self._exporter.send_new(stopping=self._stop.is_set)
                if whole and told:
                    self._say(f"traces are sent to {self._where} again")
                    told = ""
                if not whole and not self._stop.is_set():
                    told = self._tell(told)
                pause = _FIRST_PAUSE if whole else min(_LONGEST_PAUSE, pause * 2)
            if self._stop.wait(pause):
                self._exporter.close()
                return

    def _tell(self, told: str) -> str:
        """That nothing can be sent: once, and again when the reason is another."""
        why = f": {self._exporter.problem}" if self._exporter.problem else ""
        text = f"traces cannot be sent to {self._where}{why}; they are kept and sent later"
        if text != told:
            self._say(text)
        return text


def endpoint_url(endpoint: str) -> str:
    """As it stands, or with the path that receivers listen on when it has none."""
    return endpoint if urlsplit(endpoint).path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces"


def parse_headers(text: str) -> dict[str, str]:
    """`name=value,name=value`; what is no pair is left out."""
    pairs = (part.partition("=") for part in text.split(","))
    return {key.strip().lower(): value.strip() for key, mark, value in pairs if mark and key.strip()}


def _read_spans(path: Path, offset: int) -> tuple[list[TraceSpan], int]:
    """The spans of the whole lines from there on, and where to go on."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(_MOST_BYTES)
    whole = data[: data.rfind(b"\n") + 1]
    if not whole and len(data) == _MOST_BYTES:
        whole = data  # no line of ours is so long
    spans: list[TraceSpan] = []
    for line in whole.splitlines():
        with contextlib.suppress(ValueError):
            spans.extend(parse_request(json.loads(line)))
    return spans, offset + len(whole)


def _readable(span: TraceSpan) -> ReadableSpan:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Link, SpanKind, Status, StatusCode

    return ReadableSpan(
        name=span.name,
        context=_context(span.trace_id, span.span_id),
        parent=_context(span.trace_id, span.parent_id) if span.parent_id else None,
        resource=Resource(dict(span.resource)),
        attributes=dict(span.attributes),
        links=[Link(_context(link["traceId"], link["spanId"])) for link in span.body.get("links", ())],
        kind=SpanKind(span.kind - 1),
        status=Status(StatusCode.ERROR, span.message) if span.failed else Status(StatusCode.OK),
        start_time=span.start,
        end_time=span.end,
        instrumentation_scope=InstrumentationScope(name.SCOPE),
    )


def _context(trace_id: str, span_id: str) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )
