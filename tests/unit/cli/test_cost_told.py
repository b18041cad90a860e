"""What `maestro cost` says of exports, forecasts and freezes that are not plain."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from maestro_dagster.cli.cost import command
from maestro_dagster.cli.main import run_command
from maestro_dagster.costs.event import UsageScope
from maestro_dagster.costs.spool import Spool
from maestro_dagster.errors import CostError

SHARED = """version: 1
currency: USD
shared:
  - {name: licence, amount: "1", since: "2026-03", key: tokens}
"""


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    (tmp_path / "pyproject.toml").write_text("[tool.maestro]\n")
    monkeypatch.setenv("MAESTRO_PROJECT", str(tmp_path))
    monkeypatch.delenv("MAESTRO_SECRET_COST_WEBHOOK", raising=False)
    return Spool(tmp_path / ".maestro" / "spool")


def use(spool: Spool, day: str) -> None:
    event = UsageScope("default", "r1", "brief", "draft", 1).make_event(
        "llm", provider="p", model="m", cost_nano=7, price="p@1", occurred_at=f"{day}T12:00:00.000000Z"
    )
    with spool.open_run("r1") as writer:
        writer.append([event])


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize(
    ("url", "secret", "code"),
    [
        ("https://example.org/x", "whsec_short", "webhook-secret"),
        ("ftp://example.org", "text", "webhook-url"),
    ],
)
def test_an_export_that_could_not_be_sent_writes_nothing(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, secret: str, code: str
) -> None:
    use(spool, "2026-03-01")
    monkeypatch.setenv("MAESTRO_SECRET_COST_WEBHOOK", secret)
    target = tmp_path / "out" / "u.csv"
    target.parent.mkdir()
    with pytest.raises(CostError) as caught:
        call("export", "--format", "csv", "-o", str(target), "--no-sign", "--webhook", url)
    assert caught.value.error_code == code
    assert list(target.parent.iterdir()) == []


def test_an_export_of_shared_costs_alone_names_its_period(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "resources").mkdir()
    (tmp_path / "resources" / "shared.yaml").write_text(SHARED)
    arguments = ("export", "--format", "focus-csv", "-o", str(tmp_path / "f.csv"), "--no-sign", "--shared")
    period = ("--since", "2026-03-01", "--until", "2026-03-31")
    told = json.loads(call(*arguments, *period, "--json").stdout)
    assert (told["rows"], told["events"], told["first_day"], told["last_day"]) == (1, 0, *period[1::2])
    assert "from 2026-03-01 to 2026-03-31" in call(*arguments, *period).stdout
    late = call(*arguments, "--since", "9999-10-15", "--until", "9999-11-30", "--json").stdout
    assert json.loads(late)["rows"] == 1
    assert run_command(["cost", *arguments, "--since", "9999-11-15", "--until", "9999-12-31"]) == 2


def test_a_budget_that_is_reached_is_said_to_be_without_a_forecast(spool: Spool) -> None:
    use(spool, datetime.now(UTC).date().isoformat())
    text = call("forecast", "--budget", "0usd").stdout
    assert "budget 0 USD: reached on" in text
    assert "cannot be said" in call("forecast", "--budget", "5usd").stdout


def test_freezes_are_doubted_and_replaced_aloud(spool: Spool, tmp_path: Path) -> None:
    assert run_command(["cost", "budget", "freeze", "default", "--reason", " "]) == 2
    flow = tmp_path / "assets" / "ghosts.yaml"
    flow.parent.mkdir()
    flow.write_text("apiVersion: broken")
    name = ("budget", "freeze", "default/default/ghost", "--reason")
    assert call(*name, "one").stderr == ""  # flows that cannot be read are in no brake's way
    flow.unlink()
    again = call(*name, "two")
    assert "there is no flow 'ghost'" in again.stderr
    assert "this replaces the reason of" in again.stdout
    assert again.stdout.rstrip().endswith(": one")
    value = json.loads(call(*name, "three", "--json").stdout)
    assert (value["known"], value["replaced"]["reason"]) == (False, "two")


def test_the_usage_line_shows_what_may_be_left_out() -> None:
    assert "[OPTIONS] [RUN]" in call("report", "--help").stdout
    assert "maestro cost top" in call("--help").stdout
