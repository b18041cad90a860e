"""A small picture of daily costs, which Dagster shows in its page: larger ones wait behind a click."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final
from urllib.parse import quote

from maestro_dagster.manifest.money import format_nano

MOST_DAYS: Final = 60  # of a longer history the last are drawn
INLINE_LIMIT: Final = 1000  # characters of Markdown that Dagster's pages show without a click
_HEIGHT: Final = 60
_STEP: Final = 8
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
    paths: dict[str, list[str]] = {"#4c6fd6": [], "#b3c1ee": [], "#d64545": []}
    pens = dict.fromkeys(paths, (0, 0))  # where each stands: along, and how high
    for at, (day, nano) in enumerate(bars):
        colour = "#b3c1ee" if day in pale else "#d64545" if day in strange else "#4c6fd6"
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
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{len(bars) * _STEP}' height='{_HEIGHT}' "
        f"stroke-width='6'>{body}</svg>"
    )
    dearest = max(bars, key=lambda bar: bar[1], default=("", 0))
    said = f"\n\n{bars[0][0]} to {bars[-1][0]}, at most {format_nano(dearest[1])} USD a day" if bars else ""
    return f"![cost a day](data:image/svg+xml,{quote(svg, safe=_PLAIN)}){said}"
