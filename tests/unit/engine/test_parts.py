"""The meter, the log, the scope and the budgets of runs, each by itself."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from maestro_dagster.engine.attempt import remove_folder
from maestro_dagster.engine.engine import Engine
from maestro_dagster.engine.log import RunLog, log_path, read_log
from maestro_dagster.engine.meter import AttemptMeter, measure
from maestro_dagster.telemetry.redaction import Redactor


async def test_the_meter_counts_this_step_only(support: ModuleType) -> None:
    async def work(burn: float) -> str:
        support.burn(burn)
        await asyncio.sleep(0.01)
        support.burn(burn)
        return "result"

    meters = [AttemptMeter() for _ in range(2)]
    results = await asyncio.gather(measure(work(0.02), meters[0]), measure(work(0.001), meters[1]))
    assert results == ["result", "result"]
    assert 0.035 < meters[0].cpu < 0.2
    assert meters[1].cpu < 0.03


async def test_the_meter_passes_errors_cancellation_and_timeouts() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("x")

    seen: list[str] = []

    async def stubborn() -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return "never"

    with pytest.raises(ValueError, match="x"):
        await measure(fail(), AttemptMeter())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await measure(stubborn(), AttemptMeter())
    assert seen == ["cancelled"]


def make_log(folder: Path, **limits: int) -> RunLog:
    return RunLog(folder, "r", line_limit=limits.get("line", 100), file_limit=limits.get("file", 10_000))


def test_a_log_is_read_while_it_grows_and_from_an_offset(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    assert list(read_log(tmp_path, "r")) == []
    log.write("one", step="a", attempt=1)
    log.write("two\nlines", step="b")
    first = list(read_log(tmp_path, "r"))
    assert [(line["step"], line["line"]) for line in first] == [("a", "one"), ("b", "two\nlines")]
    log.write("three", step="a")
    assert [line["line"] for line in read_log(tmp_path, "r", offset=first[-1]["offset"])] == ["three"]
    assert [line["line"] for line in read_log(tmp_path, "r", "a")] == ["one", "three"]
    log.close()


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    log = make_log(tmp_path)
    log.write("one")
    log.close()
    with log_path(tmp_path, "r").open("ab") as file:
        file.write(b'{"line": "tor')
    assert [line["line"] for line in read_log(tmp_path, "r")] == ["one"]
    again = make_log(tmp_path)
    again.write("two")
    again.close()
    assert [line["line"] for line in read_log(tmp_path, "r")] == ["one", "two"]


def test_a_log_is_bounded(tmp_path: Path) -> None:
    log = make_log(tmp_path, file=3000)
    for number in range(200):
        log.write(f"{number} " + "x" * 500)
    log.close()
    lines = [line["line"] for line in read_log(tmp_path, "r")]
    assert lines[-1].startswith("the log is full")
    assert len(lines) < 30
    assert all(len(line) < 120 for line in lines)
    assert log_path(tmp_path, "r").stat().st_size < 4000


def test_secrets_are_hidden_in_every_spelling() -> None:
    redactor = Redactor()
    redactor.add('p"ss word/1')
    redactor.add("two\nlines-of-key")
    redactor.add("ab")
    for text in ('x p"ss word/1 y', "p%22ss%20word%2F1", "cCJzcyB3b3JkLzE", json.dumps('p"ss word/1')):
        assert "***" in redactor.hide(text)
        assert "ss" not in redactor.hide(text).replace("***", "")
    assert "lines-of-key" not in redactor.hide("lines-of-key alone")
    assert redactor.hide("cab") == "cab"
    hidden = redactor.hide_in({'p"ss word/1': ['p"ss word/1', 3, None]})
    assert "ss word" not in json.dumps(hidden)


def test_folders_that_resist_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "c").write_text("x")
    (folder / "link").symlink_to(tmp_path)
    (folder / "a" / "b").chmod(0)
    (folder / "a").chmod(0)
    remove_folder(folder)
    assert not folder.exists()
    assert tmp_path.exists()
    remove_folder(folder)


def test_expressions_read_outputs_and_say_what_they_cannot_read(
    engine: Engine, perform: Callable[..., Any], support: ModuleType
) -> None:
    flow = support.make_flow(
        {"id": "json", "with": {"json_": {"a": [1, {"b": "deep"}]}}},
        {"id": "good", "needs": ["json"], "with": {"text": "${{ steps.json.output.a[1].b }} ${{ run.id }}"}},
        {"id": "tree", "with": {"text": "x", "media": "application/zip"}},
        {"id": "opaque", "needs": ["tree"], "with": {"text": "${{ steps.tree.output }}"}},
        {"id": "digest", "needs": ["tree"], "with": {"text": "${{ steps.tree.digest }}"}},
        {"id": "unknown", "needs": ["json"], "with": {"text": "${{ steps.json.output.nope }}"}},
        {"id": "commit", "with": {"text": "${{ git.sha }}"}},
    )
    outcomes, _ = perform(flow, git={"sha": "abc", "ref": "refs/heads/main"})
    found = {each.step: each for each in outcomes}
    assert engine.services.store.read(found["good"].artifact.digest).startswith(b"deep r1")
    assert engine.services.store.read(found["commit"].artifact.digest) == b"abc"
    assert found["digest"].status == "done"
    assert found["opaque"].error["code"] == "output-opaque"
    assert found["unknown"].error["code"] == "expression-unknown"
    assert found["unknown"].attempts == 0


def test_an_asset_is_an_input_and_a_missing_one_an_error(engine: Engine, support: ModuleType) -> None:
    flow = support.make_flow({"id": "one", "assets": {"table": "a/b"}}, {"id": "two", "assets": {"x": "c/d"}})
    engine.request(support.make_request("r1", flow))
    artifact = engine.services.store.put_bytes(b"rows", "text/csv")
    outcomes = {
        each.step: each for each in engine.stream_segment("r1", ["one", "two"], assets={"a/b": artifact})
    }
    assert outcomes["one"].status == "done"
    assert outcomes["two"].error
    assert outcomes["two"].error["code"] == "asset-missing"
    engine.close("r1")


def test_a_run_budget_stops_calls_before_they_are_made(engine: Engine, support: ModuleType) -> None:
    flow = support.make_flow(
        {"id": "one", "uses": support.CALL},
        {"id": "two", "uses": support.CALL, "needs": ["one"]},
        budget={"tokens": 40},
    )
    engine.request(support.make_request("r1", flow))
    outcomes = {each.step: each for each in engine.stream_segment("r1", ["one", "two"])}
    assert outcomes["one"].status == "done"
    assert outcomes["two"].error
    assert outcomes["two"].error["code"] == "budget-exhausted"
    engine.close("r1")


def test_steps_run_at_once_up_to_the_limit(engine: Engine, support: ModuleType) -> None:
    flow = support.make_flow(*({"id": f"s{number}", "with": {"seconds": 0.5}} for number in range(16)))
    engine.request(support.make_request("r1", flow))
    began = time.monotonic()
    outcomes = list(engine.stream_segment("r1", support.all_steps(flow)))
    took = time.monotonic() - began
    assert len(outcomes) == 16
    assert 1.0 <= took < 8.0, "two rounds of eight, not one step after another"


def test_a_damaged_artifact_fails_the_step_that_reads_it(engine: Engine, support: ModuleType) -> None:
    flow = support.make_flow(
        {"id": "one", "with": {"text": "x"}},
        {"id": "two", "needs": ["one"], "with": {"text": "${{ steps.one.output }}"}},
    )
    engine.request(support.make_request("r1", flow))
    first = next(iter(list(engine.stream_segment("r1", ["one"]))))
    assert first.artifact
    store: Any = engine.services.store
    path = Path(store.root, "sha256", first.artifact.digest[7:9], first.artifact.digest[7:])
    path.chmod(0o644)
    path.write_bytes(b"y")
    second = next(engine.stream_segment("r1", ["two"]))
    assert second.error
    assert second.error["code"] == "artifact-corrupt"
