"""The shipped export assets, materialised by Dagster on a lake of their own."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from costs_support import DAY, make_event

from maestro_dagster.costs.frame import frame_events, table_of
from maestro_dagster.costs.lake import Lake, open_lake
from maestro_dagster.evidence.key import load_signer, make_key
from maestro_dagster.evidence.trust import KeyTrust
from maestro_dagster.project.export import verify_export
from maestro_dagster.translate.resource import LakeResource, SignerResource


class _Home:
    def __init__(self, home: Path) -> None:
        self.home = home


class LakeOfTest(LakeResource):
    home: str

    def open_runtime(self) -> Any:
        return _Home(Path(self.home))


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.chdir(tmp_path)  # no project here: no webhook is set
    make_key(tmp_path / "keys")
    found = open_lake(tmp_path / "lake")
    for number, day in enumerate((DAY, "2026-03-31", "2026-04-01")):
        events = [
            make_event(event_id=f"{number}{cost}", cost_nano=cost, occurred_at=f"{day}T10:00:00.000000Z")
            for cost in (1, 2, None)
        ]
        with found.usage.lock_day(day):
            found.usage.write_day(day, table_of(frame_events(events)))
    return found


def run(repository: Path, tmp_path: Path, name: str, partition: str) -> dg.ExecuteInProcessResult:
    spec = importlib.util.spec_from_file_location("shipped_export", repository / "assets" / "usage_export.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    resources = {
        "lake": LakeOfTest(folder=str(tmp_path / "lake"), home=str(tmp_path)),
        "signer": SignerResource(folder=str(tmp_path / "keys")),
    }
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(
            [getattr(module, name)],
            partition_key=partition,
            resources=resources,
            instance=instance,
            raise_on_error=False,
        )


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("usage_export_csv", f"csv/day={DAY}/usage.csv"),
        ("usage_export_parquet", f"parquet/day={DAY}/usage.parquet"),
        ("usage_export_focus", f"focus/day={DAY}/focus.parquet"),
        ("usage_export_focus_month", "focus/month=2026-03/focus.parquet"),
    ],
)
def test_each_export_is_written_signed_and_checked(
    name: str, file: str, repository: Path, tmp_path: Path, lake: Lake
) -> None:
    monthly = name.endswith("month")
    result = run(repository, tmp_path, name, DAY)
    assert result.success
    (made,) = result.asset_materializations_for_node(name)
    told = {key: entry.value for key, entry in made.metadata.items()}
    assert (told["sum_usd"], told["events_without_price"]) == (
        ("0.000000006", 2) if monthly else ("0.000000003", 1)
    )
    assert told["webhook"].startswith("not told: there is no Maestro project")
    path = tmp_path / "exports" / file
    assert (told["path"], told["signed_statement"]) == (f"exports/{file}", f"{path.name}.sigstore.json")
    (check,) = result.get_asset_check_evaluations()
    assert (check.passed, check.blocking) == (True, True)
    bundle = Path(f"{path}.sigstore.json").read_bytes()
    trust = KeyTrust([load_signer(tmp_path / "keys").public_pem])
    report, statement = verify_export(bundle, path, trust)
    assert report.ok
    assert statement is not None
    assert [source.digest for source in statement.sources] == [
        f"sha256:{manifest.sha256}"
        for day in ((DAY, "2026-03-31") if monthly else (DAY,))
        if (manifest := lake.usage.manifest(day))
    ]


def test_a_lake_that_says_another_sum_fails_the_check(repository: Path, tmp_path: Path, lake: Lake) -> None:
    place = tmp_path / "lake" / "usage_daily" / f"day={DAY}" / "manifest.json"
    value = json.loads(place.read_text())
    place.write_text(json.dumps(value | {"sum_nano": value["sum_nano"] + 1}))
    result = run(repository, tmp_path, "usage_export_csv", DAY)
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed
    assert not result.success


@pytest.mark.usefixtures("lake")
def test_a_day_without_usage_is_an_empty_file(repository: Path, tmp_path: Path) -> None:
    result = run(repository, tmp_path, "usage_export_csv", "2026-05-01")
    assert result.success
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["dagster/row_count"].value == 0
