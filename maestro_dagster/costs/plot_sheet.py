"""The paper that every plot of costs is drawn on: frame, colours, ticks, and names made safe.

Each element carries its colours for a light page as attributes; one style rule changes them where dark is
preferred. The sheet paints its own ground, so it is readable on any page, also where styles are forbidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final
from xml.sax.saxutils import escape

from maestro_dagster.manifest.money import format_nano

WIDTH: Final = 900  # user units; the picture scales
LEFT: Final = 150  # room for exact amounts
RIGHT: Final = 24
TOP: Final = 64
HEIGHT: Final = 260  # of the plotted area
_LETTERS: Final = 7  # units that a letter of the axis is wide, about
_TICKS: Final = 5

# name -> (light, dark); a pair of them has a contrast of at least 4.5 with its ground where it is text
_INK: Final = {
    "ground": ("#ffffff", "#16191f"),
    "text": ("#1a202c", "#e6e9ef"),
    "dim": ("#5b6778", "#a3adbd"),
    "grid": ("#d5dae1", "#3a414d"),
    "line": ("#0b5cad", "#6fb1f5"),
    "trend": ("#5b6778", "#a3adbd"),
    "band": ("#9cc3ea", "#2d5580"),
    "alarm": ("#b42318", "#ff8a80"),
    "good": ("#1a7f37", "#5dd37c"),
}
# Okabe and Ito, "Color Universal Design" (2008): told apart by colour-blind readers, on light and dark.
SERIES: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a500", "#8a8f98")


@dataclass(frozen=True, slots=True)
class Field:
    """The plotted area: days (ordinals) across, nano-USD upwards from 0."""

    first: int
    last: int
    top_nano: int

    def x(self, day: int) -> float:
        """The middle of a day."""
        return LEFT + (day - self.first + 0.5) * self.width

    @property
    def width(self) -> float:
        """Of one day."""
        return (WIDTH - LEFT - RIGHT) / (self.last - self.first + 1)

    def y(self, nano: int) -> float:
        return TOP + HEIGHT * (1 - nano / self.top_nano)


def open_field(days: Iterable[str], amounts: Iterable[int]) -> Field:
    """A field that holds all of these. The top is a tick, so that the line never leaves the frame."""
    ordinals = [ordinal(day) for day in days]
    ticks = list_ticks(max(amounts, default=0))
    return Field(min(ordinals), max(ordinals), ticks[-1])


def ordinal(day: str) -> int:
    return date.fromisoformat(day).toordinal()


def list_ticks(top: int) -> tuple[int, ...]:
    """0 and up to `_TICKS` round amounts (1, 2 or 5 times a power of ten nano-USD), the last >= `top`."""
    step = 1
    factors = (2, 5, 10)
    base = 1
    while step * _TICKS < top:
        for factor in factors:
            step = base * factor
            if step * _TICKS >= top:
                break
        else:
            base *= 10
    count = max(-(-top // step), 1)
    return tuple(step * number for number in range(count + 1))


def draw_document(title: str, description: str, height: int, body: Iterable[str]) -> str:
    """One SVG document: no script, no reference to anything outside it. The title also stands on top."""
    safe = safe_text(title, 110)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" font-family="system-ui,sans-serif" font-size="11">'
        f"<title>{safe}</title><desc>{safe_text(description, 1000)}</desc><style>{_STYLE}</style>"
        f'<rect width="{WIDTH}" height="{height}" {fill("ground")}/>'
        f"{draw_text(12, 22, title, size=14, weight=600, most=110)}{''.join(body)}</svg>"
    )


def draw_text(
    x: float,
    y: float,
    text: str,
    *,
    ink: str = "text",
    anchor: str = "start",
    size: int = 11,
    weight: int = 400,
    most: int = 60,
) -> str:
    where = f'x="{x:.1f}" y="{y:.1f}"'
    style = "" if anchor == "start" else f' text-anchor="{anchor}"'
    style += "" if size == 11 else f' font-size="{size}"'  # noqa: PLR2004 - the document's own
    style += "" if weight == 400 else f' font-weight="{weight}"'  # noqa: PLR2004 - as above
    return f"<text {where}{style} {fill(ink)}>{safe_text(text, most)}</text>"


def draw_money_axis(field: Field) -> str:
    """Lines across and exact amounts in USD."""
    parts = [draw_text(LEFT - 8, TOP - 10, "USD", ink="dim", anchor="end")]
    for tick in list_ticks(field.top_nano):
        y = field.y(tick)
        parts.append(
            f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" {stroke("grid")}/>'
            + draw_text(LEFT - 8, y + 4, format_nano(tick), ink="dim", anchor="end")
        )
    return "".join(parts)


def draw_day_axis(field: Field) -> str:
    """Some of the days, the first always; all are days of UTC."""
    room = WIDTH - LEFT - RIGHT
    count = field.last - field.first + 1
    every = -(-count * 11 * _LETTERS // room)  # no label touches the next
    parts = []
    for day in range(field.first, field.last + 1, max(every, 1)):
        x = field.x(day)
        parts.append(
            f'<line x1="{x:.1f}" y1="{TOP + HEIGHT}" x2="{x:.1f}" y2="{TOP + HEIGHT + 4}" {stroke("grid")}/>'
            + draw_text(
                x, TOP + HEIGHT + 16, date.fromordinal(day).isoformat(), ink="dim", anchor="middle", size=10
            )
        )
    parts.append(draw_text(12, TOP + HEIGHT + 16, "day (UTC)", ink="dim", size=10))
    return "".join(parts)


def draw_legend(items: Sequence[tuple[str, str]], y: float, x: float = LEFT) -> str:
    """(what is drawn, as markup of 14 x 10 units at 0,0; its name) from left to right, wrapped."""
    parts = []
    start = x
    for mark, name in items:
        wide = 26 + _LETTERS * min(len(name), _LEGEND_LETTERS)
        if start > x and start + wide > WIDTH - RIGHT:
            start, y = x, y + LEGEND_ROW
        parts.append(f'<g transform="translate({start:.1f} {y - 9:.1f})">{mark}</g>')
        parts.append(draw_text(start + 18, y, name, ink="dim", most=_LEGEND_LETTERS))
        start += wide
    return "".join(parts)


def count_legend_rows(names: Iterable[str], x: float = LEFT) -> int:
    """Rows that `draw_legend` takes for these names."""
    rows, start = 1, x
    for name in names:
        wide = 26 + _LETTERS * min(len(name), _LEGEND_LETTERS)
        if start > x and start + wide > WIDTH - RIGHT:
            start, rows = x, rows + 1
        start += wide
    return rows


def fill(ink: str) -> str:
    return f'class="mf-{ink}" fill="{_INK[ink][0]}"'


def stroke(ink: str) -> str:
    return f'class="ms-{ink}" stroke="{_INK[ink][0]}"'


def safe_text(text: str, most: int) -> str:
    r"""Text for any place of an XML document: cut, nothing unprintable in it, markup escaped.

    Control and bidirectional characters make a picture read otherwise than it is written, and some of
    them are no XML 1.0 at all: they are shown as `\u{..}`.
    """
    cut = text if len(text) <= most else text[: most - 1] + "…"
    if not cut.isprintable():
        cut = "".join(letter if letter.isprintable() else f"\\u{{{ord(letter):x}}}" for letter in cut)
    return escape(cut, {'"': "&quot;", "'": "&#39;"})


def say_usd(nano: int | None) -> str:
    """`0.5 USD`, exact; a cost that is not known is said so."""
    return "unknown" if nano is None else f"{format_nano(nano)} USD"


LEGEND_ROW: Final = 16
_LEGEND_LETTERS: Final = 34
_STYLE: Final = (
    "@media(prefers-color-scheme:dark){"
    + "".join(f".mf-{name}{{fill:{dark}}}.ms-{name}{{stroke:{dark}}}" for name, (_, dark) in _INK.items())
    + "}"
)
