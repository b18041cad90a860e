from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from maestro_dagster.errors import ManifestError
from maestro_dagster.project.load import load_project
from maestro_dagster.project.root import open_project

CODE = """\
import dagster as dg


class Greeter(dg.ConfigurableResource):
    word: str = "hello"


greeter = Greeter()
_private = Greeter()


@dg.asset
def handwritten(greeter: Greeter) -> str:
    return greeter.word


@dg.asset_check(asset=handwritten)
def is_short() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


nightly = dg.define_asset_job("nightly", selection="handwritten")
at_night = dg.ScheduleDefinition(job=nightly, cron_schedule="0 3 * * *")


@dg.sensor(job=nightly)
def watch() -> dg.SkipReason:
    return dg.SkipReason("nothing")
"""


def test_flows_and_python_files_become_one_location(root: Path) -> None:
    (root / "assets" / "code.py").write_text(CODE)
    definitions = load_project(open_project(root))
    repository = definitions.get_repository_def()
    keys = {"/".join(key.path) for key in repository.asset_graph.get_all_asset_keys()}
    assert {"first/one", "first/evidence", "handwritten"} <= keys
    assert {"first", "nightly"} <= set(repository.job_names)
    assert [sensor.name for sensor in repository.sensor_defs] == ["watch"]
    assert len(repository.schedule_defs) == 1
    assert list(definitions.resources or {}) == ["greeter"]
    check = dg.AssetCheckKey(dg.AssetKey("handwritten"), "is_short")
    assert check in repository.asset_graph.asset_check_keys


def test_a_broken_flow_is_not_left_out_silently(root: Path) -> None:
    (root / "assets" / "bad.yaml").write_text("name: x\n")
    with pytest.raises(ManifestError):
        load_project(open_project(root))


def test_the_repository_is_its_own_first_project(repository: Path) -> None:
    assert load_project(open_project(repository)).get_repository_def().job_names
