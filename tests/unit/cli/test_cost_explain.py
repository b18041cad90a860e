"""`maestro cost explain`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from maestro_dagster.cli.main import run_command
from maestro_dagster.costs.lineage import LineageInput, LineageRecord, write_lineage

DAY = "2026-03-01"


def digest_of(name: str) -> str:
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def make_record(step: str, *inputs: str, **values: Any) -> LineageRecord:
    return LineageRecord(
        run_id="r1",
        flow="flow",
        flow_digest=digest_of("flow"),
        step=step,
        iteration=-1,
        uses="pkg:test/make@1.0.0",
        status="done",
        attempts=1,
        day=DAY,
        finished_at=f"{DAY}T10:00:00.000000Z",
        digest=digest_of(step),
        inputs=tuple(LineageInput(digest_of(each), "r1", each, day=DAY) for each in inputs),
        **values,
    )


@pytest.fixture(autouse=True)
def spooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.maestro]\n")
    monkeypatch.setenv("MAESTRO_PROJECT", str(tmp_path))
    records = [
        make_record("top", known_nano=10**9, retry_nano=10**8, failed_nano=10**7),
        make_record("left", "top", known_nano=1),
        make_record("right", "top", unknown=1, missing=("llm openai gpt",)),
        make_record("end", "left", "right", known_nano=3),
    ]
    write_lineage(tmp_path / ".maestro" / "spool", "r1", records)


def test_an_artifact_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["cost", "explain", digest_of("end")[:19]]) == 0
    shown = capsys.readouterr().out
    assert "total   1.000000004 USD and 1 events whose price is unknown; failed 0.01, retries 0.1" in shown
    assert "no price: llm openai gpt" in shown
    assert [line.split()[1:3] for line in shown.splitlines() if line.startswith(("0 ", "1 ", "2 "))] == [
        ["top", "1"], ["end", "0.000000003"], ["left", "0.000000001"], ["right", "unknown"],
    ]  # fmt: skip
    assert run_command(["cost", "explain", digest_of("end")[7:19], "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert list(value) == [
        "schema", "kind", "currency", "digest", "run_id", "flow", "step", "iteration", "status", "attempts",
        "finished_at", "reused_from", "media_type", "size", "own", "inputs", "total", "lineage", "saved",
        "missing", "without_record", "direct_inputs", "made_of", "other_makings", "reuse",
    ]  # fmt: skip
    assert value["total"]["cost_usd"] is None


def test_a_run_and_a_step_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["cost", "explain", "r1"]) == 0
    assert "retries 0.1" in capsys.readouterr().out
    assert run_command(["cost", "explain", "r1", "--json", "--top", "1"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["kind"], [each["step"] for each in value["steps"]]) == ("run", ["top"])
    assert run_command(["cost", "explain", "r1/left", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["cost_usd"] == "1.000000001"


@pytest.mark.parametrize(
    ("subject", "code"),
    [
        ("sha256:ab", "digest-invalid"),
        ("sha256:" + "0" * 64, "artifact-unknown"),
        ("000000000000", "artifact-unknown"),
        ("nobody", "lineage-missing"),
        ("r1/nothing", "step-unknown"),
    ],
)
def test_what_is_not_known_is_refused(capsys: pytest.CaptureFixture[str], subject: str, code: str) -> None:
    assert run_command(["cost", "explain", subject, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
