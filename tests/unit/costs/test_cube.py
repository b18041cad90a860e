"""Cubes of real days: exact, known to be stale, and the same after retention."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest
from costs_support import DAY, make_event

from maestro_dagster.costs.compact import compact_day
from maestro_dagster.costs.cube import CUBES, SUMS, build_cubes, cube_schema, stale_days
from maestro_dagster.costs.interface import UsageEvent
from maestro_dagster.costs.lake import Lake, open_lake
from maestro_dagster.costs.question import answer
from maestro_dagster.costs.removal import remove_rows
from maestro_dagster.costs.schema import COUNTS
from maestro_dagster.costs.spool import Spool
from maestro_dagster.errors import CostError
from maestro_dagster.translate.resource import LakeResource

NEXT = "2026-03-02"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return open_lake(tmp_path / "lake")


def usage_data(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_usage_data", repository / "bench" / "usage_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def put(spool: Spool, *events: UsageEvent) -> None:
    with spool.open_run(events[0].run_id) as writer:
        writer.append(events)


def publish(spool: Spool, lake: Lake, *events: UsageEvent) -> None:
    put(spool, *events)
    for day in sorted({event.occurred_at[:10] for event in events}):
        compact_day(spool, lake, day, lambda _: True)


def rows(lake: Lake, name: str, day: str = DAY) -> list[dict[str, Any]]:
    table = lake.table(name).read_day(day)
    assert table is not None
    return list(table.to_pylist())


def test_every_cube_adds_up_to_the_usage_of_a_busy_day(repository: Path, lake: Lake) -> None:
    table = usage_data(repository).make_day(DAY, 20_000, seed=5)
    with lake.usage.lock_day(DAY):
        manifest = lake.usage.write_day(DAY, table)
    report = build_cubes(lake, DAY)
    assert report.balanced
    assert (report.events, report.sum_nano, report.unknown) == (20_000, manifest.sum_nano, manifest.unknown)
    assert all(cube.rebuilt for cube in report.cubes)
    events = table.to_pylist()
    for name, grain in CUBES.items():
        wanted: dict[tuple[Any, ...], list[Any]] = {}
        for event in events:
            event["retry"] = event["attempt"] > 1
            sums = wanted.setdefault(tuple(event[column] for column in grain), [0] * len(SUMS))
            unknown = event["cost_usd"] is None
            values = (1, int(unknown), event["cost_usd"] or Decimal(0), *(event[count] for count in COUNTS))
            sums[:] = [old + new for old, new in zip(sums, values, strict=True)]
        found = {
            tuple(row[column] for column in grain): [row[column] or 0 for column in SUMS]
            for row in rows(lake, name)
        }
        assert found == wanted
        cube = lake.table(name).read_day(DAY)
        assert cube is not None
        assert cube.schema.equals(cube_schema(name))


def test_what_has_no_price_is_null_and_counted(spool: Spool, lake: Lake) -> None:
    publish(
        spool, lake,
        make_event(model="a", cost_nano=None), make_event(model="b", cost_nano=None),
        make_event(model="b", cost_nano=7), make_event(model="c", cost_nano=0),
    )  # fmt: skip
    build_cubes(lake, DAY)
    found = {
        row["model"]: (row["cost_usd"], row["events"], row["unknown"]) for row in rows(lake, "cube_day_model")
    }
    assert found == {"a": (None, 1, 1), "b": (Decimal("7E-9"), 2, 1), "c": (Decimal(0), 1, 0)}


def test_a_late_event_makes_its_day_stale_and_only_that_is_rebuilt(spool: Spool, lake: Lake) -> None:
    late = f"{NEXT}T00:00:00.000000Z"
    publish(spool, lake, make_event(cost_nano=1), make_event(cost_nano=1, occurred_at=late))
    assert stale_days(lake) == (DAY, NEXT)
    for day in stale_days(lake):
        build_cubes(lake, day)
    assert stale_days(lake) == ()
    untouched = lake.table("cube_day_model").manifest(NEXT)
    assert not any(cube.rebuilt for cube in build_cubes(lake, DAY).cubes)

    publish(spool, lake, make_event("late", cost_nano=5))
    assert stale_days(lake) == (DAY,)
    assert answer(lake, None, lambda costs: costs.total()).nano == 7  # added up from the usage meanwhile
    report = build_cubes(lake, DAY)
    assert all(cube.rebuilt for cube in report.cubes)
    assert (report.sum_nano, report.balanced) == (6, True)
    assert lake.table("cube_day_model").manifest(NEXT) == untouched
    assert stale_days(lake, since=NEXT) == ()


def test_a_cube_that_does_not_add_up_is_refused(
    spool: Spool, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(spool, lake, make_event(cost_nano=1))
    build_cubes(lake, DAY)
    before = lake.table("cube_day_model").manifest(DAY)
    publish(spool, lake, make_event(cost_nano=2))
    manifest = lake.usage.manifest(DAY)
    assert manifest is not None
    wrong = dataclasses.replace(manifest, sum_nano=4)
    monkeypatch.setattr(lake.usage, "manifest", lambda _: wrong)
    with pytest.raises(CostError) as caught:
        build_cubes(lake, DAY)
    assert caught.value.error_code == "cube-unbalanced"
    assert "0.000000003 USD" in caught.value.fact
    assert lake.table("cube_day_model").manifest(DAY) == before


def test_counts_that_would_overflow_are_refused(spool: Spool, lake: Lake) -> None:
    publish(spool, lake, *(make_event(cost_nano=1, tokens_in=2**62) for _ in range(2)))
    with pytest.raises(CostError, match="too large"):
        build_cubes(lake, DAY)


def test_a_day_without_usage_has_no_cubes(lake: Lake) -> None:
    report = build_cubes(lake, DAY)
    assert (report.cubes, report.events, report.source, report.balanced) == ((), 0, "", True)
    assert lake.table("cube_day_tenant").days() == ()


class NoJournal:
    """Where a removal's proof would go."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "removals.jsonl"

    def newest(self) -> str:
        return ""

    def append(self, statement: Any, sign: Any) -> str:
        return ""


def test_what_retention_removed_stays_in_the_cubes(spool: Spool, lake: Lake, tmp_path: Path) -> None:
    import pyarrow.compute as pc

    publish(
        spool, lake,
        make_event("old", cost_nano=3, model="m", provider="p", tokens_in=5, attempt=2),
        make_event("old", cost_nano=None, model="gone"), make_event("kept", cost_nano=4),
    )  # fmt: skip
    build_cubes(lake, DAY)
    before = {name: rows(lake, name) for name in CUBES}
    with lake.usage.lock_day(DAY):
        table = lake.usage.read_day(DAY)
        assert table is not None
        going = pc.equal(table.column("run_id"), "old")
        remove_rows(lake, DAY, table, going, NoJournal(tmp_path), None, {})  # type: ignore[arg-type]
    assert stale_days(lake) == (DAY,)
    # A stale day is added up from what is left and what was removed: the question gets the same answer.
    total = answer(lake, None, lambda costs: costs.total())
    assert (total.nano, total.events, total.unknown, total.counts["tokens_in"]) == (7, 3, 1, 5)
    report = build_cubes(lake, DAY)
    assert report.balanced
    assert (report.events, report.retired_events) == (3, 2)
    assert {name: rows(lake, name) for name in CUBES} == before
    publish(spool, lake, make_event("late", cost_nano=10))
    assert build_cubes(lake, DAY).sum_nano == 17
    assert answer(lake, spool, lambda costs: costs.total()).nano == 17


class LakeOfTest(LakeResource):
    """Where the spool is, without an engine around it."""

    spool_folder: str

    def spool(self) -> Spool:
        return Spool(Path(self.spool_folder))


def load(repository: Path, name: str) -> Any:
    path = repository / name
    spec = importlib.util.spec_from_file_location(f"shipped_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_assets_show_the_cubes_and_the_month(
    repository: Path, spool: Spool, lake: Lake, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    today = now.date().isoformat()
    publish(
        spool,
        lake,
        make_event(cost_nano=3, provider="p", model="m", occurred_at=f"{now:%Y-%m-%dT00:00:00.000000Z}"),
    )
    put(
        spool,
        make_event("fresh", cost_nano=4, outcome="failed", occurred_at=f"{now:%Y-%m-%dT00:00:01.000000Z}"),
    )
    resource = LakeOfTest(folder=str(tmp_path / "lake"), spool_folder=str(spool.folder))
    cubes = load(repository, "assets/usage_cubes.py").usage_cubes
    month = load(repository, "assets/cost_report.py").cost_report
    with dg.DagsterInstance.ephemeral() as instance:
        first = dg.materialize([cubes], partition_key=today, resources={"lake": resource}, instance=instance)
        second = dg.materialize([month], resources={"lake": resource}, instance=instance)
    assert first.success
    assert second.success
    (check,) = first.get_asset_check_evaluations()
    assert (check.check_name, check.passed, check.blocking) == ("usage_equals_cubes", True, True)
    told = metadata(first)
    assert (told["sum_usd"], told["events"], told["rebuilt"]) == ("0.000000003", 1, 3)
    assert told["models"].startswith("![cost by model](data:image/svg+xml;base64,")
    told = metadata(second)
    assert (told["month_to_date"], told["failures"]) == ("0.000000007 USD", "0.000000004 USD")
    assert told["month_to_date_usd"] == pytest.approx(7e-9)
    assert [record.data["usd"] for record in told["by_flow"]] == ["0.000000007"]
    assert stale_days(lake) == ()


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.get_asset_materialization_events()
    return {
        name: value.records if isinstance(value, dg.TableMetadataValue) else value.value
        for name, value in event.materialization.metadata.items()
    }


def test_the_sensor_asks_for_each_stale_day_once(
    repository: Path, spool: Spool, lake: Lake, tmp_path: Path
) -> None:
    publish(spool, lake, make_event(cost_nano=3))
    resource = LakeOfTest(folder=str(tmp_path / "lake"), spool_folder=str(spool.folder))
    sensor = load(repository, "sensors/usage_cubes.py").usage_cubes_sensor
    definitions = dg.Definitions(
        assets=[
            load(repository, "assets/usage_cubes.py").usage_cubes,
            load(repository, "assets/cost_report.py").cost_report,
        ],
        sensors=[sensor := load(repository, "sensors/usage_cubes.py").usage_cubes_sensor],
        schedules=[load(repository, "sensors/cost_report.py").cost_report_schedule],
        resources={"lake": resource},
    )
    found = definitions.get_repository_def()
    assert found.has_schedule_def("cost_report_schedule")
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance, repository_def=found, resources={"lake": resource})
        (request,) = sensor.evaluate_tick(context).run_requests
        assert request.partition_key == DAY
        build_cubes(lake, DAY)
        assert not sensor.evaluate_tick(context).run_requests
