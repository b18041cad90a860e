"""Dashboards: their structure, each expression by promtool's parser, units that fit what is drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from deploy_support import check_expression, read_yaml, run_tool

_UNITS = (  # the first that fits decides
    (re.compile(r"_(success|requests):increase10m / |:ratio|_used_ratio"), "percentunit"),
    (re.compile(r"_percent\b"), "percent"),
    (re.compile(r"duration_seconds_count"), "reqps"),
    (re.compile(r"(_ms_bucket|_ms:p\d+)"), "ms"),
    (re.compile(r"_seconds(_bucket|:p\d+|\b)"), "s"),
    (re.compile(r"_usd(_total|:|\b)"), "currencyUSD"),
    (re.compile(r"_bytes\b"), "bytes"),
    (re.compile(r"maestro_source_up"), "bool_yes_no"),
    (re.compile(r""), "short"),
)
_PANELS = {"timeseries", "stat", "bargauge"}


def _dashboards(repository: Path) -> list[tuple[str, dict[str, Any]]]:
    folder = repository / "deploy" / "grafana" / "dashboards"
    return [
        (path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.json"))
    ]


@pytest.fixture(scope="module")
def dashboards(repository: Path) -> list[tuple[str, dict[str, Any]]]:
    return _dashboards(repository)


@pytest.fixture(scope="module")
def targets(dashboards: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, str, str]]:
    """Place, unit, expression of everything that is drawn."""
    return [
        (f"{name}: {panel['title']}", panel["fieldConfig"]["defaults"]["unit"], target["expr"])
        for name, board in dashboards
        for panel in board["panels"]
        for target in panel["targets"]
    ]


def test_dashboards_have_what_grafana_needs(dashboards: list[tuple[str, dict[str, Any]]]) -> None:
    assert {name for name, _ in dashboards} == {
        "maestro-overview", "maestro-objectives", "maestro-costs", "maestro-providers", "maestro-proof",
    }  # fmt: skip
    for name, board in dashboards:
        assert board["uid"] == name
        assert board["title"]
        assert board["schemaVersion"] >= 39
        assert [one["name"] for one in board["templating"]["list"]] == ["datasource"]
        identifiers = [panel["id"] for panel in board["panels"]]
        assert len(set(identifiers)) == len(identifiers)
        for panel in board["panels"]:
            assert panel["type"] in _PANELS
            assert panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}"
            references = [target["refId"] for target in panel["targets"]]
            assert len(set(references)) == len(references) > 0


def test_panels_lie_beside_each_other(dashboards: list[tuple[str, dict[str, Any]]]) -> None:
    for name, board in dashboards:
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            grid = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(grid["x"], grid["x"] + grid["w"])
                for y in range(grid["y"], grid["y"] + grid["h"])
            }
            assert grid["x"] + grid["w"] <= 24, f"{name}: {panel['title']} leaves the page"
            assert not cells & taken, f"{name}: {panel['title']} lies over another"
            taken |= cells


def test_every_expression_parses(targets: list[tuple[str, str, str]], promtool: str, tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, (_, _, expression) in enumerate(targets)
    ]
    path = tmp_path / "panels.json"  # JSON is YAML
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    assert f"{len(targets)} rules found" in run_tool(promtool, "check", "rules", path)


def test_panels_ask_only_for_what_is_served(
    targets: list[tuple[str, str, str]], recorded: frozenset[str]
) -> None:
    for place, _, expression in targets:
        problems = list(check_expression(expression, recorded))
        assert not problems, f"{place}: {problems}"


def test_units_fit_what_is_drawn(targets: list[tuple[str, str, str]]) -> None:
    for place, unit, expression in targets:
        wanted = next(name for pattern, name in _UNITS if pattern.search(expression))
        assert unit == wanted, f"{place} draws {expression} as {unit}"


def test_instances_that_read_the_same_records_are_never_added_up(targets: list[tuple[str, str, str]]) -> None:
    for place, _, expression in targets:
        for name in re.findall(r"(?:rate|increase)\((\w+)", expression):
            joined = "max without (instance, pod)" in expression
            assert joined != name.startswith("http_server_"), f"{place}: {expression}"


def test_provisioning_finds_the_dashboards(deploy: Path) -> None:
    folder = deploy / "grafana" / "provisioning"
    (sources,) = read_yaml((folder / "datasources" / "maestro.yaml").read_text(encoding="utf-8"))
    assert [one["type"] for one in sources["datasources"] if one.get("isDefault")] == ["prometheus"]
    (providers,) = read_yaml((folder / "dashboards" / "maestro.yaml").read_text(encoding="utf-8"))
    assert providers["providers"][0]["options"]["path"] == "/etc/grafana/dashboards"
