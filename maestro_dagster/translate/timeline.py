"""A picture of a run: one bar a step, over time, as SVG that needs no script and no font of its own."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from xml.sax.saxutils import escape

from maestro_dagster.engine.interface import RunView, StepOutcome

_COLOURS = {
    "done": "#2f855a",
    "reused": "#68a691",
    "failed": "#c53030",
    "cancelled": "#b7791f",
    "skipped": "#a0aec0",
    "running": "#3182ce",
    "waiting": "#cbd5e0",
}
_LABEL = 220  # pixels of the column with the steps' names
_WIDTH = 900
_ROW = 22
_HEAD = 46
INLINE_LIMIT = 1000  # characters of Markdown that Dagster's pages show without a click
MOST_ROWS = 60  # of a longer run the slowest are drawn: the picture goes into an event of the event log


def draw_timeline(view: RunView) -> str:
    """The run as an SVG document. Steps stand in the order in which they started."""
    steps = _shown(view.steps)
    ends = [step.finished_at for step in steps if step.finished_at]
    starts = [step.started_at for step in steps if step.started_at is not None]
    first = min(starts, default=view.requested_at)
    span = max(max(ends, default=first) - first, 0.001)
    rows = [_row(number, step, first, span) for number, step in enumerate(steps)]
    height = _HEAD + _ROW * len(steps) + 12
    left_out = len(view.steps) - len(steps)
    more = f", the {len(steps)} slowest of {len(view.steps)} steps" if left_out else ""
    title = f"{view.flow} {view.flow_version} · {view.status} · {format_seconds(span)}{more}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="system-ui,sans-serif" font-size="12">'
        f"<title>{escape(title)}</title>"
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>'
        f'<text x="12" y="20" font-size="14" font-weight="600" fill="#1a202c">{escape(title)}</text>'
        f"{_axis(span, height)}{''.join(rows)}</svg>"
    )


def timeline_markdown(view: RunView) -> str:
    """The picture as an inline image: Dagster shows Markdown metadata with data images."""
    return show_image("timeline of the run", draw_timeline(view))


def bars_markdown(view: RunView) -> str | None:
    """The bars alone, or with names where there is room: small enough for Dagster to show it in place.

    None when there are too many steps for that.
    """
    for labelled in (True, False):
        text = show_image("bars", _draw_bars(view, labelled=labelled))
        if len(text) < INLINE_LIMIT:
            return text
    return None


def _draw_bars(view: RunView, *, labelled: bool) -> str:
    steps = _shown(view.steps)
    begun = [step.started_at for step in steps if step.started_at is not None]
    first = min(begun, default=0.0)
    span = max((step.finished_at for step in steps if step.started_at is not None), default=first) - first
    scale = 400 / max(span, 0.001)
    paths: dict[str, str] = {}
    names = ""
    for number, step in enumerate(steps):
        x = round(((step.started_at or first) - first) * scale)
        width = max(round(step.duration_ms / 1000 * scale), 2)
        colour = _COLOURS.get(step.status, "#718096")
        paths[colour] = f"{paths.get(colour, '')}M{x} {number * 12}h{width}v9h-{width}"
        if labelled:
            names += (
                f'<text x="{min(x + width + 3, 405)}" y="{number * 12 + 8}">{escape(step.step[:24])}</text>'
            )
    shapes = "".join(f'<path fill="{colour}" d="{path}"/>' for colour, path in paths.items())
    size = f'width="540" height="{12 * len(steps)}"'
    style = 'font-size="10" font-family="Arial" fill="#718096"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{shapes}{names}</svg>'


def show_image(title: str, svg: str) -> str:
    """Markdown with the picture in it: Dagster's pages show data images."""
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode('ascii')})"


def format_seconds(seconds: float) -> str:
    """`12 ms`, `1.24 s`, `3 min 5 s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.2f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def _shown(steps: Sequence[StepOutcome]) -> list[StepOutcome]:
    slowest = sorted(steps, key=lambda step: step.duration_ms, reverse=True)[:MOST_ROWS]
    return sorted(slowest, key=lambda step: (step.started_at or step.finished_at or 0.0, step.step))


def _axis(span: float, height: int) -> str:
    parts = []
    for quarter in range(5):
        x = _LABEL + (_WIDTH - _LABEL - 90) * quarter / 4
        parts.append(
            f'<line x1="{x:.1f}" y1="{_HEAD - 10}" x2="{x:.1f}" y2="{height - 8}" stroke="#e2e8f0"/>'
            f'<text x="{x:.1f}" y="{_HEAD - 14}" fill="#718096" text-anchor="middle" font-size="10">'
            f"{format_seconds(span * quarter / 4)}</text>"
        )
    return "".join(parts)


def _row(number: int, step: StepOutcome, first: float, span: float) -> str:
    scale = (_WIDTH - _LABEL - 90) / span
    y = _HEAD + number * _ROW
    begun = step.started_at if step.started_at is not None else (step.finished_at or first)
    x = _LABEL + max(begun - first, 0.0) * scale
    width = max(step.duration_ms / 1000 * scale, 2.0)
    name = step.step if len(step.step) <= 30 else step.step[:29] + "…"  # noqa: PLR2004 - what fits
    remark = step.status if step.status in {"skipped", "failed", "cancelled", "reused"} else ""
    note = f"{format_seconds(step.duration_ms / 1000)} {remark}".strip()
    return (
        f'<text x="{_LABEL - 10}" y="{y + 15}" text-anchor="end" fill="#2d3748">{escape(name)}</text>'
        f'<rect x="{x:.1f}" y="{y + 4}" width="{width:.1f}" height="14" rx="2" '
        f'fill="{_COLOURS.get(step.status, "#718096")}"><title>{escape(step.uses)}</title></rect>'
        f'<text x="{x + width + 5:.1f}" y="{y + 15}" fill="#718096" font-size="10">{escape(note)}</text>'
    )
