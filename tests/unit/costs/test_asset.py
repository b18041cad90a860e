"""The shipped asset, materialised by Dagster as in a project, on a lake of its own."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from costs_support import DAY, make_event

from maestro_dagster.costs.lake import Lake, lake_total, open_lake
from maestro_dagster.costs.spool import Spool
from maestro_dagster.costs.stage import read_quarantine
from maestro_dagster.translate.resource import LakeResource


class LakeOfTest(LakeResource):
    """Where the spool is, without an engine around it."""

    spool_folder: str

    def spool(self) -> Spool:
        return Spool(Path(self.spool_folder))

    def has_ended(self, run_id: str) -> bool:
        return run_id != "alive"


@pytest.fixture
def resource(tmp_path: Path, spool: Spool) -> LakeOfTest:
    (tmp_path / "pyproject.toml").write_text('[tool.maestro]\ntenant = "tenant"\n', encoding="utf-8")
    return LakeOfTest(folder=str(tmp_path / "lake"), spool_folder=str(spool.folder), project=str(tmp_path))


def load(repository: Path, name: str) -> Any:
    path = repository / name
    spec = importlib.util.spec_from_file_location(f"shipped_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fill(spool: Spool) -> None:
    for run, costs in (("ended", (1, 2, None)), ("alive", (4,))):
        with spool.open_run(run) as writer:
            writer.append([make_event(run, cost_nano=cost, price="rates@2026-01-01") for cost in costs])
    with spool.open_run("alive") as writer:
        writer.append([make_event("alive", phase="intent", cost_nano=100)])


def test_the_asset_publishes_a_day_and_its_check_holds(
    repository: Path, spool: Spool, resource: LakeOfTest, tmp_path: Path
) -> None:
    fill(spool)
    usage_daily = load(repository, "assets/usage_daily.py").usage_daily
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [usage_daily], partition_key=DAY, resources={"lake": resource}, instance=instance
        )
    assert result.success
    (event,) = result.get_asset_materialization_events()
    metadata = {name: value.value for name, value in event.materialization.metadata.items()}
    assert metadata["dagster/row_count"] == 4
    assert metadata["sum_usd"] == "0.000000007"
    assert (metadata["events_without_price"], metadata["open_calls_left"]) == (1, 1)
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert checks.keys() >= {"money", "schema", "spool_equals_lake"}
    # `references` warns: the project of this test has no flow and no run of those names.
    assert {name for name, check in checks.items() if not check.passed} <= {"references"}
    assert [row.data["passed"] for row in checks["money"].metadata["facts"].records] == ["yes"] * 11
    lake: Lake = open_lake(tmp_path / "lake")
    assert [lake_total(lake, run) for run in ("ended", "alive")] == [(3, 1), (4, 0)]
    assert spool.runs() == ("alive",)


def test_a_day_that_fails_a_check_is_in_quarantine_and_nothing_of_it_is_published(
    repository: Path, spool: Spool, resource: LakeOfTest, tmp_path: Path
) -> None:
    with spool.open_run("ended") as writer:
        writer.append([make_event("ended", cost_nano=1, price="")])  # a cost that no price made
    usage_daily = load(repository, "assets/usage_daily.py").usage_daily
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [usage_daily],
            partition_key=DAY,
            resources={"lake": resource},
            instance=instance,
            raise_on_error=False,
        )
    assert not result.success
    assert result.get_asset_materialization_events() == []
    assert next(c.check_name for c in result.get_asset_check_evaluations() if not c.passed) == "money"
    lake = open_lake(tmp_path / "lake")
    assert lake.usage.days() == ()
    assert (read_quarantine(lake, DAY) or {})["rows"] == 1
    assert spool.runs() == ("ended",)


def test_the_schedule_asks_for_every_day_that_waits(
    repository: Path, spool: Spool, resource: LakeOfTest
) -> None:
    fill(spool)
    with spool.open_run("late") as writer:
        writer.append([make_event("late", cost_nano=1, occurred_at="2026-02-27T23:59:59.999999Z")])
    usage_daily = load(repository, "assets/usage_daily.py").usage_daily
    schedule = load(repository, "sensors/usage_daily.py").usage_daily_schedule
    definitions = dg.Definitions(assets=[usage_daily], schedules=[schedule], resources={"lake": resource})
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(
            instance=instance,
            repository_def=definitions.get_repository_def(),
            resources={"lake": resource},
            scheduled_execution_time=datetime(2026, 3, 2, 0, 15, tzinfo=UTC),
        )
        data = schedule.evaluate_tick(context)
    assert [request.partition_key for request in data.run_requests] == ["2026-02-27", DAY]


def test_a_day_without_usage_is_materialised_and_not_published(
    repository: Path, resource: LakeOfTest, tmp_path: Path
) -> None:
    assets = [
        load(repository, "assets/usage_daily.py").usage_daily,
        load(repository, "assets/usage_cubes.py").usage_cubes,
    ]
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(assets, partition_key=DAY, resources={"lake": resource}, instance=instance)
    daily, cubes = (
        {name: value.value for name, value in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
    )
    assert (daily["dagster/row_count"], daily["published"], daily["digest"]) == (0, False, "none")
    assert (cubes["dagster/row_count"], cubes["events"]) == (0, 0)
    assert all(check.passed for check in result.get_asset_check_evaluations() if check.blocking)
    assert open_lake(tmp_path / "lake").usage.days() == ()
