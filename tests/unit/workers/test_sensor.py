from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from maestro_dagster.events.hook import install_hook
from maestro_dagster.project.intake import open_inbox
from maestro_dagster.project.load import load_project
from maestro_dagster.project.root import Project, find_project
from maestro_dagster.project.scaffold import init_project
from maestro_dagster.project.services import open_engine
from maestro_dagster.workers.guard import LoopGuard
from maestro_dagster.workers.instance import open_instance

FLOW = """\
name: on-push
version: 1.0.0
on: [push]
tasks:
  - {id: hello, uses: pkg:text/template@1.0.0, with: {template: "${{ git.branch }}"}}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    init_project(tmp_path / "shop")
    for path in (tmp_path / "shop/assets").glob("*.yaml"):
        path.unlink()
    (tmp_path / "shop/assets/on-push.yaml").write_text(FLOW)
    monkeypatch.chdir(tmp_path / "shop")
    return find_project()


def push(folder: Path, inbox: Path) -> None:
    bare, work = folder / "lib.git", folder / "lib"
    for command in (
        ["init", "--quiet", "--bare", "--initial-branch=main", str(bare)],
        ["init", "--quiet", "--initial-branch=main", str(work)],
        [
            "-C",
            str(work),
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b.cd",
            "commit",
            "-q",
            "--allow-empty",
            "-mx",
        ],
    ):
        subprocess.run(["git", *command], check=True, capture_output=True)
    install_hook(bare, inbox)
    subprocess.run(
        ["git", "-C", str(work), "push", "--quiet", str(bare), "main"], check=True, capture_output=True
    )


def test_the_sensor_asks_for_each_pushed_run_and_a_stock_job_runs_it(
    project: Project, tmp_path: Path
) -> None:
    definitions = load_project(project)
    repository = definitions.get_repository_def()
    sensor = repository.get_sensor_def("git_push")
    push(tmp_path, project.inbox)
    with open_instance(project.home) as instance:
        context = dg.build_sensor_context(instance=instance, repository_def=repository)
        with LoopGuard(project.home):
            assert "maestro dev" in (sensor.evaluate_tick(context).skip_message or "")
        (request,) = sensor.evaluate_tick(context).run_requests
        assert request.job_name == "on__push"
        assert request.partition_key == "lib@refs/heads/main"
        assert request.run_key == request.tags["maestro/run_id"]
        assert len(sensor.evaluate_tick(context).run_requests) == 1, "until it runs, under the same key"
        job = definitions.resolve_job_def("on__push")
        result = job.execute_in_process(
            instance=instance,
            partition_key=request.partition_key,
            tags=dict(request.tags),
            raise_on_error=False,
        )
        assert result.success
        assert sensor.evaluate_tick(context).run_requests == []
        found = instance.get_latest_materialization_event(dg.AssetKey(["on-push", "hello"]))
        assert found is not None
        assert found.asset_materialization is not None
        assert found.asset_materialization.metadata["preview"].value == "main"
        assert found.asset_materialization.metadata["maestro/run_id"].value == request.run_key


def test_two_sensors_share_the_inbox_and_ask_for_each_run_once(project: Project, tmp_path: Path) -> None:
    (project.root / "assets/on-push.yaml").write_text(
        FLOW.replace("on: [push]", "on: [push, {pr: {labels: [go]}}]")
    )
    definitions = load_project(project)
    repository = definitions.get_repository_def()
    push(tmp_path, project.inbox)
    inbox = open_inbox(project)
    (pushed,) = inbox.ingest()
    told = {
        "action": "opened",
        "number": 7,
        "base_ref": "main",
        "fork": False,
        "labels": ["go"],
        "actor": "eve",
    }
    request = replace(pushed, event_id="webhook-0001", source="webhook", kind="pr", facts=told)
    row = {"name": "lib", "forge": "github", "repository": "acme/lib", "clone": request.repository}
    forges = {"repositories": [{**row, "secrets": ["LIB"]}]}
    (project.root / "resources/forges.yaml").write_text(json.dumps(forges))
    assert inbox.accept([request]) == (True,)
    inbox.close()
    with open_instance(project.home) as instance:
        context = dg.build_sensor_context(instance=instance, repository_def=repository)
        asked = {
            name: repository.get_sensor_def(name).evaluate_tick(context).run_requests
            for name in ("ci_event", "git_push", "ci_event")
        }
    assert [each.partition_key for each in asked["ci_event"] or ()] == ["lib@pr/7"]
    assert [each.partition_key for each in asked["git_push"] or ()] == ["lib@refs/heads/main"]
    (key,) = [each.run_key for each in asked["ci_event"] or ()]
    view = open_engine(project).view(str(key))
    assert (view.cause, view.git["event"], view.git["number"]) == ("event", "pr", "7")
