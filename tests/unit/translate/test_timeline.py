from __future__ import annotations

import base64
import xml.etree.ElementTree as ET
from dataclasses import replace

from maestro_dagster.engine.interface import RunView, StepOutcome
from maestro_dagster.translate.timeline import (
    INLINE_LIMIT,
    MOST_ROWS,
    bars_markdown,
    draw_timeline,
    format_seconds,
    timeline_markdown,
)

STEP = StepOutcome("a", "pkg:x/y@1.0.0", "done", 1, None, 500, 10.0, 10.5, 0, 0, {}, "", None, True, False)


def make_view(count: int) -> RunView:
    steps = tuple(
        replace(STEP, step=f"step-{n}", started_at=10.0 + n, finished_at=10.5 + n, duration_ms=500 + n)
        for n in range(count)
    )
    skipped = replace(STEP, step="<never> & co", status="skipped", started_at=None, duration_ms=0)
    return RunView(
        "r",
        "f",
        "1.0.0",
        "sha256:0",
        "succeeded",
        "manual",
        None,
        {},
        9.0,
        10.0,
        99.0,
        (*steps, skipped),
        None,
        None,
        None,
    )


def test_the_picture_is_well_formed_whatever_a_step_is_called() -> None:
    tree = ET.fromstring(draw_timeline(make_view(3)))  # noqa: S314 - our own picture
    texts = [node.text for node in tree.iter() if node.text]
    assert "<never> & co" in texts
    assert any("succeeded" in text for text in texts)
    assert not [node for node in tree.iter() if node.tag.endswith("script")]


def test_a_long_run_shows_its_slowest_steps_and_says_so() -> None:
    picture = draw_timeline(make_view(500))
    assert picture.count("<rect") == MOST_ROWS + 1
    assert f"the {MOST_ROWS} slowest of 501 steps" in picture


def test_a_run_without_a_started_step_has_a_picture_too() -> None:
    ET.fromstring(draw_timeline(make_view(0)))  # noqa: S314 - our own


def test_the_bars_stay_below_what_dagster_shows_in_place() -> None:
    for count in (1, 11, 25):
        text = bars_markdown(make_view(count))
        assert text is not None
        assert len(text) < INLINE_LIMIT
        ET.fromstring(base64.b64decode(text.split("base64,")[1].rstrip(")")))  # noqa: S314 - our own
    assert (
        "step-3"
        in base64.b64decode((bars_markdown(make_view(5)) or "").split("base64,")[1].rstrip(")")).decode()
    )
    assert timeline_markdown(make_view(1)).startswith("![timeline of the run](data:image/svg+xml;base64,")


def test_times_read_well() -> None:
    assert [format_seconds(each) for each in (0.012, 1.239, 185)] == ["12 ms", "1.24 s", "3 min 5 s"]
