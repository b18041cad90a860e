"""Plots: one well-formed document each, exact money, nothing that a name could smuggle in."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Callable
from datetime import date, timedelta
from xml.etree import ElementTree as ET

import pytest

from maestro_dagster.costs.burn import BurnDay, BurnDown
from maestro_dagster.costs.forecast import ForecastDay
from maestro_dagster.costs.plot import draw_bars, draw_burn_down, draw_daily, draw_stack, embed_svg
from maestro_dagster.costs.plot_sheet import list_ticks
from maestro_dagster.manifest.money import NANO, format_nano

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = (
    "</text><script>alert(1)</script>",
    '" onload="alert(1)',
    "']]><!ENTITY x SYSTEM 'file:///etc/passwd'>&x;",
    "a\x00b\x1b[31m\ud800",
    "\u202egnp.exe",
    "](https://example.invalid) ![x](javascript:alert(1))",
    "n" * 10_000,
)


def days(first: str, count: int) -> list[str]:
    begin = date.fromisoformat(first)
    return [(begin + timedelta(days=at)).isoformat() for at in range(count)]


def burn(runs_out: str | None = "2026-03-20") -> BurnDown:
    month = days("2026-03-01", 31)
    passed = tuple(BurnDay(day, *[NANO * (at + 1)] * 3) for at, day in enumerate(month[:10]))
    to_come = tuple(
        BurnDay(day, NANO * at, NANO * at - at, NANO * at + at) for at, day in enumerate(month[10:], 11)
    )
    return BurnDown("2026-03-01", "2026-03-31", "2026-03-10", 19_500_000_001, passed, to_come, runs_out)


def forecast(count: int = 7) -> list[ForecastDay]:
    return [
        ForecastDay(day, 5, 3, 9, 5 * at, 3 * at, 9 * at)
        for at, day in enumerate(days("2026-03-31", count), 1)
    ]


def history(count: int = 30) -> list[tuple[str, int]]:
    return [(day, 1 + at % 7) for at, day in enumerate(days("2026-03-01", count))]


DRAWINGS: dict[str, Callable[[str], str]] = {
    "daily": lambda name: draw_daily(
        history(), title=name, trend=history(), forecast=forecast(), anomalies=["2026-03-05"], unknown=3
    ),
    "stack": lambda name: draw_stack(
        days("2026-03-01", 3), {f"{name}{at}": [at, 0, 2] for at in range(12)}, title=name, unknown=3
    ),
    "burn": lambda name: draw_burn_down(burn(), title=name, unknown=3),
    "bars": lambda name: draw_bars(
        [(name, 3), (name, None), (name, -2), *[(name, 1)] * 30], title=name, unknown=3
    ),
    "nothing": lambda name: draw_daily([], title=name, unknown=3),
}  # fmt: skip


def read(svg: str) -> ET.Element:
    svg.encode()  # no lone surrogate
    return ET.fromstring(svg)  # noqa: S314 - our own text; it must parse


def words(svg: str) -> str:
    return " ".join(text.strip() for text in read(svg).itertext())


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("drawing", DRAWINGS)
def test_a_name_stays_a_name(drawing: str, name: str) -> None:
    svg = DRAWINGS[drawing](name)
    root = read(svg)
    assert {item.tag.removeprefix(SVG) for item in root.iter()} <= {
        "svg", "title", "desc", "style", "rect", "text", "line", "path", "circle", "g",
    }  # fmt: skip
    for item in root.iter():
        assert not [key for key in item.attrib if key.startswith("on") or "href" in key]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202a-\u202e]", svg)
    assert "url(" not in svg
    assert "@import" not in svg
    assert len(svg) < 60_000


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_a_reader_who_sees_nothing_is_told_what_stands_there(drawing: str) -> None:
    root = read(DRAWINGS[drawing]("Costs of March"))
    assert root.get("role") == "img"
    assert [item.tag for item in root][:2] == [f"{SVG}title", f"{SVG}desc"]
    assert root.findtext(f"{SVG}title") == "Costs of March"
    assert "3 events whose price is unknown" in (root.findtext(f"{SVG}desc") or "")
    assert "3 events whose price is unknown" in " ".join(item.text or "" for item in root.iter(f"{SVG}text"))


def test_every_colour_has_one_for_the_dark() -> None:
    svg = "".join(draw("x") for draw in DRAWINGS.values())
    used = set(re.findall(r'class="(m[fs]-\w+)"', svg))
    style = svg.partition("prefers-color-scheme:dark){")[2].partition("</style>")[0]
    assert used
    assert used <= set(re.findall(r"\.(m[fs]-\w+)\{", style))


def test_text_has_enough_contrast_in_light_and_dark() -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    from maestro_dagster.costs.plot_sheet import _INK

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for theme in (0, 1):
        ground = light(_INK["ground"][theme])
        for name in ("text", "dim", "alarm", "line"):
            ink = light(_INK[name][theme])
            assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5, (name, theme)


def test_money_is_exact_and_days_say_that_they_are_utc() -> None:
    exact = 123_456_789_012_345_678
    said = words(draw_daily([("2026-03-01", exact), ("2026-03-02", 1)], title="t", anomalies=["2026-03-01"]))
    assert f"{format_nano(exact)} USD" in said
    assert f"{format_nano(exact + 1)} USD" in said
    assert "(UTC)" in said
    assert "2026-03-02: 0.000000001 USD" in said


def test_a_gap_in_the_days_is_a_gap_in_the_line() -> None:
    rows = [("2026-03-01", 1), ("2026-03-02", 1), ("2026-03-05", 1)]
    (line,) = [
        item.get("d", "")
        for item in read(draw_daily(rows, title="t")).iter(f"{SVG}path")
        if len(item.get("d", "")) > 20
    ]
    assert [letter for letter in line if letter.isalpha()] == ["M", "L", "M"]


def test_a_long_history_says_what_it_leaves_out() -> None:
    said = words(draw_daily(history(1000), title="t"))
    assert "The last 400 of 1000 days are drawn." in said
    assert len(draw_daily(history(1000), title="t")) < 40_000


def test_many_series_are_summed_and_nothing_is_lost() -> None:
    series = {f"model-{at:02d}": [at, 2 * at] for at in range(20)}
    said = words(draw_stack(["2026-03-01", "2026-03-02"], series, title="t"))
    assert "all others (13)" in said
    assert f"{format_nano(sum(3 * at for at in range(20)))} USD" in said
    assert f"all others (13): {format_nano(sum(3 * at for at in range(13)))} USD" in said


def test_a_budget_says_the_day_it_runs_out() -> None:
    said = words(draw_burn_down(burn(), title="t"))
    assert "runs out 2026-03-20" in said
    assert "limit 19.500000001 USD" in said
    assert "Forecast of the end: 31 USD, between 30.999999969 USD and 31.000000031 USD." in said
    assert "runs out" not in words(draw_burn_down(burn(None), title="t")).lower()
    assert "Ran out on 2026-03-04" in words(draw_burn_down(burn("2026-03-04"), title="t"))


def test_an_unknown_cost_has_no_bar_and_a_decrease_another_colour() -> None:
    svg = draw_bars([("a", None), ("b", -5), ("c", 5)], title="t")
    bars = [item for item in read(svg).iter(f"{SVG}rect") if item.get("rx")]
    assert [item.get("width") for item in bars[:1]] == ["0.0"]
    assert bars[1].get("width") == bars[2].get("width")
    assert bars[1].get("class") != bars[2].get("class")
    assert "unknown" in words(svg)
    assert "-0.000000005 USD" in words(svg)
    assert "5 more are not drawn." in words(draw_bars([("a", 1)] * 30, title="t"))


@pytest.mark.parametrize("top", [0, 1, 2, 3, 7, 99, 100, 101, 10**9, 123_456_789, 10**30 + 1])
def test_ticks_are_few_round_and_hold_the_top(top: int) -> None:
    ticks = list_ticks(top)
    assert ticks[0] == 0
    assert 2 <= len(ticks) <= 6
    assert ticks[-1] >= max(top, 1)
    assert str(ticks[1]).rstrip("0") in {"1", "2", "5"}
    assert {right - left for left, right in itertools.pairwise(ticks)} == {ticks[1]}


@pytest.mark.parametrize("alt", HOSTILE)
def test_a_picture_in_markdown_is_one_link(alt: str) -> None:
    svg = draw_bars([(alt, 1)], title=alt)
    found = re.fullmatch(
        r"!\[([\w .,:%-]*)\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", embed_svg(alt, svg)
    )
    assert found
    assert base64.b64decode(found[2]).decode() == svg
