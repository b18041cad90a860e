"""A bad event is planted: the day is blocked, what was published stays; repaired, the day is published."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from costs_support import DAY, make_event

from maestro_dagster.costs.check import CHECKS
from maestro_dagster.costs.lake import Lake, open_lake
from maestro_dagster.costs.spool import Spool
from maestro_dagster.costs.stage import read_quarantine
from maestro_dagster.translate.resource import LakeResource

ERROR = dg.AssetCheckSeverity.ERROR


class LakeOfTest(LakeResource):
    """Where the spool is, without an engine around it."""

    spool_folder: str

    def spool(self) -> Spool:
        return Spool(Path(self.spool_folder))

    def has_ended(self, run_id: str) -> bool:
        return True


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "shop"
    (root / "resources").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[tool.maestro]\ntenant = "tenant"\n')
    return root


@pytest.fixture
def resource(project: Path, spool: Spool, tmp_path: Path) -> LakeOfTest:
    return LakeOfTest(project=str(project), folder=str(tmp_path / "lake"), spool_folder=str(spool.folder))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return open_lake(tmp_path / "lake")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def usage_daily(repository: Path) -> Any:
    spec = importlib.util.spec_from_file_location("shipped_usage_daily", repository / "assets/usage_daily.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.usage_daily


@dg.asset(deps=["usage_daily"], partitions_def=dg.DailyPartitionsDefinition("2026-01-01", end_offset=1))
def downstream() -> None:
    """What is made of the day: cubes, exports."""


def materialise(asset: Any, resource: LakeOfTest, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [asset, downstream],
        partition_key=DAY,
        resources={"lake": resource},
        instance=instance,
        raise_on_error=False,
    )


def made(result: dg.ExecuteInProcessResult) -> set[str]:
    return {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()}


def write(spool: Spool, run: str, *events: Any) -> None:
    with spool.open_run(run) as writer:
        writer.append(list(events))


def test_a_bad_event_is_kept_out_and_a_repaired_day_published(
    usage_daily: Any, resource: LakeOfTest, spool: Spool, lake: Lake, instance: dg.DagsterInstance
) -> None:
    write(spool, "good", make_event("good", cost_nano=7, price="p@1"))
    first = materialise(usage_daily, resource, instance)
    assert first.success
    assert made(first) == {"usage_daily", "downstream"}
    before = lake.usage.manifest(DAY)

    write(spool, "bad", make_event("bad", cost_nano=5, price="p@1", tokens_in=-1, event_id="planted"))
    second = materialise(usage_daily, resource, instance)
    assert not second.success
    assert made(second) == set()  # what depends on the day was not made of half of it
    assert lake.usage.manifest(DAY) == before
    checks = {one.check_name: one for one in second.get_asset_check_evaluations()}
    assert checks.keys() == CHECKS.keys()
    assert [name for name, one in checks.items() if not one.passed and one.severity == ERROR] == ["ranges"]
    metadata = checks["ranges"].metadata
    assert metadata["day"].value == DAY
    assert metadata["facts"].records[0].data == {
        "rule": "tokens_in column_min_to_be_between",
        "expected": "min_value: 0",
        "found": "-1",
        "passed": "no",
    }
    kept = read_quarantine(lake, DAY)
    assert kept is not None
    assert [one["name"] for one in kept["outcomes"] if not one["passed"]] == ["ranges", "references"]
    (path,) = spool.folder.glob("bad.*.ndjson")  # the spool lost nothing

    path.write_text(path.read_text().replace('"tokens_in":-1', '"tokens_in":1'))
    third = materialise(usage_daily, resource, instance)
    assert third.success
    after = lake.usage.manifest(DAY)
    assert after is not None
    assert (after.rows, after.sum_nano) == (2, 12)
    assert read_quarantine(lake, DAY) is None
    assert not list(spool.folder.glob("*.ndjson"))


def test_an_expectation_of_the_operator_blocks(
    usage_daily: Any,
    resource: LakeOfTest,
    spool: Spool,
    lake: Lake,
    instance: dg.DagsterInstance,
    project: Path,
) -> None:
    (project / "resources/expectations.yaml").write_text(
        "expectations:\n"
        "  - type: expect_column_distinct_values_to_be_in_set\n"
        "    kwargs: {column: env, value_set: [prod]}\n"
    )
    write(spool, "run", make_event("run", cost_nano=7, price="p@1"))
    result = materialise(usage_daily, resource, instance)
    assert not result.success
    assert lake.usage.days() == ()
    found = [one for one in result.get_asset_check_evaluations() if not one.passed]
    assert "project_expectations" in {one.check_name for one in found}
    assert "env column_distinct_values_to_be_in_set: expected value_set: prod, found dev" in {
        one.description for one in found
    }
    reasons = json.dumps(read_quarantine(lake, DAY))
    assert "value_set: prod" in reasons
