"""The picture and the lines of a trace."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import fromstring

from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.span import Trace, run_span_id
from maestro_dagster.telemetry.trace import TraceSpan, read_document, read_trace, write_document
from maestro_dagster.telemetry.waterfall import count_spans, draw_lines, draw_picture, format_ms, lay_out


def make_spans(folder: Path) -> list[TraceSpan]:
    trace = Trace(folder, "r1")
    root = trace.begin("run shop", name.RUN_SPAN, span_id=run_span_id("r1"), start=100.0)
    decided = {name.POLICY_DECISION: "allow"}
    admission = trace.begin("admission", name.ADMISSION_SPAN, parent=root, start=100.25, attributes=decided)
    trace.end(admission, end=100.5)
    segment = trace.begin("segment", name.SEGMENT_SPAN, parent=root, start=101.0)
    for number, (start, end) in enumerate([(101.0, 103.0), (102.0, 110.0)]):
        more = {name.TASK_NAME: f"s{number}", name.STEP_ATTEMPT: number + 1}
        step = trace.begin(f"step s{number}", name.STEP_SPAN, parent=segment, start=start, attributes=more)
        if number:
            step.fail("made-to-fail")
        trace.end(step, end=end)
    lost = trace.begin("<GET> & \x07", name.CALL_SPAN, parent="f" * 16, start=109.0)
    trace.end(lost, end=109.5)
    trace.end(root, end=110.0)
    trace.close()
    return read_trace(folder, "r1")


def test_rows_are_a_tree_by_time(tmp_path: Path) -> None:
    rows = lay_out(make_spans(tmp_path))
    assert [(row.depth, row.span.name) for row in rows] == [
        (0, "run shop"),
        (1, "admission"),
        (1, "segment"),
        (2, "step s0"),
        (2, "step s1"),
        (0, "<GET> & \x07"),
    ]
    assert [row.offset_ms for row in rows] == [0.0, 250.0, 1000.0, 1000.0, 2000.0, 9000.0]
    assert rows[2].duration_ms == 9000.0  # it still goes on: up to the last that is known
    assert lay_out([]) == []
    assert list(draw_lines([])) == []
    assert count_spans(row.span for row in rows)[name.STEP_SPAN] == 2


def test_lines_fit_the_terminal_and_say_what_failed(tmp_path: Path) -> None:
    rows = lay_out(make_spans(tmp_path))
    for width in (20, 60, 200):
        lines = list(draw_lines(rows, width))
        assert len(lines) == 6
        assert lines[4].endswith("made-to-fail")
        assert "x" in lines[4]
        assert "." in lines[2]
        assert all(len(line) <= max(width, 60) + 20 for line in lines)
    text = "\n".join(draw_lines(rows, 100))
    assert "step s1 (attempt 2)" in text
    assert "admission (allow)" in text


def test_the_picture_is_xml_without_scripts(tmp_path: Path) -> None:
    rows = lay_out(make_spans(tmp_path))
    root = fromstring(draw_picture(rows, "shop <1.0.0>"))  # noqa: S314 - ours
    assert root.tag.endswith("svg")
    assert len([each for each in root.iter() if each.tag.endswith("rect")]) == 7
    assert not [each for each in root.iter() if each.tag.endswith("script")]
    short = draw_picture(rows, "shop", 4)
    assert "2 shorter spans are not drawn" in short
    assert "step s0" not in short
    fromstring(draw_picture([], "nothing"))  # noqa: S314 - ours


def test_a_document_gives_the_spans_back(tmp_path: Path) -> None:
    spans = [span for span in make_spans(tmp_path) if span.end]
    data = write_document(spans)
    assert write_document(reversed(spans)) == data
    assert read_document(data) == spans
    assert read_document(b"{") == []
    assert read_document(b'{"resourceSpans": 3}') == []


def test_times_are_short() -> None:
    assert [format_ms(each) for each in (0.04, 12.3, 1240, 185_000)] == [
        "0.0 ms",
        "12 ms",
        "1.24 s",
        "3 min 5 s",
    ]
