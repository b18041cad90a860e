"""The small picture: always shown in place, well formed, what is special in a colour of its own."""

from __future__ import annotations

from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest

from maestro_dagster.costs.burn import burn_down
from maestro_dagster.costs.plot_spark import INLINE_LIMIT, embed_burn, embed_spark

DAYS = [(f"2026-{1 + at // 28:02d}-{1 + at % 28:02d}", 10**15 - at * 10**11) for at in range(120)]


@pytest.mark.parametrize("count", [0, 1, 60, 120])
def test_it_is_short_enough_to_be_shown_in_place(count: int) -> None:
    text = embed_spark(
        DAYS[:count], to_come=DAYS[count : count + 31], anomalies={day for day, _ in DAYS[::2]}
    )
    assert len(text) < INLINE_LIMIT
    address = text.partition("](data:image/svg+xml,")[2].partition(")")[0]
    assert not set(address) & set(' ()<>"#')
    ET.fromstring(unquote(address))  # noqa: S314 - made here


def test_days_to_come_are_pale_and_anomalies_red() -> None:
    text = unquote(embed_spark(DAYS[:3], to_come=DAYS[3:4], anomalies={DAYS[1][0]}))
    paths = {colour: text.count(f"stroke='{colour}'") for colour in ("#4c6fd6", "#b3c1ee", "#d64545")}
    assert paths == dict.fromkeys(paths, 1)
    assert "at most 1000000 USD a day" in text


@pytest.mark.parametrize("limit", [None, 0, 1, 10**16, 10**17])
@pytest.mark.parametrize("today", ["2026-03-01", "2026-03-15", "2026-03-31", "2026-04-02"])
def test_a_month_against_its_limit_is_shown_in_place(today: str, limit: int | None) -> None:
    month = burn_down(dict(DAYS), limit, first="2026-03-01", last="2026-03-31", today=today)
    text = embed_burn(month)
    assert len(text) < INLINE_LIMIT
    picture = unquote(text.partition("](data:image/svg+xml,")[2].partition(")")[0])
    ET.fromstring(picture)  # noqa: S314 - made here
    assert picture.count("v-") == 31
    assert picture.count("stroke='#d64545'") == (limit is not None)
    heights = [int(bar.split("m")[0].split("'")[0]) for bar in picture.split("v-")[1:]]
    assert 0 <= min(heights) <= max(heights) <= 60


def test_nothing_spent_against_no_limit_is_drawn() -> None:
    month = burn_down({}, None, first="2026-03-01", last="2026-03-31", today="2026-03-05")
    assert embed_burn(month).endswith("2026-03-01 to 2026-03-31, 0 USD so far")
