"""A small picture of daily costs, which Dagster shows in its page: larger ones wait behind a click."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from maestro_dagster.manifest.money import format_nano

if TYPE_CHECKING:
    from maestro_dagster.costs.burn import BurnDown

MOST_DAYS: Final = 60  # of a longer history the last are drawn
INLINE_LIMIT: Final = 1000  # characters of Markdown that Dagster's pages show without a click
_HEIGHT: Final = 60
_STEP: Final = 8
_BLUE, _PALE, _RED = "#4c6fd6", "#b3c1ee", "#d64545"
_PLAIN: Final = "',:;=/-_."  # may stand in an address of Markdown as they are


def embed_spark(
    days: Sequence[tuple[str, int]],
    *,
    to_come: Sequence[tuple[str, int]] = (),
    anomalies: Collection[str] = (),
) -> str:
    """Markdown with one bar a day, days to come pale, anomalous ones red.

    `days` and `to_come` are (day, nano-USD), ascending. The bars of a row are one path, so that the text
    stays under `INLINE_LIMIT`, whatever the amounts are.
    """
    ahead = list(to_come[:MOST_DAYS])
    bars = [*days[-(MOST_DAYS - len(ahead)) :], *ahead] if len(ahead) < MOST_DAYS else ahead
    largest = max((nano for _, nano in bars), default=0) or 1
    pale, strange = {day for day, _ in ahead}, set(anomalies)
    colours = [_PALE if day in pale else _RED if day in strange else _BLUE for day, _ in bars]
    picture = _draw_bars([nano for _, nano in bars], colours, largest)
    dearest = max(bars, key=lambda bar: bar[1], default=("", 0))
    said = f"\n\n{bars[0][0]} to {bars[-1][0]}, at most {format_nano(dearest[1])} USD a day" if bars else ""
    return f"![cost a day]({picture}){said}"


def embed_burn(burn: BurnDown) -> str:
    """Markdown with what the period costs up to each day as a bar, days to come pale, its limit a red line.

    The period is at most `MOST_DAYS` long.
    """
    ahead = {row.day for row in burn.to_come}
    rows = [*(row for row in burn.passed if row.day not in ahead), *burn.to_come]
    sums = [row.sum_nano for row in rows]
    largest = max(*sums, burn.limit_nano or 0, 1, 1)
    line = ""
    if burn.limit_nano is not None:
        y = _HEIGHT - burn.limit_nano * (_HEIGHT - 1) // largest
        line = f"<path stroke='{_RED}' stroke-width='2' d='M0,{y}h{len(rows) * _STEP}'/>"
    picture = _draw_bars(sums, [_PALE if row.day in ahead else _BLUE for row in rows], largest, line)
    said = f"{burn.first} to {burn.last}, {format_nano(burn.spent_nano)} USD so far"
    if burn.limit_nano is not None:
        said += f" of {format_nano(burn.limit_nano)}"
    return f"![month to date]({picture})\n\n{said}"


def _draw_bars(amounts: Sequence[int], colours: Sequence[str], largest: int, over: str = "") -> str:
    """The address of a picture with a bar for each amount, and `over` drawn on top."""
    paths: dict[str, list[str]] = {_BLUE: [], _PALE: [], _RED: []}
    pens = dict.fromkeys(paths, (0, 0))  # where each stands: along, and how high
    for at, (nano, colour) in enumerate(zip(amounts, colours, strict=True)):
        x = at * _STEP + 3
        high = max(nano, 0) * _HEIGHT // largest
        along, up = pens[colour]
        paths[colour].append(f"m{x - along},{up}v-{high}")
        pens[colour] = (x, high)
    body = "".join(
        f"<path stroke='{colour}' d='M0,{_HEIGHT}{''.join(lines)}'/>"
        for colour, lines in paths.items()
        if lines
    )
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{len(amounts) * _STEP}' height='{_HEIGHT}' "
        f"stroke-width='6'>{body}{over}</svg>"
    )
    return f"data:image/svg+xml,{quote(svg, safe=_PLAIN)}"
