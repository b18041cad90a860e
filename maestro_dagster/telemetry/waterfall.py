"""A trace as a waterfall: lines for a terminal, or a picture (SVG without script or outside font)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.trace import TraceSpan

_COLOURS: Final = {
    name.PUSH_SPAN: "#805ad5",
    name.RUN_SPAN: "#2b6cb0",
    name.ADMISSION_SPAN: "#319795",
    name.SEGMENT_SPAN: "#4299e1",
    name.STEP_SPAN: "#2f855a",
    name.CALL_SPAN: "#d69e2e",
}
_FAILED = "#c53030"
_WIDTH, _LABEL, _ROW, _HEAD = 1000, 320, 20, 44
_NOTE = 110  # pixels for the time behind a bar
_LONGEST_NAME = 44  # characters in the picture
MOST_ROWS: Final = 400  # of the picture: of a longer trace the longest are drawn
_LEAST_BAR, _INDENT = 2, 2


@dataclass(frozen=True, slots=True)
class Row:
    """One span with how deep it lies, and its offset from the first (milliseconds)."""

    span: TraceSpan
    depth: int
    offset_ms: float
    duration_ms: float


def lay_out(spans: Sequence[TraceSpan], now: int | None = None) -> list[Row]:
    """The spans as a tree, parents first, children by their beginning. `now` (ns) ends what still goes on.

    A span whose parent is not there stands at the top.
    """
    if not spans:
        return []
    last = now or max(max(span.end, span.start) for span in spans)
    first = min(span.start for span in spans)
    known = {span.span_id for span in spans}
    below: dict[str, list[TraceSpan]] = {}
    for span in sorted(spans, key=lambda span: (span.start, span.end, span.span_id)):
        below.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
    rows: list[Row] = []
    todo = [(span, 0) for span in reversed(below.get("", ()))]
    seen: set[str] = set()
    while todo:
        span, depth = todo.pop()
        if span.span_id in seen:
            continue
        seen.add(span.span_id)
        end = span.end or last
        rows.append(Row(span, depth, (span.start - first) / 1e6, max(0, end - span.start) / 1e6))
        todo += [(child, depth + 1) for child in reversed(below.get(span.span_id, ()))]
    return rows


def draw_lines(rows: Sequence[Row], width: int = 100) -> Iterator[str]:
    """One line a span: name, bar, time. `width` is that of the terminal in columns."""
    if not rows:
        return
    total = _total(rows)
    labels = [" " * (_INDENT * row.depth) + title(row.span) for row in rows]
    label = min(max(map(len, labels)), max(20, width * 2 // 5))
    room = max(10, width - label - 14)
    for row, text in zip(rows, labels, strict=True):
        begin = min(room - 1, int(row.offset_ms / total * room))
        length = max(1, min(room - begin, round(row.duration_ms / total * room)))
        mark = "x" if row.span.failed else "." if not row.span.end else "="
        bar = " " * begin + mark * length
        cut = text if len(text) <= label else text[: label - 1] + "\N{HORIZONTAL ELLIPSIS}"
        more = f" {row.span.attributes.get(name.ERROR_TYPE, '')}".rstrip() if row.span.failed else ""
        yield f"{cut:<{label}} {bar:<{room}} {format_ms(row.duration_ms):>9}{more}"


def draw_picture(rows: Sequence[Row], heading: str, most: int = MOST_ROWS) -> str:
    """An SVG document of the rows."""
    shown = _longest(rows, most)
    total = _total(rows)
    left_out = len(rows) - len(shown)
    text = heading + (f", {left_out} shorter spans are not drawn" if left_out else "")
    height = _HEAD + _ROW * len(shown) + 10
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="system-ui,sans-serif" font-size="12" role="img">'
        f"<title>{_safe(text)}</title>"
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>'
        f'<text x="12" y="20" font-size="14" font-weight="600" fill="#1a202c">{_safe(text)}</text>'
    )
    scale = (_WIDTH - _LABEL - _NOTE) / total
    bars = (_bar(number, row, scale) for number, row in enumerate(shown))
    return "".join([head, *_axis(total, height), *bars, "</svg>"])


def title(span: TraceSpan) -> str:
    """The span's name with what tells it from others of that name."""
    attributes = span.attributes
    attempt = attributes.get(name.STEP_ATTEMPT, 1)
    if span.what == name.ADMISSION_SPAN:
        return f"{span.name} ({attributes.get(name.POLICY_DECISION, 'not decided')})"
    if span.what == name.STEP_SPAN and attempt == 0:
        return f"{span.name} ({attributes.get(name.STEP_STATUS, 'not tried')})"
    if span.what == name.STEP_SPAN and isinstance(attempt, int) and attempt > 1:
        return f"{span.name} (attempt {attempt})"
    if (host := attributes.get(name.SERVER_ADDRESS)) is not None:
        return f"{span.name} {host}"
    return span.name


def format_ms(milliseconds: float) -> str:
    """`0.4 ms`, `12 ms`, `1.24 s`, `3 min 5 s`."""
    if milliseconds < 10:  # noqa: PLR2004 - where a digit more is worth its place
        return f"{milliseconds:.1f} ms"
    if milliseconds < 1000:  # noqa: PLR2004 - a second
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.2f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def count_spans(spans: Iterable[TraceSpan]) -> Mapping[str, int]:
    """How many of each kind."""
    counts: dict[str, int] = {}
    for span in spans:
        counts[span.what] = counts.get(span.what, 0) + 1
    return counts


def _longest(rows: Sequence[Row], most: int) -> list[Row]:
    if len(rows) <= most:
        return list(rows)
    kept = {id(row) for row in sorted(rows, key=lambda row: (row.depth > 1, -row.duration_ms))[:most]}
    return [row for row in rows if id(row) in kept]


def _total(rows: Sequence[Row]) -> float:
    return max((row.offset_ms + row.duration_ms for row in rows), default=0.0) or 0.001


def _axis(total: float, height: int) -> Iterator[str]:
    for quarter in range(5):
        x = _LABEL + (_WIDTH - _LABEL - _NOTE) * quarter / 4
        yield (
            f'<line x1="{x:.1f}" y1="{_HEAD - 8}" x2="{x:.1f}" y2="{height - 8}" stroke="#e2e8f0"/>'
            f'<text x="{x:.1f}" y="{_HEAD - 12}" fill="#718096" text-anchor="middle" font-size="10">'
            f"{format_ms(total * quarter / 4)}</text>"
        )


def _bar(number: int, row: Row, scale: float) -> str:
    y = _HEAD + number * _ROW
    x = _LABEL + row.offset_ms * scale
    width = max(row.duration_ms * scale, _LEAST_BAR)
    label = title(row.span)
    indent = 12 + 10 * min(row.depth, 8)
    most = _LONGEST_NAME - row.depth
    cut = label if len(label) <= most else label[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
    colour = _FAILED if row.span.failed else _COLOURS.get(row.span.what, "#718096")
    more = row.span.attributes.get(name.ERROR_TYPE, "") if row.span.failed else ""
    note = f"{format_ms(row.duration_ms)} {more}".rstrip()
    return (
        f'<text x="{indent}" y="{y + 14}" fill="#2d3748">{_safe(cut)}</text>'
        f'<rect x="{x:.1f}" y="{y + 4}" width="{width:.1f}" height="12" rx="2" fill="{colour}">'
        f"<title>{_safe(label)}</title></rect>"
        f'<text x="{x + width + 4:.1f}" y="{y + 14}" fill="#718096" font-size="10">{_safe(note)}</text>'
    )


def _safe(text: str) -> str:
    """Also without what XML 1.0 has no place for."""
    plain = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return escape(plain)
