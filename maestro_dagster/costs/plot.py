"""Plots of costs as SVG text: self-contained, without script, for light and dark pages.

Pure functions. Money is whole nano-USD and printed exactly; days are YYYY-MM-DD of UTC. Every name is
escaped, so it may come from anywhere. `embed_svg` makes Markdown of a picture, for Dagster's metadata.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from maestro_dagster.costs.plot_sheet import (
    HEIGHT,
    LEFT,
    LEGEND_ROW,
    RIGHT,
    SERIES,
    TOP,
    WIDTH,
    Field,
    count_legend_rows,
    draw_day_axis,
    draw_document,
    draw_legend,
    draw_money_axis,
    draw_text,
    fill,
    open_field,
    ordinal,
    safe_text,
    say_usd,
    stroke,
)

if TYPE_CHECKING:
    from maestro_dagster.costs.burn import BurnDay, BurnDown
    from maestro_dagster.costs.forecast import ForecastDay

MOST_DAYS: Final = 400  # of a longer history the last are drawn: the picture goes into an event log
MOST_SERIES: Final = 7  # and the rest together
MOST_BARS: Final = 25
REST: Final = "all others"
_MARKED_DAYS: Final = 120  # with more, single days are drawn without a point of their own
_BOTTOM: Final = TOP + HEIGHT + 26
_BAR_ROW: Final = 24
_BAR_LEFT: Final = 260


def draw_daily(
    days: Sequence[tuple[str, int]],
    *,
    title: str,
    trend: Sequence[tuple[str, int]] = (),
    forecast: Sequence[ForecastDay] = (),
    anomalies: Iterable[str] = (),
    unknown: int = 0,
) -> str:
    """A line of daily costs with its trend, the forecast with its band, and rings around anomalous days.

    Args:
        days: (day, nano-USD), ascending. A day that is absent is a gap in the line.
        title: a sentence of the caller's, shown on top.
        trend: (day, nano-USD) of what was expected.
        forecast: days to come.
        anomalies: days out of `days`; others are ignored.
        unknown: events without a price in the period: named under the plot.

    """
    if not days and not forecast:
        return _draw_nothing(title, unknown)
    shown, trend = days[-MOST_DAYS:], trend[-MOST_DAYS:]
    strange = set(anomalies)
    field = open_field(
        [day for day, _ in (*shown, *trend)] + [row.day for row in forecast],
        [nano for _, nano in (*shown, *trend)] + [row.high_nano for row in forecast],
    )
    rings = [(day, nano) for day, nano in shown if day in strange]
    body = [
        draw_money_axis(field),
        draw_day_axis(field),
        _draw_band(field, [(row.day, row.low_nano, row.high_nano) for row in forecast]),
        _draw_line(field, trend, "trend", "2 4"),
        _draw_line(field, shown, "line"),
        _draw_line(field, [(row.day, row.nano) for row in forecast], "line", "6 4"),
        _draw_points(field, shown) if len(shown) <= _MARKED_DAYS else "",
        "".join(_draw_ring(field, day, nano) for day, nano in rings),
    ]
    legend = [(_line_mark("line"), "cost of a day")]
    legend += [(_line_mark("trend", "2 4"), "expected")] if trend else []
    legend += [(_line_mark("line", "6 4"), "forecast")] if forecast else []
    legend += [(f'<rect width="14" height="10" {fill("band")}/>', "its interval")] if forecast else []
    legend += [(_RING_MARK, "anomaly")] if rings else []
    remarks = _remarks(len(days), len(shown), unknown)
    facts = [_say_days(shown)] if shown else []
    facts += [f"Forecast to {forecast[-1].day}."] if forecast else []
    facts += [f"Anomalies: {', '.join(f'{day} {say_usd(nano)}' for day, nano in rings)}."] if rings else []
    return _finish(title, " ".join([*facts, *remarks]), body, legend, remarks)


def draw_stack(
    days: Sequence[str],
    series: Mapping[str, Sequence[int]],
    *,
    title: str,
    unknown: int = 0,
) -> str:
    """Bars of daily costs, stacked by model, flow or tenant: the dearest below, what is over 7 together.

    Args:
        days: ascending.
        series: name -> nano-USD of each of `days`, none below 0.
        title: a sentence of the caller's, shown on top.
        unknown: events without a price in the period: named under the plot.

    """
    if not days or not series:
        return _draw_nothing(title, unknown)
    start = max(len(days) - MOST_DAYS, 0)
    layers = _rank_series({name: amounts[start:] for name, amounts in series.items()})
    shown = days[start:]
    field = open_field(shown, [sum(layer[at] for _, layer in layers) for at in range(len(shown))])
    floor = [0] * len(shown)
    body = [draw_money_axis(field), draw_day_axis(field)]
    wide = max(field.width * 0.8, 0.5)
    for colour, (name, layer) in zip(SERIES, layers, strict=False):
        bars = []
        for at, (day, nano) in enumerate(zip(shown, layer, strict=True)):
            if nano > 0:
                high, low = field.y(floor[at] + nano), field.y(floor[at])
                x = field.x(ordinal(day)) - wide / 2
                bars.append(f"M{x:.1f} {low:.1f}h{wide:.1f}V{high:.1f}h-{wide:.1f}z")
                floor[at] += nano
        said = f"{safe_text(name, 60)}: {say_usd(sum(layer))}"
        body.append(f'<path fill="{colour}" d="{"".join(bars)}"><title>{said}</title></path>')
    legend = [
        (f'<rect width="14" height="10" fill="{colour}"/>', name)
        for colour, (name, _) in zip(SERIES, layers, strict=False)
    ]
    remarks = _remarks(len(days), len(shown), unknown)
    sums = "; ".join(f"{name}: {say_usd(sum(layer))}" for name, layer in layers)
    said = f"From {shown[0]} to {shown[-1]} (UTC): {say_usd(sum(floor))}. {sums}."
    return _finish(title, " ".join([said, *remarks]), body, legend, remarks)


def draw_burn_down(burn: BurnDown, *, title: str, unknown: int = 0) -> str:
    """A period's costs added up: spent so far, the forecast against the limit, the day it runs out."""
    rows: tuple[BurnDay, ...] = (*burn.passed, *burn.to_come)
    field = open_field((burn.first, burn.last), [burn.limit_nano or 0, *(row.high_nano for row in rows)])
    before = [row for row in burn.passed if row.day < burn.to_come[0].day] if burn.to_come else []
    to_come = [*before[-1:], *burn.to_come]
    body = [
        draw_money_axis(field),
        draw_day_axis(field),
        _draw_band(field, [(row.day, row.low_nano, row.high_nano) for row in to_come]),
        _draw_limit(field, burn.limit_nano) if burn.limit_nano is not None else "",
        _draw_line(field, [(row.day, row.sum_nano) for row in burn.passed], "line"),
        _draw_line(field, [(row.day, row.sum_nano) for row in to_come], "line", "6 4"),
        _draw_run_out(field, burn.runs_out) if burn.runs_out is not None else "",
    ]
    legend = [(_line_mark("line"), "spent so far")]
    legend += [(_line_mark("line", "6 4"), "forecast")] if burn.to_come else []
    legend += [(f'<rect width="14" height="10" {fill("band")}/>', "its interval")] if burn.to_come else []
    remarks = [*_say_burn(burn), *_remarks(0, 0, unknown)]
    return _finish(title, " ".join(remarks), body, legend, remarks)


def draw_bars(rows: Sequence[tuple[str, int | None]], *, title: str, unknown: int = 0) -> str:
    """Horizontal bars, one a row, in the order given: top causes, dearest artifacts.

    `rows` are (name, nano-USD). None is an unknown cost: said so, without a bar. Below 0 is a decrease,
    drawn in another colour. Of more than 25 rows the first are drawn, and the plot says how many are not.
    """
    shown = rows[:MOST_BARS]
    if not shown:
        return _draw_nothing(title, unknown)
    largest = max((abs(nano) for _, nano in shown if nano is not None), default=0) or 1
    room = WIDTH - _BAR_LEFT - RIGHT - 170
    body = []
    for number, (name, nano) in enumerate(shown):
        y = 40 + number * _BAR_ROW
        long = room * abs(nano or 0) / largest
        ink = "good" if (nano or 0) < 0 else "line"
        body.append(
            draw_text(_BAR_LEFT - 8, y + 14, name, anchor="end", most=36)
            + f'<rect x="{_BAR_LEFT}" y="{y + 3}" width="{long:.1f}" height="15" rx="2" {fill(ink)}>'
            f"<title>{safe_text(name, 200)}: {say_usd(nano)}</title></rect>"
            + draw_text(_BAR_LEFT + long + 6, y + 14, say_usd(nano), ink="dim")
        )
    remarks = [f"{len(rows) - len(shown)} more are not drawn."] if len(rows) > len(shown) else []
    remarks += _remarks(0, 0, unknown)
    height = 40 + len(shown) * _BAR_ROW + 8
    body += [
        draw_text(_BAR_LEFT, height + 8 + LEGEND_ROW * at, remark, ink="dim", most=120)
        for at, remark in enumerate(remarks)
    ]
    said = "; ".join(f"{name}: {say_usd(nano)}" for name, nano in shown)
    height += LEGEND_ROW * len(remarks) + 4
    return draw_document(title, " ".join([f"{said}.", *remarks]), height, body)


def embed_svg(alt: str, svg: str) -> str:
    """Markdown with the picture inside, which Dagster shows. `alt` cannot end the link it stands in."""
    plain = "".join(letter if letter.isalnum() or letter in " .,:%-" else " " for letter in alt)[:120]
    return f"![{plain.strip()}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode('ascii')})"


def _finish(
    title: str, description: str, body: list[str], legend: list[tuple[str, str]], remarks: Sequence[str]
) -> str:
    y = _BOTTOM + 10
    body = [*body, draw_legend(legend, y)]
    y += LEGEND_ROW * count_legend_rows(name for _, name in legend)
    for remark in remarks:
        body.append(draw_text(LEFT, y, remark, ink="dim", most=130))
        y += LEGEND_ROW
    return draw_document(title, description, y, body)


def _draw_nothing(title: str, unknown: int) -> str:
    remarks = ["No usage was recorded.", *_remarks(0, 0, unknown)]
    body = [draw_text(12, 48 + LEGEND_ROW * at, text, ink="dim", most=120) for at, text in enumerate(remarks)]
    return draw_document(title, " ".join(remarks), 60 + LEGEND_ROW * len(remarks), body)


def _remarks(all_days: int, shown: int, unknown: int) -> list[str]:
    remarks = [f"The last {shown} of {all_days} days are drawn."] if all_days > shown else []
    if unknown:
        remarks.append(f"Without {unknown:,} events whose price is unknown.")
    return remarks


def _say_days(days: Sequence[tuple[str, int]]) -> str:
    total = sum(nano for _, nano in days)
    dearest = max(days, key=lambda row: row[1])
    return (
        f"From {days[0][0]} to {days[-1][0]} (UTC): {say_usd(total)}; "
        f"the dearest day {dearest[0]}: {say_usd(dearest[1])}."
    )


def _rank_series(series: Mapping[str, Sequence[int]]) -> list[tuple[str, Sequence[int]]]:
    ranked = sorted(series.items(), key=lambda item: (-sum(item[1]), item[0]))
    if len(ranked) <= MOST_SERIES:
        return ranked
    rest = [sum(amounts) for amounts in zip(*(layer for _, layer in ranked[MOST_SERIES:]), strict=True)]
    return [*ranked[:MOST_SERIES], (f"{REST} ({len(ranked) - MOST_SERIES})", rest)]


def _draw_line(field: Field, days: Sequence[tuple[str, int]], ink: str, dashes: str = "") -> str:
    if not days:
        return ""
    path = []
    before = None
    for day, nano in days:
        now = ordinal(day)
        path.append(f"{'L' if before == now - 1 else 'M'}{field.x(now):.1f} {field.y(nano):.1f}")
        before = now
    style = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<path d="{"".join(path)}" fill="none" stroke-width="1.8"{style} {stroke(ink)}/>'


def _draw_band(field: Field, rows: Sequence[tuple[str, int, int]]) -> str:
    if not rows:
        return ""
    above = [f"{field.x(ordinal(day)):.1f} {field.y(high):.1f}" for day, _, high in rows]
    below = [f"{field.x(ordinal(day)):.1f} {field.y(low):.1f}" for day, low, _ in reversed(rows)]
    return f'<path d="M{"L".join(above + below)}z" fill-opacity=".6" {fill("band")}/>'


def _draw_points(field: Field, days: Sequence[tuple[str, int]]) -> str:
    return "".join(
        f'<circle cx="{field.x(ordinal(day)):.1f}" cy="{field.y(nano):.1f}" r="2.2" {fill("line")}>'
        f"<title>{day}: {say_usd(nano)}</title></circle>"
        for day, nano in days
    )


def _draw_ring(field: Field, day: str, nano: int) -> str:
    x, y = field.x(ordinal(day)), field.y(nano)
    anchor = "end" if x > WIDTH - RIGHT - 170 else "start"  # room for an exact amount
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke-width="2" {stroke("alarm")}>'
        f"<title>{day}: {say_usd(nano)}, an anomaly</title></circle>"
        + draw_text(x + (9 if anchor == "start" else -9), y - 5, say_usd(nano), ink="alarm", anchor=anchor)
    )


def _draw_limit(field: Field, limit_nano: int) -> str:
    y = field.y(limit_nano)
    line = f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke-width="1.5" {stroke("alarm")}/>'
    return line + draw_text(LEFT + 4, y - 4, f"limit {say_usd(limit_nano)}", ink="alarm")


def _say_burn(burn: BurnDown) -> list[str]:
    limit = "" if burn.limit_nano is None else f" of {say_usd(burn.limit_nano)}"
    facts = [f"{burn.first} to {burn.last} (UTC): {say_usd(burn.spent_nano)}{limit}."]
    if burn.end is not None and burn.to_come:
        end = burn.end
        facts.append(
            f"Forecast of the end: {say_usd(end.sum_nano)}, between {say_usd(end.low_nano)} "
            f"and {say_usd(end.high_nano)}."
        )
    if burn.runs_out is not None:
        facts.append(f"{'Ran' if burn.runs_out <= burn.today else 'Runs'} out on {burn.runs_out}.")
    return [*facts, f"{burn.reason}."] if burn.reason else facts


def _draw_run_out(field: Field, day: str) -> str:
    x = field.x(ordinal(day))
    anchor = "end" if x > WIDTH / 2 else "start"
    return (
        f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{TOP + HEIGHT}" stroke-dasharray="3 3" '
        f"{stroke('alarm')}/>"
        + draw_text(
            x + (5 if anchor == "start" else -5), TOP - 4, f"runs out {day}", ink="alarm", anchor=anchor
        )
    )


def _line_mark(ink: str, dashes: str = "") -> str:
    style = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<path d="M0 5h14" stroke-width="1.8"{style} {stroke(ink)}/>'


_RING_MARK: Final = f'<circle cx="7" cy="5" r="4" fill="none" stroke-width="2" {stroke("alarm")}/>'
