"""A run's timeline as inline SVG: one bar a step, no script, no style of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

_WIDTH: Final = 800  # user units; the page scales the picture
_LABEL: Final = 180
_ROW: Final = 18
_BAR: Final = 12
_BARS_LIMIT: Final = 200  # of a larger run the longest steps are drawn; the table has all
_LABEL_LIMIT: Final = 28


def draw_timeline(claims: Sequence[Mapping[str, Any]], text: Callable[[Any], str]) -> str:
    """Empty when nothing started. `text` makes a value safe to stand in the page."""
    started = [claim for claim in claims if claim["started_at"] is not None]
    if not started:
        return ""
    left_out = len(started) - _BARS_LIMIT
    if left_out > 0:
        longest = sorted(started, key=lambda claim: (-claim["duration_ms"], claim["step"]))[:_BARS_LIMIT]
        kept = {claim["step"] for claim in longest}
        started = [claim for claim in started if claim["step"] in kept]
    spans = [(_seconds(claim["started_at"]), _seconds(claim["finished_at"])) for claim in started]
    begin = min(start for start, _ in spans)
    scale = (_WIDTH - _LABEL - 70) / max(max(end for _, end in spans) - begin, 0.001)
    bars = "".join(
        _draw_bar(number, claim, (start - begin) * scale, max((end - start) * scale, 1.0), text)
        for number, (claim, (start, end)) in enumerate(zip(started, spans, strict=True))
    )
    note = f"<p>{left_out} shorter steps are not drawn.</p>" if left_out > 0 else ""
    height = len(started) * _ROW + 4
    box = f'viewBox="0 0 {_WIDTH} {height}" role="img"'
    return f"<svg {box}><title>Timeline of the run</title>{bars}</svg>{note}"


def _draw_bar(
    number: int, claim: Mapping[str, Any], left: float, width: float, text: Callable[[Any], str]
) -> str:
    top = number * _ROW + 2
    step = claim["step"]
    label = step if len(step) <= _LABEL_LIMIT else step[: _LABEL_LIMIT - 1] + "\N{HORIZONTAL ELLIPSIS}"
    status = text(claim["status"])
    return (
        f'<text x="0" y="{top + 10}">{text(label)}</text>'
        f'<rect class="{status}" x="{_LABEL + left:.1f}" y="{top}" width="{width:.1f}" height="{_BAR}">'
        f"<title>{text(step)}: {status}</title></rect>"
        f'<text x="{_LABEL + left + width + 4:.1f}" y="{top + 10}">{claim["duration_ms"] / 1000:.2f} s</text>'
    )


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
