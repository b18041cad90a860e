"""From the push to the last call: one whole trace, told to a collector by the loop."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.events.hook import install_hook
from maestro_dagster.telemetry import name
from maestro_dagster.telemetry.span import push_span_id, run_span_id, trace_id_for
from maestro_dagster.telemetry.trace import read_trace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def push(folder: Path, inbox: Path) -> None:
    bare, work = folder / "lib.git", folder / "lib"
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    git(folder, "init", "--quiet", "--initial-branch=main", str(work))
    install_hook(bare, inbox)
    (work / "file").write_text("text")
    git(work, "add", "file")
    git(work, "commit", "--quiet", "--message", "one")
    git(work, "push", "--quiet", str(bare), "HEAD:refs/heads/main")


def test_a_push_is_one_trace_up_to_the_collector(yard: Any, tmp_path: Path, collector: Any) -> None:
    step = {"uses": "pkg:test/witness@1.0.0", "with": {"file": str(tmp_path / "witness")}}
    tasks = [
        {"id": "source", "uses": "pkg:git/checkout@1.0.0"},
        {"id": "one", "needs": [], **step},
        {"id": "pod", "needs": ["one"], "resources": {"pod": True}, **step},
    ]
    yard.write_flow({"name": "traced", "version": "1.0.0", "on": [{"event": "push"}], "tasks": tasks})
    yard.environment |= {"MAESTRO_OTLP_ENDPOINT": collector.url, "MAESTRO_LOG_FORMAT": "json"}
    yard.start()
    push(tmp_path, yard.project.inbox)
    journal = yard.engine.services.journal
    yard.wait_for(lambda: journal.runs(5), 60, "a run")
    (run,) = journal.runs(5)
    view = yard.wait_closed(run.run_id)
    assert view.status == "succeeded"
    spans = read_trace(yard.project.home / "traces", run.run_id)
    known = {span.span_id: span for span in spans}
    (root,) = [span for span in spans if span.parent_id not in known]
    assert (root.what, root.span_id) == (name.PUSH_SPAN, push_span_id(run.run_id))
    assert known[run_span_id(run.run_id)].parent_id == root.span_id
    kinds = [span.what for span in spans]
    assert kinds.count(name.STEP_SPAN) == 3
    assert kinds.count(name.SEGMENT_SPAN) >= 2
    assert [span.name for span in spans if span.what == name.CALL_SPAN and span.step == "source"]
    assert known[run_span_id(run.run_id)].attributes[name.DAGSTER_RUN] == list(run.dagster_runs) or (
        known[run_span_id(run.run_id)].attributes[name.DAGSTER_RUN]
        == list(yard.engine.dagster_runs(run.run_id))
    )
    yard.wait_for(lambda: len(collector.spans()) >= len(spans), 30, "the spans at the collector")
    assert {span.span_id.hex() for span in collector.spans()} == set(known)
    log = yard.log.read_text()
    assert f'"trace_id": "{trace_id_for(run.run_id)}"' in log
