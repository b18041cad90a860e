"""What is written beside the journal is cut to what the journal knew."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from maestro_dagster.project.backup_moment import hold_folder, read_moment
from maestro_dagster.project.backup_source import walk_files

MOMENT = read_moment(100.0, [("ended", "sha256:1"), ("open", None)], [("open", "one", -1, 2)])


def lines(*values: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def usage(run_id: str, step: str, attempt: int, **more: Any) -> dict[str, Any]:
    return {"run_id": run_id, "step": step, "attempt": attempt, **more}


def span(start: float) -> dict[str, Any]:
    return {"resourceSpans": [{"scopeSpans": [{"spans": [{"startTimeUnixNano": str(int(start * 1e9))}]}]}]}


def test_usage_of_attempts_that_the_journal_does_not_know_is_left_out() -> None:
    kept = [usage("ended", "any", 9), usage("open", "one", 1), usage("open", "one", 2, iteration=-1)]
    late = [usage("open", "one", 3), usage("open", "two", 1), usage("open", "one", 1, iteration=0)]
    new = usage("requested-later", "one", 1)
    assert MOMENT.cut_usage(lines(*kept, *late, new)) == lines(*kept)
    assert MOMENT.cut_usage(b"not JSON\n[]\n") == b"not JSON\n[]\n"  # whoever reads it judges it


def test_lineage_is_that_of_ended_runs() -> None:
    assert MOMENT.cut_lineage(lines({"run_id": "ended"}, {"run_id": "open"})) == lines({"run_id": "ended"})


def test_spans_that_began_later_are_left_out_of_runs_that_go_on() -> None:
    data = lines(span(99), span(101))
    assert MOMENT.cut_trace(data, "open") == lines(span(99))
    assert MOMENT.cut_trace(data, "ended") == data


def test_held_files_outlive_their_owner_and_follow_what_grows(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    (spool / "lineage").mkdir(parents=True)
    (spool / "a.ndjson").write_text("1\n")
    (spool / "lineage" / "r.ndjson").write_text("old\n")
    with hold_folder(spool, tmp_path / "scratch") as held:
        held.hold(walk_files)
        with (spool / "a.ndjson").open("a") as file:
            file.write("2\n")
        (spool / "a.ndjson").unlink()  # a compaction took it
        (spool / "new").write_text("new\n")
        os.replace(spool / "new", spool / "lineage" / "r.ndjson")  # noqa: PTH105 - as its writer does
        held.hold(walk_files)
        assert (held.held / "a.ndjson").read_text() == "1\n2\n"
        assert (held.held / "lineage" / "r.ndjson").read_text() == "new\n"
    assert list((tmp_path / "scratch").iterdir()) == []
