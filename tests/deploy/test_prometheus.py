"""Rules and alerts, judged by promtool, and by what /metrics serves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from deploy_support import check_expression, read_yaml, run_tool

CASES = sorted(Path(__file__).parent.glob("*_test.yaml"))


@pytest.fixture(scope="module")
def alerts(deploy: Path) -> list[dict[str, Any]]:
    (document,) = read_yaml((deploy / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def cases() -> list[dict[str, Any]]:
    documents = [read_yaml(path.read_text(encoding="utf-8"))[0] for path in CASES]
    return [case for document in documents for test in document["tests"] for case in test["alert_rule_test"]]


def test_promtool_accepts_rules_and_configuration(deploy: Path, promtool: str) -> None:
    folder = deploy / "prometheus"
    run_tool(promtool, "check", "rules", folder / "rules.yaml", folder / "alerts.yaml")
    run_tool(promtool, "check", "config", folder / "prometheus.yaml")


def test_every_alert_fires_and_stays_silent_as_written(promtool: str) -> None:
    assert run_tool(promtool, "test", "rules", *CASES).count("SUCCESS") == len(CASES)


def test_the_cases_notice_an_alert_that_never_fires(deploy: Path, promtool: str, tmp_path: Path) -> None:
    folder = tmp_path / "prometheus"
    shutil.copytree(deploy / "prometheus", folder)
    path = folder / "alerts.yaml"
    text = path.read_text(encoding="utf-8")
    assert text.count("(maestro_receipts_failed) > 0") == 1
    path.write_text(text.replace("(maestro_receipts_failed) > 0", "(maestro_receipts_failed) > 9"))
    (document,) = read_yaml(Path(__file__).with_name("alerts_test.yaml").read_text(encoding="utf-8"))
    document["rule_files"] = [str(folder / "rules.yaml"), str(path)]
    document["tests"] = [test for test in document["tests"] if test["name"] == "a receipt is missing"]
    cases = tmp_path / "cases.json"  # JSON is YAML
    cases.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(AssertionError, match="MaestroReceiptFailed"):
        run_tool(promtool, "test", "rules", cases)


def test_every_alert_has_a_case_that_fires_and_one_that_is_silent(
    alerts: list[dict[str, Any]], cases: list[dict[str, Any]]
) -> None:
    for name in (rule["alert"] for rule in alerts):
        found = [bool(case["exp_alerts"]) for case in cases if case["alertname"] == name]
        assert {True, False} <= set(found), f"{name}: {found}"


def test_every_alert_has_a_runbook_that_names_it(alerts: list[dict[str, Any]], repository: Path) -> None:
    for rule in alerts:
        page = repository / rule["annotations"]["runbook"]
        assert page.is_file(), f"{rule['alert']}: there is no {page}"
        assert f"`{rule['alert']}`" in page.read_text(encoding="utf-8"), f"{page.name}: {rule['alert']}"
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_every_runbook_belongs_to_an_alert(alerts: list[dict[str, Any]], repository: Path) -> None:
    named = {rule["annotations"]["runbook"] for rule in alerts}
    pages = {str(page.relative_to(repository)) for page in (repository / "docs" / "runbooks").glob("*.md")}
    assert pages == named


def test_rules_ask_only_for_what_is_served(
    deploy: Path, alerts: list[dict[str, Any]], recorded: frozenset[str]
) -> None:
    (document,) = read_yaml((deploy / "prometheus" / "rules.yaml").read_text(encoding="utf-8"))
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    for rule in [*rules, *alerts]:
        problems = list(check_expression(rule["expr"], recorded))
        assert not problems, f"{rule.get('alert') or rule['record']}: {problems}"


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("rate(maestro_runs[5m])", "nobody serves maestro_runs"),
        ('maestro_runs_total{state="failed"}', "no label state"),
        ("sum by (team) (maestro_runs_total)", "grouped by team"),
        ("maestro:nothing:ratio", "nobody serves maestro:nothing:ratio"),
    ],
)
def test_a_wrong_name_is_noticed(expression: str, problem: str) -> None:
    assert any(problem in found for found in check_expression(expression, frozenset()))
